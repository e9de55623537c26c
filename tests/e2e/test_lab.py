"""The laboratory in Chromium: real runs on the simulated engine, compared, shared, exported."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from tests.e2e.process import command

try:
    from playwright.async_api import (
        Browser,
        BrowserContext,
        Locator,
        Page,
        Request,
        Route,
        expect,
    )

    from tests.e2e.browser import CHROMIUM, Tab, browser, until
except ImportError:
    pytest.skip("needs Playwright: pip install playwright", allow_module_level=True)
if CHROMIUM is None or not os.path.exists(CHROMIUM):
    pytest.skip("needs Chromium: as 'chromium', or $CHROMIUM", allow_module_level=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")

SMALL = "loop=closed&concurrency=4&until=requests&requests=12&prompt=40&output=16"
SPEED = "4"
MODES = ["ws", "sse", "sync", "poll"]


class Lab(Tab):
    """A tab with the laboratory."""

    async def visit(self, fragment: str) -> None:
        """Load the page, and wait until it knows the server's settings."""
        await self.page.goto(f"{self.url}lab#{fragment}")
        await expect(self.page.locator("#server-note")).not_to_be_empty()

    def field(self, name: str) -> Locator:
        return self.page.locator(f"#form [name={name}]")

    async def runs(self) -> list[dict[str, Any]]:
        """The runs that the browser keeps."""
        text = await self.page.evaluate("() => localStorage['hub.lab.runs'] ?? '{\"runs\": []}'")
        runs: list[dict[str, Any]] = orjson.loads(text)["runs"]
        return runs

    async def run(self) -> dict[str, Any]:
        """Press Run, wait for the end; the run as it is kept."""
        before = len(await self.runs())
        await self.page.locator("#run").click()
        await self.idle()
        await expect(self.page.locator("#complaint")).to_be_hidden()
        runs = await self.runs()
        assert len(runs) == before + 1
        return runs[-1]

    async def idle(self) -> None:
        await expect(self.page.locator("body[data-state=idle]")).to_be_visible(timeout=30_000)

    def cells(self, figure: str) -> Locator:
        """The cells of the comparison with a figure."""
        return self.page.locator(f"#runs td[data-figure={figure}]")


Open = Callable[..., Awaitable[Lab]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    """A hub whose settings the laboratory may change."""
    async with command("serve", "--port", "0", "--sim", "--sim-speed", SPEED, "--lab") as hub:
        yield hub.url


@pytest_asyncio.fixture(loop_scope="module")
async def open_lab(chromium: Browser, url: str) -> AsyncIterator[Open]:
    """Open the laboratory. Whatever the test does, no tab asks anybody but hub, and none
    complains."""
    labs: list[Lab] = []
    contexts: list[BrowserContext] = []

    async def open_lab(at: str = url, *, fragment: str = SMALL, **options: Any) -> Lab:
        context = await chromium.new_context(**options)
        contexts.append(context)
        lab = Lab(await context.new_page(), f"{at}/")
        await lab.visit(fragment)
        labs.append(lab)
        return lab

    yield open_lab
    for context in contexts:
        await context.close()
    for lab in labs:
        assert lab.foreign == []
        assert lab.complaints == []


async def settings_of(url: str) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/lab/settings") as answer,
    ):
        settings: dict[str, Any] = await answer.json()
        return settings


# Measuring.


@pytest.mark.parametrize("mode", MODES)
async def test_a_run_measures_what_the_browser_sees(open_lab: Open, mode: str) -> None:
    lab = await open_lab(fragment=f"{SMALL}&mode={mode}")
    run = await lab.run()
    results = run["results"]
    assert run["errors"] == {}
    assert (results["sent"], results["completed"], results["failed"]) == (12, 12, 0)
    assert 0 < results["ttft_p50"] <= results["ttft_p99"] < 10_000
    assert results["ttft_p50"] <= results["e2e_p50"]
    assert 1 < results["tokens_per_answer"] <= 16
    assert results["tokens_per_second"] > 1
    assert results["batch_mean"] >= 1
    assert len(run["samples"]) == 12
    assert all(0 < ttft <= total for _, ttft, total in run["samples"])
    if mode == "sync":
        assert results["itl_p50"] is None
        assert results["gap_p99"] is None
        assert results["ttft_p50"] == results["e2e_p50"]
    else:
        assert results["altered"] == 0
    if mode in ("ws", "sse"):
        assert 0 < results["itl_p50"] < 1000
        assert 0 < results["gap_p50"] <= results["gap_p99"] <= results["gap_max"]
    await expect(lab.page.locator("#tile-ttft")).to_have_text(re.compile(r"[\d.]+ m?s"))
    await expect(lab.page.locator("#done")).to_have_text("12 of 12 completed")
    await expect(lab.page.locator("#charts circle.this")).to_have_count(12)


