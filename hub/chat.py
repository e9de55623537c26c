"""``hub chat``: a chat in the terminal, with several conversations at a time.

Lines go in, text comes out, and both at the same time: in a terminal the next line is read while an
answer streams, so that one can leave it for another conversation. A conversation's answer is shown
from where its showing stopped (``Conversation.shown``), whether it went on meanwhile or has ended.

What a model says may be anything: no control character of it reaches the terminal.
"""

import asyncio
import io
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress

import click

from hub.client import Client, ClientError, Run, Timings, websocket_url
from hub.errors import HubError

COMMANDS = """\
/new NAME      open another conversation
/NAME          go to the conversation NAME (also: /switch NAME); an answer that runs goes on
/lanes         list the conversations, * is this one
/help          list the commands
Ctrl-C         stop the answer that runs here
an empty line  leave (also: Ctrl-D)
A message that begins with a slash: put a space before it.
"""
_RESERVED = {"new", "switch", "lanes", "help"}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

LEAVE_TIMEOUT = 2.0
"""Seconds that the server has, at the end, to say that it stopped what still ran."""

# Control characters but line feed and tab; and those that turn the direction of what follows.
_UNSAFE = {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
_REMOVE = dict.fromkeys(_UNSAFE - {ord("\n"), ord("\t")})


def visible(text: str) -> str:
    """A model's text without what a terminal would obey."""
    return text.translate(_REMOVE)


def timing_line(timings: Timings) -> str:
    """What the reader waited, in one line; what is not known is left out."""
    parts = []
    if timings.ttft is not None:
        parts.append(f"TTFT {timings.ttft * 1000:.0f} ms")
    if timings.tokens_per_second is not None:
        parts.append(f"{timings.tokens_per_second:.0f} tokens/s")
    if timings.total is not None:
        parts.append(f"{timings.total:.2f} s")
    if timings.resumed:
        parts.append("resumed")
    return " · ".join(parts)


class Conversation:
    """One lane: what was answered last, and what runs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run: Run | None = None
        self.previous: str | None = None
        """The response that the next message goes on from."""
        self.shown = 0
        """Characters of the run's text that were shown."""
        self.told = True
        """The end of the run was shown, too."""

    @property
    def busy(self) -> bool:
        """Whether an answer runs."""
        return self.run is not None and self.run.state != "done"

    def state(self) -> str:
        """In one or two words."""
        if self.run is None:
            return "new"
        if self.busy:
            return self.run.state
        word = "failed" if self.run.error is not None else "answered"
        word = "stopped" if self.run.cancelled else word
        return word if self.told else f"{word}, not read yet"


class Chat:
    """The conversations over one client. ``handle`` takes a line, ``show`` shows what is new."""

    def __init__(
        self,
        client: Client,
        write: Callable[[str], None],
        *,
        names: tuple[str, ...],
        model: str | None = None,
        dim: Callable[[str], str] = str,
    ) -> None:
        """``write`` puts text on the screen; ``dim`` makes it faint. The first of ``names`` is the
        current conversation."""
        self._client = client
        self._write = write
        self._dim = dim
        self._model = model
        self.lanes = {name: Conversation(name) for name in names}
        self.current = self.lanes[names[0]]
        self.at_start = True
        """The cursor is at the start of a line."""

    def handle(self, line: str) -> None:
        """A line that is not empty: a command, or a message to the current conversation."""
        if not line.startswith("/"):
            self._say(line.strip())
            return
        word, _, rest = line[1:].strip().partition(" ")
        rest = rest.strip()
        match word:
            case "help":
                self._print(COMMANDS)
            case "lanes":
                self._list()
            case "new":
                self._new(rest)
            case "switch":
                self._switch(rest)
            case _:
                self._switch(f"{word} {rest}".strip())

    async def show(self) -> None:
        """Show what is new of the current conversation, up to the end of its answer.

        May be cancelled, and called again: it goes on where it was.
        """
        lane = self.current
        if lane.run is None or lane.told:
            return
        # The failure is shown at the end.
        with suppress(HubError, ClientError):
            async with aclosing(lane.run.pieces(lane.shown)) as pieces:
                async for piece in pieces:
                    lane.shown += len(piece)
                    self._print(visible(piece))
        self._tell_end(lane, lane.run)

    def interrupt(self) -> bool:
        """Stop the answer that runs in the current conversation; false if none does."""
        run = self.current.run
        if run is None or not self.current.busy:
            return False
        run.cancel()
        return True

    async def leave(self) -> None:
        """Stop whatever runs, so that no model server works for nobody."""
        runs = [lane.run for lane in self.lanes.values() if lane.run is not None and lane.busy]
        for run in runs:
            run.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT):
                for run in runs:
                    with suppress(HubError, ClientError):
                        await run.done()

    def prompt(self) -> None:
        """Ask for a line."""
        self.fresh_line()
        self._print(f"{self.current.name}> ")

    def fresh_line(self) -> None:
        """End the line that was begun."""
        if not self.at_start:
            self._print("\n")

    def note(self, text: str) -> None:
        """Say something that no model said."""
        self.fresh_line()
        self._note(text)

    # Lines.

    def _say(self, message: str) -> None:
        lane = self.current
        if lane.busy:
            self.note(f"{lane.name} is still answering: wait, or stop it with Ctrl-C.")
            return
        if lane.run is not None and not lane.told:
            # It ended just now.
            self._tell_end(lane, lane.run)
        fields = {} if self._model is None else {"model": self._model}
        lane.run = self._client.create(
            message, previous_response_id=lane.previous, lane=lane.name, **fields
        )
        lane.shown, lane.told = 0, False

    def _tell_end(self, lane: Conversation, run: Run) -> None:
        """Show what is left of an answer that has ended, and how it ended."""
        self._print(visible(run.text[lane.shown :]))
        self.fresh_line()
        lane.told = True
        if run.error is not None:
            self._print(f"Failed: {visible(run.error.message)} ({visible(run.error.code)})\n")
            return
        line = timing_line(run.timings)
        self._note(f"stopped · {line}" if run.cancelled else line)
        # One that was stopped before it began is nothing to go on from.
        lane.previous = run.id or lane.previous

    def _new(self, name: str) -> None:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            self.note("/new NAME: letters, digits, underscores, hyphens or periods.")
        elif name in self.lanes:
            self.note(f"There is a conversation {name} already: /{name} goes to it.")
        else:
            self.current = self.lanes[name] = Conversation(name)

    def _switch(self, name: str) -> None:
        if name in self.lanes:
            self.current = self.lanes[name]
        else:
            self.note(f"There is no conversation '{visible(name)}'. /new NAME opens one.")

    def _list(self) -> None:
        width = max(map(len, self.lanes))
        for lane in self.lanes.values():
            mark = "*" if lane is self.current else " "
            self._print(f"{mark} {lane.name:<{width}}  {lane.state()}\n")

    # The screen.

    def _print(self, text: str) -> None:
        if text:
            self._write(text)
            self.at_start = text.endswith("\n")

    def _note(self, text: str) -> None:
        self._write(f"{self._dim(text)}\n")
        self.at_start = True


