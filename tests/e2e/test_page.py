"""hub's page in Chromium: streaming, stopping, reloading, losing the network, several tabs."""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.e2e.process import command
from tests.engines import scripted
from tests.redis_server import needs_redis, running_redis

try:
    from playwright.async_api import Browser, BrowserContext, expect

    from tests.e2e.browser import CHROMIUM, Tab, browser, network, new_tab, squeezed, until
except ImportError:
    pytest.skip("needs Playwright: pip install playwright", allow_module_level=True)
if CHROMIUM is None or not os.path.exists(CHROMIUM):
    pytest.skip("needs Chromium: as 'chromium', or $CHROMIUM", allow_module_level=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "Question 3"
"""Its answer has 738 characters and takes seconds."""
LONG_TOO = "Question 26"
SHORT = "Question 10"


def said(*conversation: str) -> str:
    """What the simulated model answers to the last of prompts and answers in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(conversation)]
    return full_text(Generation(model="", messages=messages))


Open = Callable[..., Awaitable[Tab]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    async with command(
        "serve", "--port", "0", "--sim", "--sim-speed", "1.5", "--sim-faults"
    ) as hub:
        yield hub.url


@pytest_asyncio.fixture(loop_scope="module")
async def open_tab(chromium: Browser, url: str) -> AsyncIterator[Open]:
    """Open tabs, each in a browser of its own unless it is told beside which. Whatever the test
    does, no tab asks anybody but hub for anything, and none complains, unless it is ``troubled``
    by a network."""
    tabs: list[tuple[Tab, bool]] = []
    contexts: list[BrowserContext] = []

    async def open_tab(
        at: str = url, *, beside: Tab | None = None, troubled: bool = False, **options: Any
    ) -> Tab:
        if beside is None:
            context = await chromium.new_context(**options)
            contexts.append(context)
        else:
            context = beside.page.context
        tab = await new_tab(context, at)
        tabs.append((tab, troubled))
        return tab

    yield open_tab
    for context in contexts:
        await context.close()
    for tab, troubled in tabs:
        assert tab.foreign == []
        assert troubled or tab.complaints == []


async def stored(url: str, id: str) -> dict[str, Any]:
    """A response as hub keeps it."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/v1/responses/{id}") as answer,
    ):
        assert answer.status == 200
        response: dict[str, Any] = await answer.json()
        return response


def text_of(response: dict[str, Any]) -> str:
    parts = [part for item in response["output"] for part in item["content"]]
    return "".join(part["text"] for part in parts)


async def assert_whole(tab: Tab, url: str, text: str) -> None:
    """The last answer has exactly this text: on the page, in the browser's storage, and in hub."""
    answer = await tab.kept()
    assert answer["text"] == text
    assert await tab.shown() == squeezed(text)
    assert text_of(await stored(url, answer["responseId"])) == text


# Streaming.


async def test_two_chats_stream_at_the_same_time(open_tab: Open) -> None:
    tab = await open_tab()
    await tab.pane().locator(".duo").click()

    async def both() -> bool:
        lengths = [len(await tab.shown(index)) for index in (0, 1)]
        live = await tab.page.locator(".answer[data-status=live]").count()
        return live == 2 and min(lengths) > 20

    await until(both)
    for index in (0, 1):
        await tab.ended(index=index)
        prompt = await tab.pane(index).locator(".prompt").inner_text()
        assert await tab.shown(index) == squeezed(said(prompt))
        await expect(tab.pane(index).locator(".ttft dd")).to_have_text(re.compile(r"\d+ ms"))
        await expect(tab.pane(index).locator(".rate dd")).to_have_text(re.compile(r"[\d.]+ tok/s"))
    creates = tab.sent("response.create")
    assert tab.connections == 1
    assert len({frame["stream_id"] for frame in creates}) == 2
    assert all(frame["store"] is True for frame in creates)


