"""hub's page in a real browser, and a network between the two that can be cut."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Error,
    Locator,
    Page,
    Request,
    WebSocket,
    async_playwright,
    expect,
)

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Chromium, without a window."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield chromium
        await chromium.close()


async def until(holds: Callable[[], Awaitable[bool]], patience: float = 20.0) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(patience):
        while True:
            if await holds():
                return
            await asyncio.sleep(0.01)


class Tab:
    """A tab with hub's page, and what a reader sees and does there."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        """What the browser's console complained of."""
        self.foreign: list[str] = []
        """Requests to anybody but hub."""
        self.frames: list[dict[str, Any]] = []
        """The messages that the page sent to hub, of all connections."""
        self.connections = 0
        page.on("console", self._said)
        page.on("pageerror", self._failed)
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.on("request", self._requested)
        page.on("websocket", self._connected)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _failed(self, error: Error) -> None:
        self.complaints.append(str(error))

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.foreign.append(request.url)

    def _connected(self, socket: WebSocket) -> None:
        self.connections += 1
        socket.on("framesent", lambda frame: self.frames.append(orjson.loads(frame)))

    async def open(self) -> None:
        """Load the page, and wait for its connection."""
        await self.page.goto(self.url)
        await self.connected()

    async def connected(self) -> None:
        await expect(self.page.locator("#connection")).to_have_attribute("data-state", "open")

    async def reconnect(self) -> None:
        """Have the page try now, unless it just does so by itself."""
        await self.page.locator("#reconnect").dispatch_event("click")

    def sent(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a type that the page sent."""
        return [frame for frame in self.frames if frame["type"] == kind]

    def pane(self, index: int = 0) -> Locator:
        return self.page.locator(".pane").nth(index)

    def answer(self, index: int = 0) -> Locator:
        """The last answer of a pane."""
        return self.pane(index).locator(".answer").last

    async def send(self, prompt: str, index: int = 0) -> None:
        area = self.pane(index).locator("textarea")
        await area.fill(prompt)
        await area.press("Enter")

    async def shown(self, index: int = 0) -> str:
        """The text of the last answer as it is on the page, paragraphs and code, without spaces."""
        paragraphs = self.answer(index).locator(".text > p, .text pre")
        return squeezed("".join(await paragraphs.all_text_contents()))

    async def streaming(self, characters: int = 1, index: int = 0) -> None:
        """Wait until so many characters are there and more are to come."""

        async def there() -> bool:
            status = await self.answer(index).get_attribute("data-status")
            assert status == "live", f"it is {status} already"
            return len(await self.shown(index)) >= characters

        await self.page.bring_to_front()  # a tab behind another one is drawn once a second
        await expect(self.answer(index)).to_have_attribute("data-status", "live")
        await until(there)

    async def ended(self, status: str = "completed", index: int = 0) -> None:
        await self.page.bring_to_front()
        await expect(self.answer(index)).to_have_attribute("data-status", status, timeout=20_000)

    async def kept(self) -> dict[str, Any]:
        """The last answer of the newest chat as it is in the browser's storage."""
        text = await self.page.evaluate(
            """() => JSON.stringify(Object.entries(localStorage)
                .filter(([key]) => key.startsWith('hub.chat.'))
                .map(([, chat]) => JSON.parse(chat))
                .sort((a, b) => a.updated - b.updated).at(-1).turns.at(-1).answer)"""
        )
        answer: dict[str, Any] = orjson.loads(text)
        return answer

    async def fits(self) -> bool:
        """Whether nothing has to be scrolled sideways."""
        inside: bool = await self.page.evaluate(
            "() => document.documentElement.scrollWidth <= innerWidth && scrollX === 0"
        )
        return inside


def squeezed(text: str) -> str:
    """A text as ``Tab.shown`` gives it: without spaces and the fences of code."""
    lines = (line for line in text.split("\n") if not line.lstrip().startswith("```"))
    return "".join("".join(lines).split())


async def new_tab(context: BrowserContext, url: str) -> Tab:
    tab = Tab(await context.new_page(), f"{url}/")
    await tab.open()
    return tab


class Network:
    """What lies between the browser and hub: a port that passes bytes on, until it is cut."""

    def __init__(self, target: str) -> None:
        self.target = target
        """hub's address; may be changed."""
        self.up = True
        self.lives: list[int] = []
        """The next connections that carry a WebSocket break after so many bytes from hub."""
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def down(self) -> None:
        """Break all connections, and let none through."""
        self.up = False
        self.cut()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.up:
            writer.transport.abort()
            return
        host, _, port = self.target.removeprefix("http://").partition(":")
        back, forth = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, forth}
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            forth.write(head)
            life = self.lives.pop(0) if self.lives and b"pgrade: websocket" in head else 1 << 40
            await asyncio.gather(self._pump(reader, forth, 1 << 40), self._pump(back, writer, life))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers -= {writer, forth}
            for end in (writer, forth):
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, life: int
    ) -> None:
        while life > 0 and (data := await reader.read(min(life, 65536))):
            life -= len(data)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._pass_on(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


@asynccontextmanager
async def network(target: str) -> AsyncIterator[Network]:
    """A network in front of hub."""
    net = Network(target)
    server = await asyncio.start_server(net._accepted, "127.0.0.1", 0)
    net.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield net
    finally:
        server.close()
        net.cut()
        for task in [*net._tasks]:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await server.wait_closed()