Read = Callable[[], Awaitable[str]]
"""Gives the next line with its line feed; empty at the end."""


async def converse(chat: Chat, read: Read) -> None:
    """A chat in a terminal: lines are read while an answer streams."""
    async with asyncio.TaskGroup() as group:
        while True:
            showing = group.create_task(_show(chat))
            line = await read()
            # Whoever typed it is at the start of a line now.
            chat.at_start = chat.at_start or bool(line)
            showing.cancel()
            if not line or (not line.strip() and not chat.current.busy):
                break
            if line.strip():
                chat.handle(line)
    chat.fresh_line()
    await chat.leave()


async def _show(chat: Chat) -> None:
    await chat.show()
    chat.prompt()


async def answer_all(chat: Chat, read: Read) -> None:
    """A chat over pipes: every line is answered before the next one is read."""
    while line := await read():
        if line.strip():
            chat.handle(line)
            await chat.show()


@click.command()
@click.option(
    "--url",
    "urls",
    multiple=True,
    default=("ws://127.0.0.1:8765/v1/responses",),
    show_default=True,
    metavar="URL",
    help="Where hub is: ws://… or http://…. Repeatable, for nodes that share a store.",
)
@click.option("--model", help="Which model to ask; by default the server's own choice.")
@click.option(
    "--lane",
    "names",
    multiple=True,
    default=("main",),
    show_default=True,
    metavar="NAME",
    help="A conversation to begin with; repeatable.",
)
def chat(urls: tuple[str, ...], model: str | None, names: tuple[str, ...]) -> None:
    """Chat in the terminal, in several conversations at a time.

    Type a message and the answer streams; Ctrl-C stops it. /new NAME opens another conversation
    and /NAME goes to it, while an answer that runs goes on. An empty line or Ctrl-D leaves.

    If the input is not a terminal, every line of it is a message, answered before the next.
    """
    for name in names:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise click.BadParameter(
                f"{name!r} is not a name: letters, digits, underscores, hyphens or periods.",
                param_hint="'--lane'",
            )
    try:
        for url in urls:
            websocket_url(url)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--url'") from None
    for stream in (sys.stdin, sys.stdout):
        # A letter that the terminal does not have is no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        asyncio.run(_chat(urls, model, names))
    except (HubError, ClientError) as error:
        raise click.ClickException(error.message) from None


async def _chat(urls: tuple[str, ...], model: str | None, names: tuple[str, ...]) -> None:
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    coloured = terminal and "NO_COLOR" not in os.environ

    def write(text: str) -> None:
        click.echo(text, nl=False)

    def dim(text: str) -> str:
        return click.style(text, dim=True) if coloured else text

    def read() -> Awaitable[str]:
        # Without ``readline``, which would not know of what is written while it edits.
        return asyncio.to_thread(sys.stdin.readline)

    async with Client(urls) as client:
        chat = Chat(client, write, names=names, model=model, dim=dim)

        def interrupted() -> None:
            if not chat.interrupt() and terminal:
                chat.note("Nothing runs here. An empty line or Ctrl-D leaves.")
                chat.prompt()

        with _on_interrupt(interrupted):
            if terminal:
                chat.note(f"{client.url}: /help lists the commands, an empty line leaves.")
                await converse(chat, read)
            else:
                await answer_all(chat, read)


@contextmanager
def _on_interrupt(handle: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls ``handle`` meanwhile."""
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGINT, handle)
    except (NotImplementedError, RuntimeError, ValueError):
        # Not in this thread, or not on this system: Ctrl-C ends the program, as it does by default.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