async def test_a_stopped_answer_is_what_hub_has_and_is_gone_on_from(
    open_tab: Open, url: str
) -> None:
    tab = await open_tab()
    await tab.send(LONG)
    await tab.streaming(50)
    await tab.pane().locator(".stop").click()
    await tab.ended("cancelled")
    answer = await tab.kept()
    response = await stored(url, answer["responseId"])
    assert response["status"] == "cancelled"
    assert text_of(response) == answer["text"]
    assert said(LONG).startswith(answer["text"])
    await tab.send(SHORT)
    await tab.ended()
    assert tab.sent("response.create")[-1]["previous_response_id"] == answer["responseId"]
    await assert_whole(tab, url, said(LONG, answer["text"], SHORT))


async def test_a_retry_takes_the_answers_place(open_tab: Open, url: str) -> None:
    tab = await open_tab()
    await tab.send(LONG)
    await tab.streaming()
    await tab.pane().locator(".stop").click()
    await tab.ended("cancelled")
    await tab.answer().get_by_role("button", name="Try again").click()
    await tab.ended()
    assert await tab.page.locator(".turn").count() == 1
    await assert_whole(tab, url, said(LONG))


async def test_a_deleted_chat_is_deleted_in_hub_too(open_tab: Open, url: str) -> None:
    tab = await open_tab()
    await tab.send(LONG)
    await tab.streaming()
    id = (await tab.kept())["responseId"]
    row = tab.page.locator("#list li")
    await row.hover()
    async with tab.page.expect_response(f"**/v1/responses/{id}"):
        await row.get_by_role("button", name="Delete").click()
    await expect(tab.page.locator(".turn")).to_have_count(0)
    async with aiohttp.ClientSession() as session:
        assert (await session.get(f"{url}/v1/responses/{id}")).status == 404
    # It can be taken back here, and gone on with from what this browser has of it.
    await tab.page.locator("#toast-undo").click()
    await tab.ended("cancelled")
    text = (await tab.kept())["text"]
    await tab.send(SHORT)
    await tab.ended()
    await assert_whole(tab, url, said(LONG, text, SHORT))


# Interruptions.


async def test_a_reload_goes_on_in_mid_answer(open_tab: Open, url: str) -> None:
    tab = await open_tab()
    await tab.send(LONG)
    await tab.streaming(100)
    id = (await tab.kept())["responseId"]
    ttft = await tab.pane().locator(".ttft dd").inner_text()
    tab.frames.clear()
    await tab.page.reload()
    await tab.streaming(101)
    await tab.ended()
    assert (await tab.kept())["responseId"] == id
    await assert_whole(tab, url, said(LONG))
    assert [frame["type"] for frame in tab.frames] == ["response.resume"]
    # What was measured before stays; what cannot be measured any more is not made up.
    await expect(tab.pane().locator(".ttft dd")).to_have_text(ttft)
    await expect(tab.pane().locator(".rate")).to_be_hidden()
    await expect(tab.pane().locator(".resumed dd")).to_have_text("resumed")


async def test_text_that_a_tab_kept_is_never_gone_on_from(open_tab: Open, url: str) -> None:
    """Whatever the storage says of a live answer's text, it is read from its beginning."""
    tab = await open_tab()
    await tab.send(LONG)
    await tab.streaming(50)
    await tab.page.reload()
    await tab.page.evaluate(
        """() => addEventListener('pagehide', () => {
            const [key] = Object.keys(localStorage).filter((key) => key.startsWith('hub.chat.'))
            const chat = JSON.parse(localStorage[key])
            chat.turns[0].answer.text = 'An older and a longer text than there is. '.repeat(30)
            localStorage[key] = JSON.stringify(chat)
        })"""
    )
    await tab.page.reload()
    await tab.ended()
    await assert_whole(tab, url, said(LONG))


async def test_an_answer_that_ended_without_the_page_is_there_when_it_returns(
    open_tab: Open, url: str
) -> None:
    tab = await open_tab()
    await tab.send(LONG)
    await tab.streaming()
    id = (await tab.kept())["responseId"]
    await tab.page.goto("about:blank")
    tab.foreign.clear()

    async def completed() -> bool:
        return bool((await stored(url, id))["status"] == "completed")

    await until(completed)
    await tab.open()
    await tab.ended()
    await assert_whole(tab, url, said(LONG))