async def test_what_was_made_in_the_background_is_deleted(open_lab: Open) -> None:
    lab = await open_lab(fragment=f"{SMALL}&mode=poll&requests=2")
    polled: set[str] = set()

    def note(request: Request) -> None:
        if "/v1/responses/resp_" in request.url:
            polled.add(request.url)

    lab.page.on("request", note)
    await lab.run()
    assert len(polled) == 2

    async def gone() -> bool:
        async with aiohttp.ClientSession() as session:
            return all([(await session.get(one)).status == 404 for one in polled])

    await until(gone)


async def test_lanes_take_as_many_connections_as_they_need(open_lab: Open) -> None:
    lab = await open_lab(fragment=f"{SMALL}&concurrency=40&requests=80")
    run = await lab.run()
    assert run["results"]["completed"] == 80
    assert lab.connections >= 3
    creates = lab.sent("response.create")
    assert len(creates) == 80
    assert all(frame["store"] is False for frame in creates)
    assert len({frame["input"] for frame in creates}) == 80


async def test_an_open_loop_sends_when_it_is_due(open_lab: Open) -> None:
    fragment = "loop=open&rate=20&arrivals=even&until=seconds&seconds=2&prompt=40&output=8"
    lab = await open_lab(fragment=fragment)
    run = await lab.run()
    assert run["results"]["completed"] == 40
    dues = [due for due, _, _ in run["samples"]]
    assert sorted(dues) == pytest.approx([50 * n for n in range(40)], abs=20)


async def test_a_stopped_run_keeps_what_it_has(open_lab: Open) -> None:
    lab = await open_lab(fragment=f"{SMALL}&until=seconds&seconds=300&output=400")
    await lab.page.locator("#run").click()
    await expect(lab.page.locator("#charts circle.this").nth(8)).to_be_attached(timeout=20_000)
    await lab.page.locator("#stop").click()
    await lab.idle()
    [run] = await lab.runs()
    assert run["stopped"]
    assert run["results"]["completed"] >= 1
    assert run["results"]["failed"] == 0
    await expect(lab.page.locator("#runs")).to_contain_text("stopped")


async def test_a_run_in_which_nothing_ended_is_not_kept(open_lab: Open) -> None:
    lab = await open_lab(fragment=f"{SMALL}&mode=sync")

    async def never(route: Route) -> None:
        asked.set()

    asked = asyncio.Event()
    await lab.page.route("**/v1/responses", never)
    await lab.page.locator("#run").click()
    await asked.wait()
    await lab.page.keyboard.press("Escape")
    await lab.idle()
    assert await lab.runs() == []
    await expect(lab.page.locator("#shown")).to_have_text("No run yet")
    await lab.page.unroute_all(behavior="ignoreErrors")


async def test_failures_are_counted_and_named(open_lab: Open) -> None:
    async with command("serve", "--port", "0", "--sim", "--sim-faults") as hub:
        lab = await open_lab(hub.url, fragment=f"{SMALL}&requests=4&model=sim%2Berror%3D3")
        run = await lab.run()
        assert run["results"]["completed"] == 0
        assert run["results"]["failed"] == 4
        assert run["results"]["ttft_p50"] is None
        assert list(run["errors"].values()) == [4]
        await expect(lab.page.locator("#tile-ttft")).to_have_text("\N{EN DASH}")


async def test_the_ledger_is_shown_where_there_is_one(open_lab: Open) -> None:
    lab = await open_lab(fragment=f"{SMALL}&mode=sync&requests=1")
    ledger = {
        "received": 0,
        "queued": 0.2,
        "dispatched": 3.5,
        "connected": 4,
        "first_byte": 20,
        "first_token": 21.5,
        "first_written": 22.5,
        "last_token": 60,
        "<b>other</b>": 61,
    }
    pauses = {"count": 20, "total": 320, "longest": [[25.0, 8.5], [40.0, 12.0]]}
    batch = {"batch_size": 2, "reason": "timer", "upstream": "<i>gpu</i>"}

    async def with_ledger(route: Route) -> None:
        answer = await route.fetch()
        body = {**await answer.json(), "hub": {**batch, "ledger_ms": ledger, "pauses_ms": pauses}}
        await route.fulfill(response=answer, json=body)

    await lab.page.route("**/v1/responses", with_ledger)
    run = await lab.run()
    assert run["timelines"]["median"]["server"] == ledger
    assert run["timelines"]["median"]["pauses"] == pauses
    timeline = lab.page.locator("#timeline")
    await expect(timeline.locator("rect.server")).to_have_count(9)
    await expect(timeline.locator("rect.pause")).to_have_count(2)
    await expect(timeline.locator("tr", has_text="handing it")).to_contain_text("1.0 ms")
    await expect(timeline.locator("tr", has_text="a pause")).to_contain_text(["8.5 ms", "12.0 ms"])
    await expect(timeline).to_contain_text("paused 20 times, for 320 ms in all")
    await expect(timeline.locator("tr", has_text="in the queue")).to_contain_text("3.3 ms")
    await expect(timeline).to_contain_text("<b>other</b>")
    await expect(timeline).to_contain_text("a batch of 2 (timer), for <i>gpu</i>.")


