"""hub's page where hub asks for an API key: the form, what is kept of it, and a revoked key."""

import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from hub.key_file import update
from hub.keys import RANDOM_BYTES, new_key
from tests.e2e.process import command

try:
    from playwright.async_api import Browser, BrowserContext, Locator, expect

    from tests.e2e.browser import CHROMIUM, Tab, browser, until
except ImportError:
    pytest.skip("needs Playwright: pip install playwright", allow_module_level=True)
if CHROMIUM is None or not os.path.exists(CHROMIUM):
    pytest.skip("needs Chromium: as 'chromium', or $CHROMIUM", allow_module_level=True)

pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "Question 3"
"""Its answer takes seconds."""
SHORT = "Question 10"


class Keys:
    """A file of keys, and hub's address that goes by it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = ""

    def create(self, **particulars: Any) -> str:
        """A new key's text. hub knows it within a second."""
        text, key = new_key(
            secrets.token_bytes(RANDOM_BYTES), tenant="acme", now=time.time(), **particulars
        )
        update(self._path, lambda keyring: keyring.added(key))
        return text

    def revoke(self, text: str) -> None:
        id = text.split("_")[1]
        update(self._path, lambda keyring: keyring.revoked(id, time.time()))


class Door(Tab):
    """A tab that hub asks for a key."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.urls: list[str] = []
        """Of all requests."""
        self.page.on("request", lambda request: self.urls.append(request.url))
        self.page.on("websocket", lambda socket: self.urls.append(socket.url))

    @property
    def form(self) -> Locator:
        return self.page.get_by_role("dialog", name="This hub asks for an API key")

    @property
    def field(self) -> Locator:
        return self.form.get_by_label("API key", exact=True)

    async def give(self, key: str, *, remember: bool = False) -> None:
        """Fill in the form by the keyboard alone."""
        await expect(self.field).to_be_focused()
        await self.page.keyboard.insert_text(key)
        if remember:
            await self.page.keyboard.press("Tab")
            await self.page.keyboard.press("Space")
        await self.page.keyboard.press("Enter")

    async def visit(self, path: str = "") -> None:
        await self.page.goto(f"{self.url}{path}")

    async def storages(self) -> list[str | None]:
        """The key as it is kept for this tab, and for this browser."""
        kept: list[str | None] = await self.page.evaluate(
            "() => [sessionStorage, localStorage].map((one) => one.getItem('hub.key'))"
        )
        return kept


Open = Callable[..., Awaitable[Door]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keys(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Keys]:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    found = Keys(path)
    found.create()
    async with command(
        *("serve", "--port", "0", "--sim", "--sim-speed", "1.5", "--lab", "--keys", str(path))
    ) as hub:
        found.url = hub.url
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def door(chromium: Browser, keys: Keys) -> AsyncIterator[Open]:
    """Open a tab, in a browser of its own unless it is told beside which. Whatever the test does,
    the page asks nobody but hub, no URL has a key in it, and the browser complains of no more than
    the refusals."""
    doors: list[Door] = []
    contexts: list[BrowserContext] = []

    async def open_door(path: str = "", *, beside: Door | None = None, **options: Any) -> Door:
        if beside is None:
            contexts.append(await chromium.new_context(**options))
        context = contexts[-1] if beside is None else beside.page.context
        one = Door(await context.new_page(), f"{keys.url}/")
        doors.append(one)
        await one.visit(path)
        return one

    yield open_door
    for context in contexts:
        await context.close()
    for one in doors:
        assert one.foreign == []
        assert [words for words in one.complaints if "401 (Unauthorized)" not in words] == []
        assert not any("hub_" in url for url in one.urls)


async def key_of(keys: Keys, door: Door, **particulars: Any) -> str:
    """A key that hub knows by now."""
    text = keys.create(**particulars)

    async def known() -> None:
        answer = await door.page.request.post(
            f"{keys.url}/v1/tickets", headers={"Authorization": f"Bearer {text}"}
        )
        assert answer.ok

    await expect_soon(known)
    return text


async def expect_soon(holds: Callable[[], Awaitable[None]]) -> None:
    """Ask again and again until an assertion holds."""

    async def held() -> bool:
        try:
            await holds()
        except AssertionError:
            return False
        return True

    await until(held)


async def test_the_page_asks_for_a_key_and_chats_with_it(door: Open, keys: Keys) -> None:
    """It works by keyboard alone. The key is kept for this tab only, and is nowhere on the page,
    nor in what else the page keeps."""
    tab = await door()
    key = await key_of(keys, tab)
    await expect(tab.form.get_by_role("alert")).to_be_hidden()
    await tab.give(key)
    await tab.connected()
    await expect(tab.form).to_have_count(0)
    await expect(tab.pane().locator("textarea")).to_be_focused()
    await tab.send(SHORT)
    await tab.ended()
    assert await tab.storages() == [key, None]
    everything = await tab.page.evaluate(
        """() => document.documentElement.outerHTML +
            [...document.querySelectorAll('input, textarea')].map((one) => one.value).join()"""
    )
    assert key.rpartition("_")[2] not in everything
    others = await tab.page.evaluate(
        """() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]
            .map(({ 'hub.key': key, ...rest }) => rest))"""
    )
    assert orjson.loads(others)[0], "there are chats"
    assert key.rpartition("_")[2] not in others
    await tab.page.reload()
    await tab.connected()
    assert await tab.pane().locator("select option").count() > 1, "the models were asked for"


async def test_a_wrong_key_is_refused_and_can_be_corrected(door: Open, keys: Keys) -> None:
    """The form says so, and the field has the focus for the next attempt. Nothing is kept of what
    hub did not take. A phone has room for all of it."""
    tab = await door(viewport={"width": 390, "height": 760})
    await tab.give("hub_0000000000000000_" + "A" * 43)
    await expect(tab.form.get_by_role("alert")).to_contain_text("does not accept this key")
    await expect(tab.field).to_be_focused()
    assert await tab.storages() == [None, None]
    box = await tab.form.bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert await tab.fits()
    await tab.page.keyboard.insert_text("two words")
    await tab.page.keyboard.press("Enter")
    await expect(tab.form.get_by_role("alert")).to_contain_text("without spaces")
    key = await key_of(keys, tab)
    await tab.field.fill(f"  {key}\n")
    await tab.page.keyboard.press("Enter")
    await tab.connected()


async def test_a_key_is_remembered_for_who_wants_that_until_it_is_forgotten(
    door: Open, keys: Keys
) -> None:
    """On this device, for all its tabs; the help has the button that takes it back."""
    tab = await door()
    key = await key_of(keys, tab, admin=True)
    await tab.give(key, remember=True)
    await tab.connected()
    assert await tab.storages() == [None, key]
    other = await door("lab", beside=tab)
    await expect(other.page.locator("#server-note")).not_to_be_empty()
    await tab.page.locator("#help-open").click()
    await tab.page.get_by_role("button", name="Forget it").click()
    await expect(tab.field).to_be_focused()
    assert await tab.storages() == [None, None]


async def test_who_has_no_key_can_still_read_his_chats(door: Open, keys: Keys) -> None:
    """Escape closes the form; the banner opens it again."""
    tab = await door()
    await expect(tab.field).to_be_focused()
    await tab.page.keyboard.press("Escape")
    await expect(tab.form).to_have_count(0)
    await expect(tab.page.locator("#banner-text")).to_have_text("This hub asks for an API key.")
    await tab.page.get_by_role("button", name="Enter the key").click()
    await tab.give(await key_of(keys, tab))
    await tab.connected()
    await expect(tab.page.locator("#banner")).to_be_hidden()


async def test_a_revoked_key_is_asked_for_again(door: Open, keys: Keys) -> None:
    """In mid-answer, too: the form says why, the key is forgotten, and with another one the page
    goes on where it was."""
    tab = await door()
    key = await key_of(keys, tab)
    await tab.give(key, remember=True)
    await tab.connected()
    await tab.send(LONG)
    await tab.streaming()
    keys.revoke(key)
    await expect(tab.form.get_by_role("alert")).to_contain_text("no longer accepts the key")
    assert await tab.storages() == [None, None]
    await tab.give(await key_of(keys, tab))
    await tab.connected()
    await tab.ended("cancelled")
    assert tab.connections == 2
    await tab.send(SHORT)
    await tab.ended()


async def test_every_connection_has_a_ticket_of_its_own(door: Open, keys: Keys) -> None:
    """Also after a lost one."""
    tab = await door()
    tickets: list[str] = []

    def note(url: str) -> None:
        if url.endswith("/v1/tickets"):
            tickets.append(url)

    await tab.give(await key_of(keys, tab))
    await tab.connected()
    tab.page.on("request", lambda request: note(request.url))
    await tab.page.reload()
    await tab.connected()
    await tab.page.reload()
    await tab.connected()
    assert len(tickets) == 2


@pytest.mark.parametrize(("mode", "admin"), [("ws", False), ("sse", True)])
async def test_the_laboratory_runs_with_a_key(
    door: Open, keys: Keys, mode: str, admin: bool
) -> None:
    """The server's settings are for an administrator's key; others measure without."""
    tab = await door(
        f"lab#mode={mode}&loop=closed&concurrency=2&until=requests&requests=4&prompt=20&output=4"
    )
    await tab.give(await key_of(keys, tab, admin=admin))
    words = "completions never wait" if admin else "--admin"
    await expect(tab.page.locator("#server-note")).to_contain_text(words)
    await tab.page.locator("#run").click()
    await expect(tab.page.locator("#done")).to_contain_text("4 of 4 completed", timeout=20_000)
    # A key that may not see the settings is told so by a status, of which the console has a line.
    tab.complaints = [words for words in tab.complaints if "403 (Forbidden)" not in words]


async def test_hub_js_takes_a_key(door: Open, keys: Keys) -> None:
    """Without hub's page: ``key`` is enough, and a wrong one ends what waits."""
    tab = await door()
    key = await key_of(keys, tab)
    ask = """async (key) => {
        const { Hub } = await import('/hub.js')
        const hub = new Hub('/v1/responses', { key })
        const { done } = hub.create({ input: 'Hello' })
        const end = await done.then((one) => one.status, (one) => one.code)
        const state = hub.status.state
        hub.close()
        return [end, state]
    }"""
    assert await tab.page.evaluate(ask, key) == ["completed", "open"]
    assert await tab.page.evaluate(ask, "wrong") == ["invalid_api_key", "closed"]


@pytest.mark.parametrize("path", ["", "lab"])
async def test_no_page_breaks_its_own_policy_and_breaches_are_seen(door: Open, path: str) -> None:
    """Every page forbids inline scripts and styles, frames and referrers. What breaks that is in
    the console, which every test of the pages looks at."""
    tab = await door(path)
    await expect(tab.field).to_be_focused()
    await tab.page.keyboard.press("Escape")
    answer = await tab.page.request.get(f"{tab.url}{path}")
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert [one for one in tab.complaints if "401 (Unauthorized)" not in one] == []
    await tab.page.evaluate(
        """() => {
            const script = document.createElement('script')
            script.textContent = 'window.broken = true'
            document.body.append(script)
        }"""
    )
    assert await tab.page.evaluate("() => window.broken") is None
    seen = [one for one in tab.complaints if "Content Security Policy" in one]
    assert len(seen) == 1
    tab.complaints = []