async def test_a_lost_network_loses_no_text(open_tab: Open, url: str) -> None:
    async with network(url) as net:
        tab = await open_tab(net.url, troubled=True)
        await tab.send(LONG)
        await tab.streaming(50)
        net.down()
        await expect(tab.page.locator("#banner")).to_be_visible()
        await expect(tab.answer().locator(".progress")).to_have_text(re.compile("Interrupted"))
        before = await tab.shown()
        net.up = True
        await tab.reconnect()
        await tab.connected()
        await expect(tab.answer().locator(".progress")).to_be_hidden()
        await tab.streaming(len(before) + 1)
        await tab.ended()
        await assert_whole(tab, url, said(LONG))
        [resume] = tab.sent("response.resume")
        assert resume["starting_after"] > 10
        await expect(tab.pane().locator(".ttft dd")).to_have_text(re.compile(r"\d+ ms"))
        await expect(tab.pane().locator(".resumed dd")).to_have_text("resumed")
        await expect(tab.pane().locator(".rate")).to_be_hidden()


async def test_cuts_anywhere_in_two_answers_lose_no_text(open_tab: Open, url: str) -> None:
    async with network(url) as net:
        tab = await open_tab(net.url, troubled=True)
        await tab.page.keyboard.press("Alt+s")
        await tab.send(LONG)
        await tab.send(LONG_TOO, 1)
        await tab.streaming(10, 0)
        await tab.streaming(10, 1)
        # Before the first event, inside frames, at different distances.
        net.lives = [200, 333, 777, 2_503, 6_001]
        net.cut()

        async def both_ended() -> bool:
            await tab.reconnect()
            return await tab.page.locator(".answer[data-status=completed]").count() == 2

        await until(both_ended)
        for index, prompt in enumerate((LONG, LONG_TOO)):
            assert await tab.shown(index) == squeezed(said(prompt))
        assert net.lives == []
        assert len(tab.sent("response.create")) == 2


async def test_what_cannot_be_resumed_keeps_its_text(open_tab: Open, url: str) -> None:
    async with (
        network(url) as net,
        command("serve", "--port", "0", "--sim") as other,
    ):
        tab = await open_tab(net.url, troubled=True)
        await tab.send(LONG)
        await tab.streaming(50)
        net.target = other.url
        net.cut()
        await tab.ended("interrupted")
        text = (await tab.kept())["text"]
        assert len(text) > 50
        assert said(LONG).startswith(text)
        # The next turn brings the history along.
        await tab.send(SHORT)
        await tab.ended()
        await assert_whole(tab, other.url, said(LONG, text, SHORT))


@needs_redis
async def test_an_answer_goes_on_at_another_node_when_its_own_restarts(open_tab: Open) -> None:
    """And so does the conversation, and the reader has nothing to do."""
    with running_redis() as redis:
        serve = ("serve", "--port", "0", "--sim", "--sim-speed", "1.5", "--store", redis.url)
        async with command(*serve) as one, command(*serve) as other, network(one.url) as net:
            tab = await open_tab(net.url)
            await tab.send(LONG)
            await tab.streaming(50)
            net.target = other.url
            assert await one.stop() == 0
            await tab.ended()
            (resume,) = tab.sent("response.resume")
            assert resume["starting_after"] > 0
            await assert_whole(tab, other.url, said(LONG))
            await tab.send(SHORT)
            await tab.ended()
            await assert_whole(tab, other.url, said(LONG, said(LONG), SHORT))
            assert tab.connections == 2
            assert len(tab.sent("response.create")) == 2


# Tabs.


async def test_two_tabs_stream_the_same_chat(open_tab: Open, url: str) -> None:
    one = await open_tab()
    await one.send(SHORT)
    await one.ended()
    two = await open_tab(beside=one)
    await two.page.locator("#list .chat").click()
    await one.send(LONG)
    await two.streaming()
    await one.streaming()
    for tab in (one, two):
        await tab.ended()
        await assert_whole(tab, url, said(SHORT, said(SHORT), LONG))
    assert [frame["type"] for frame in two.frames] == ["response.resume"]
    # Both show what the tab has measured that has asked.
    ttft = await one.answer().locator(".ttft dd").inner_text()
    await expect(two.answer().locator(".ttft dd")).to_have_text(ttft)
    # The second tab goes on, the first follows.
    await two.send(LONG_TOO)
    await one.streaming()
    for tab in (one, two):
        await tab.ended()
        await expect(tab.page.locator(".turn")).to_have_count(3)
    assert two.sent("response.create")[0]["previous_response_id"]
    assert await one.shown() == await two.shown() != ""