# Comparing and sharing.


async def test_two_runs_are_compared(open_lab: Open, url: str) -> None:
    load = "loop=open&rate=30&until=seconds&seconds=3&prompt=40&output=48"
    lab = await open_lab(fragment=f"{load}&batch=8&flush=0")
    await lab.run()
    await lab.field("flush").fill("300")
    second = await lab.run()
    assert second["settings"]["flush"] == 300
    assert (await settings_of(url))["flush_interval_ms"] == 300
    assert second["batches"]["reasons"].keys() & {"timer", "full"}
    assert second["results"]["batch_mean"] > 1
    cells = lab.cells("ttft_p50")
    await expect(cells).to_have_count(2)
    await expect(cells.nth(0).locator(".delta")).to_have_count(0)
    await expect(cells.nth(1).locator(".delta")).to_have_text(
        re.compile(r"^(\+\d+ %|\S \d+) worse$")
    )
    await expect(lab.page.locator("tr.differs th")).to_have_text(["Flush interval"])
    await expect(lab.page.locator("#charts circle.base").first).to_be_attached()
    # The other one as the base: the difference turns around.
    await lab.page.get_by_role("radio", name="Compare with Run 2").check()
    await expect(cells.nth(0).locator(".delta")).to_have_text(re.compile(r"^\S\d+ % better$"))
    # They are still there after a reload, and go when they are deleted.
    await lab.page.reload()
    await expect(cells).to_have_count(2)
    await lab.page.get_by_role("button", name="Delete Run 1").click()
    await expect(cells).to_have_count(1)


async def test_a_link_fills_the_form_and_starts_nothing(open_lab: Open, url: str) -> None:
    lab = await open_lab()
    await lab.field("mode").select_option("sse")
    await lab.field("loop").select_option("open")
    await lab.field("rate").fill("7.5")
    await lab.field("class").select_option("completion")
    await lab.field("flush").fill("250")
    link: str = await lab.page.evaluate("() => location.href")
    before = await settings_of(url)
    other = await open_lab(fragment=link.partition("#")[2])
    for name, value in {
        "mode": "sse",
        "loop": "open",
        "rate": "7.5",
        "class": "completion",
        "output": "16",
        "flush": "250",
    }.items():
        await expect(other.field(name)).to_have_value(value)
    await expect(other.page.locator("body")).to_have_attribute("data-state", "idle")
    assert await other.runs() == []
    assert await settings_of(url) == before
    # What is wrong in a link is not taken.
    wrong = await open_lab(fragment="mode=<b>&rate=-1&output=16&__proto__=1&concurrency=1e9")
    await expect(wrong.field("mode")).to_have_value("ws")
    await expect(wrong.field("rate")).to_have_value("4")
    await expect(wrong.field("output")).to_have_value("16")


async def test_the_export_is_json_with_everything(open_lab: Open) -> None:
    lab = await open_lab()
    run = await lab.run()
    async with lab.page.expect_download() as download:
        await lab.page.locator("#export").click()
    file = await download.value
    assert file.suggested_filename == "hub-lab.json"
    exported = orjson.loads(await asyncio.to_thread((await file.path()).read_bytes))
    assert exported["format"] == "hub-lab"
    assert exported["runs"] == [run]
    assert exported["runs"][0]["settings"]["requests"] == 12


async def test_runs_are_bounded_and_what_is_broken_is_left_out(open_lab: Open) -> None:
    lab = await open_lab(fragment=f"{SMALL}&requests=1&output=2")
    run = await lab.run()
    await lab.page.evaluate(
        """(run) => localStorage.setItem('hub.lab.runs', JSON.stringify({ runs: [
            { id: 'broken' }, null,
            ...Array.from({ length: 12 }, (_, i) => ({ ...run, id: `copy-${i}`, number: i + 1 })),
        ] }))""",
        run,
    )
    await lab.page.reload()
    await expect(lab.cells("ttft_p50")).to_have_count(12)
    await lab.page.locator("#run").click()
    await lab.idle()
    runs = await lab.runs()
    assert len(runs) == 12
    assert [runs[0]["id"], runs[1]["id"]] == ["copy-0", "copy-2"]  # the base stays


# The server's settings.


async def test_without_the_flag_the_settings_are_only_shown(open_lab: Open) -> None:
    async with command("serve", "--port", "0", "--sim", "--flush-interval", "40") as hub:
        lab = await open_lab(hub.url, fragment=f"{SMALL}&requests=2&flush=300")
        await expect(lab.field("flush")).to_have_value("40")
        await expect(lab.field("flush")).not_to_be_editable()
        await expect(lab.field("batch")).not_to_be_editable()
        await expect(lab.page.locator("#server-note")).to_contain_text("--lab")
        await expect(lab.page.locator("#server-note")).to_contain_text("asks for other values")
        run = await lab.run()
        assert run["settings"]["flush"] == 40
        assert (await settings_of(hub.url))["flush_interval_ms"] == 40


async def test_a_wrong_value_is_not_run(open_lab: Open, url: str) -> None:
    lab = await open_lab()
    await lab.field("flush").fill("-5")
    await lab.page.locator("#run").click()
    await expect(lab.page.locator("body")).to_have_attribute("data-state", "idle")
    await expect(lab.field("flush")).to_be_focused()
    assert await lab.runs() == []


# How it looks and feels.


async def test_the_keyboard_is_enough(open_lab: Open) -> None:
    lab = await open_lab()
    press = lab.page.keyboard.press
    await lab.field("concurrency").focus()
    await lab.page.keyboard.type("2")
    await press("Enter")
    await expect(lab.page.locator("body")).to_have_attribute("data-state", "running")
    await expect(lab.page.locator("#stop")).to_be_focused()
    await lab.idle()
    await expect(lab.page.locator("#run")).to_be_focused()
    await expect(lab.page.locator("#announcer")).to_contain_text("Run 1 has ended: 12 of 12")
    await lab.field("output").fill("2000")
    await press("Enter")
    await expect(lab.page.locator("body")).to_have_attribute("data-state", "running")
    await press("Escape")
    await lab.idle()
    # Everything that can be clicked can be reached, and every chart can be read as a table.
    name = "(element) => element.ariaLabel || element.title || element.name || element.innerText"
    things = lab.page.locator(":is(button, select, input:not([type=radio]), summary, a):visible")
    names = {await thing.evaluate(name) for thing in await things.all()}
    reached: set[str] = set()
    for _ in range(60):
        await press("Tab")
        reached.add(await lab.page.evaluate(f"() => ({name})(document.activeElement)"))
    assert names - reached <= {"Skip to the results"}
    summary = lab.page.locator("summary").first
    await summary.focus()
    await press("Enter")
    await expect(lab.page.locator("figure table").first.locator("tbody tr").first).to_be_visible()
    images = lab.page.locator("#charts svg")
    for image in await images.all():
        assert re.search(r": .*\d", await image.get_attribute("aria-label") or "")


@pytest.mark.parametrize("width", [320, 390])
async def test_nothing_is_wider_than_a_phone(open_lab: Open, width: int) -> None:
    lab = await open_lab(viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    assert await lab.fits()
    await lab.run()
    await lab.run()
    assert await lab.fits()
    await expect(lab.page.locator("#run")).to_be_in_viewport()
    await expect(lab.page.locator("#shown")).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_it_is_dark_where_the_reader_wants_that(open_lab: Open, scheme: str) -> None:
    lab = await open_lab(color_scheme=scheme)
    await lab.run()
    for ground, ink in (("body", "#tile-ttft"), ("figure", ".tick"), (".runs", ".runs td span")):
        pair = [await shade(lab.page, ground, "backgroundColor"), await shade(lab.page, ink, "")]
        assert (pair[0] < pair[1]) == (scheme == "dark"), (ground, ink, pair)
        assert abs(pair[0] - pair[1]) > 300, (ground, ink, pair)


async def shade(page: Page, selector: str, of: str) -> int:
    """How light an element's colour is, 0 to 765: its text's, or that of a property."""
    value: int = await page.evaluate(
        """([selector, of]) => {
            let element = document.querySelector(selector)
            const style = () => getComputedStyle(element)
            const text = () => (element.namespaceURI.endsWith('svg') ? style().fill : style().color)
            const clear = 'rgba(0, 0, 0, 0)'
            while (of && style()[of] === clear) element = element.parentElement
            const canvas = new OffscreenCanvas(1, 1).getContext('2d')
            canvas.fillStyle = of ? style()[of] : text()
            canvas.fillRect(0, 0, 1, 1)
            return canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).reduce((a, b) => a + b)
        }""",
        [selector, of],
    )
    return value


async def test_the_chats_page_leads_here_and_back(open_lab: Open) -> None:
    lab = await open_lab()
    await lab.page.locator(".back").click()
    await lab.connected()
    await lab.page.get_by_role("link", name="Laboratory").click()
    await expect(lab.page).to_have_title(re.compile("laboratory"))