async def test_what_one_tab_stops_retries_and_deletes_the_other_follows(open_tab: Open) -> None:
    one = await open_tab()
    two = await open_tab(beside=one)
    await one.send(LONG)
    await two.page.locator("#list .chat").click()
    await two.streaming()
    await two.page.keyboard.press("Escape")
    for tab in (one, two):
        await tab.ended("cancelled")
    assert await one.shown() == await two.shown() != ""
    await one.page.keyboard.press("Alt+r")
    await two.streaming()
    for tab in (one, two):
        await tab.ended()
        await expect(tab.page.locator(".turn")).to_have_count(1)
        assert await tab.shown() == squeezed(said(LONG))
    await one.page.bring_to_front()
    await one.page.locator("#list li").hover()
    await one.page.locator("#list li .ghost").click()
    for tab in (one, two):
        await expect(tab.page.locator(".turn, #list li")).to_have_count(0)
    await one.page.locator("#toast-undo").click()
    await expect(two.page.locator("#list li")).to_have_count(1)


async def test_a_tab_goes_on_when_the_one_that_asked_is_closed(open_tab: Open, url: str) -> None:
    one = await open_tab()
    two = await open_tab(beside=one)
    await one.send(LONG)
    await one.streaming()
    await one.page.close()
    await two.page.locator("#list .chat").click()
    await two.streaming(100)
    await two.ended()
    await assert_whole(two, url, said(LONG))


async def test_a_prompt_that_is_not_sent_yet_is_stopped_from_another_tab(
    open_tab: Open, url: str
) -> None:
    async with network(url) as net:
        one = await open_tab(net.url, troubled=True)
        two = await open_tab(net.url, beside=one, troubled=True)
        net.down()
        await expect(one.page.locator("#banner")).to_be_visible()
        await one.send(LONG)
        await two.page.locator("#list .chat").click()
        await expect(two.answer().locator(".progress")).to_have_text("Waiting in another tab")
        await two.page.keyboard.press("Escape")
        for tab in (one, two):
            await tab.ended("cancelled")
        net.up = True
        await one.reconnect()
        await one.connected()
        await one.send(SHORT)
        await one.ended()
        [create] = one.sent("response.create")
        assert create["input"] == [{"role": "user", "content": SHORT}]


# How it looks and feels.


async def test_the_keyboard_is_enough(open_tab: Open) -> None:
    tab = await open_tab()
    press = tab.page.keyboard.press
    focused = tab.page.locator(":focus")
    await expect(focused).to_have_attribute("aria-label", "Message")
    await tab.page.keyboard.type(LONG)
    await press("Enter")
    await tab.streaming()
    await press("Escape")
    await tab.ended("cancelled")
    await press("Alt+r")
    await tab.streaming()
    await press("Escape")
    await tab.ended("cancelled")
    await press("Alt+n")
    await expect(tab.page.locator(".turn")).to_have_count(0)
    await tab.page.keyboard.type(SHORT)
    await press("Enter")
    await tab.ended()
    await press("Alt+ArrowDown")
    await expect(tab.pane().locator("h2").first).to_have_text(LONG)
    await press("Alt+s")
    await expect(tab.page.locator(".pane")).to_have_count(2)
    await press("Alt+Slash")
    await expect(tab.page.locator("#help")).to_be_visible()
    await press("Escape")
    await expect(tab.page.locator("#help")).to_be_hidden()
    # Everything that can be clicked can be reached.
    name = "(element) => element.ariaLabel || element.innerText"
    buttons = tab.page.locator("button:visible, select:visible, textarea:visible")
    names = {await button.evaluate(name) for button in await buttons.all()}
    reached: set[str] = set()
    for _ in range(40):
        await press("Tab")
        reached.add(await tab.page.evaluate(f"() => ({name})(document.activeElement)"))
    assert names <= reached


@pytest.mark.parametrize("width", [320, 390])
async def test_nothing_is_wider_than_a_phone(open_tab: Open, width: int) -> None:
    tab = await open_tab(viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
    assert await tab.fits()
    await tab.send(f"{LONG} {'unbreakable' * 30}")
    await tab.streaming()
    assert await tab.fits()
    await tab.ended()
    assert await tab.fits()
    await tab.page.locator("#menu").click()
    await expect(tab.page.locator("#sidebar")).to_be_visible()
    assert await tab.fits()


@pytest.mark.parametrize("scheme", ["dark", "light"])
async def test_it_is_dark_where_the_reader_wants_that(open_tab: Open, scheme: str) -> None:
    tab = await open_tab(color_scheme=scheme)
    await tab.send(SHORT)
    await tab.ended()
    ground, ink = await tab.page.evaluate(
        """() => [document.body, document.querySelector('.text p')].map((element, i) => {
            const style = getComputedStyle(element)
            const canvas = new OffscreenCanvas(1, 1).getContext('2d')
            canvas.fillStyle = i ? style.color : style.backgroundColor
            canvas.fillRect(0, 0, 1, 1)
            return canvas.getImageData(0, 0, 1, 1).data.slice(0, 3).reduce((a, b) => a + b)
        })"""
    )
    assert (ground < ink) == (scheme == "dark")
    assert abs(ground - ink) > 450


MARKUP = """<img src=x onerror="alert(1)"> <script>alert(2)</script>
<a href="javascript:alert(3)">here</a> &amp; <b>bold</b>

```html
<img src=x onerror="alert(4)"></code></pre><script>alert(5)</script>
```
"""


async def test_what_a_model_writes_is_text(open_tab: Open) -> None:
    async def say(peer: scripted.Peer) -> None:
        if peer.request.startswith("GET"):
            models = orjson.dumps({"data": [{"id": "<b>model</b>", "object": "model"}]})
            await peer.send(scripted.answer(200, models))
            return
        pieces = [MARKUP[at : at + 3] for at in range(0, len(MARKUP), 3)]
        events = [scripted.event({"content": piece}) for piece in pieces]
        end = scripted.event({}, "stop")
        await peer.send(scripted.SSE, *events, end, b"data: [DONE]\n\n")

    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(scripted.serve(say))
        hub = await stack.enter_async_context(
            command("serve", "--port", "0", "--upstream", model.url)
        )
        tab = await open_tab(hub.url)
        await tab.send(MARKUP)
        await tab.ended()
        await assert_whole(tab, hub.url, MARKUP)
        assert await tab.pane().locator(".prompt").text_content() == MARKUP.strip()
        foreign = tab.page.locator(".turn :is(img, script, a, b)")
        assert await foreign.count() == 0
        await expect(tab.pane().locator("select")).to_contain_text("<b>model</b>")
        await tab.page.reload()
        await tab.connected()
        assert await tab.shown() == squeezed(MARKUP)
        assert await foreign.count() == 0


async def test_a_failing_model_server_is_told_of(open_tab: Open) -> None:
    tab = await open_tab()
    await tab.page.evaluate("() => localStorage.setItem('hub.model', 'sim+error=5')")
    await tab.page.keyboard.press("Alt+n")
    await tab.page.reload()
    await tab.send(LONG)
    await tab.ended("failed")
    await expect(tab.answer().locator(".note.error")).to_contain_text("upstream_error")
    assert squeezed(said(LONG)).startswith(await tab.shown())
    await tab.pane().locator("select").select_option("")
    await tab.answer().get_by_role("button", name="Retry").click()
    await tab.ended()
    assert await tab.shown() == squeezed(said(LONG))
    assert tab.sent("response.create")[-1].get("model") is None


# hub.js, for pages of others.


async def test_hub_js_resumes_by_id_and_tells_what_it_cannot(open_tab: Open, url: str) -> None:
    async with network(url) as net:
        tab = await open_tab(net.url, troubled=True)
        await tab.page.evaluate(
            """async (prompt) => {
                const { Hub } = await import('/hub.js')
                window.hub = new Hub('/v1/responses', { firstDelay: 10 })
                window.texts = { kept: '', forgotten: '' }
                window.had = (name) => (text) => (texts[name] += text)
                window.outcome = (run) =>
                    run.done.then(({ status }) => status, ({ name, code }) => `${name} ${code}`)
                window.kept = hub.create({ input: prompt }, { onDelta: had('kept') })
                window.forgotten = hub.create({ input: prompt, store: false },
                    { onDelta: had('forgotten') })
            }""",
            LONG,
        )

        async def both() -> bool:
            return bool(
                await tab.page.evaluate(
                    "() => texts.kept.length > 50 && texts.forgotten.length > 50"
                )
            )

        await until(both)
        net.cut()
        lost = await tab.page.evaluate("() => outcome(forgotten)")
        assert lost == "HubError connection_lost"
        status, text, timings = await tab.page.evaluate(
            "async () => [await outcome(kept), texts.kept, kept.timings]"
        )
        assert (status, text) == ("completed", said(LONG))
        assert timings["resumed"] is True
        assert timings["tokensPerSecond"] is None
        assert timings["ttft"] > 0
        # From the beginning and from the middle, and of what was not kept.
        whole, rest, gone = await tab.page.evaluate(
            """async () => {
                let texts = ['', '']
                const read = (i, cursor) =>
                    hub.resume(kept.id, cursor, { onDelta: (text) => (texts[i] += text) }).done
                await Promise.all([read(0), read(1, { startingAfter: 40 })])
                return [...texts, await outcome(hub.resume(forgotten.id))]
            }"""
        )
        assert whole == said(LONG)
        assert whole.endswith(rest)
        assert 0 < len(rest) < len(whole)
        assert gone == "HubError response_not_found"


@pytest.mark.parametrize(
    ("code", "status", "outcome", "connections"),
    [
        ("store_unavailable", 503, "completed", 2),
        ("response_not_found", 404, "completed", 2),
        ("shutting_down", 503, "completed", 4),
        ("invalid_value", 400, "invalid_value", 2),
    ],
)
async def test_hub_js_asks_a_node_again_that_cannot_say_now(
    open_tab: Open, code: str, status: int, outcome: str, connections: int
) -> None:
    """After a close that says when to come back: a delay of its own would take it a minute."""
    tab = await open_tab()
    ended, text, count, cursors = await tab.page.evaluate(
        """async ({ code, status }) => {
            const { Hub } = await import('/hub.js')
            let connections = 0
            let refusals = 2
            const cursors = []
            class Scripted {
                constructor() {
                    this.number = ++connections
                    setTimeout(() => this.onopen({}))
                }
                say(event) {
                    this.onmessage({ data: JSON.stringify({ ...event, stream_id: this.lane }) })
                }
                send(frame) {
                    const asked = JSON.parse(frame)
                    this.lane = asked.stream_id
                    setTimeout(() => this.answer(asked))
                }
                answer(asked) {
                    const response = { id: 'resp_1', status: 'completed', output: [] }
                    const delta = { type: 'response.output_text.delta' }
                    if (asked.type === 'response.create') {
                        this.say({ type: 'response.created', sequence_number: 0, response })
                        this.say({ ...delta, sequence_number: 1, delta: 'One ' })
                        this.onclose({ code: 1012, reason: 'hub is shutting down; retry in 10 ms' })
                    } else {
                        cursors.push(asked.starting_after)
                        const headers = { 'retry-after': '0.01' }
                        const no = { type: 'error', status, headers, error: { code } }
                        if (refusals-- > 0) return this.say(no)
                        this.say({ ...delta, sequence_number: 2, delta: 'two' })
                        this.say({ type: 'response.completed', sequence_number: 3, response })
                    }
                }
                close() {}
            }
            const slow = { firstDelay: 60_000, maxDelay: 60_000 }
            const hub = new Hub('/v1/responses', { ...slow, WebSocket: Scripted })
            let text = ''
            const run = hub.create({ input: 'Hello' }, { onDelta: (delta) => (text += delta) })
            const ended = await run.done.then(({ status }) => status, ({ code }) => code)
            hub.close()
            return [ended, text, connections, cursors]
        }""",
        {"code": code, "status": status},
    )
    assert (ended, count) == (outcome, connections)
    assert text == ("One two" if outcome == "completed" else "One ")
    assert set(cursors) == {1}
