"""The terminal chat: over pipes, in a terminal, and its conversations one step at a time."""

import asyncio
import os
import pty
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner
from websockets.asyncio.server import ServerConnection

from hub.chat import Chat, converse, timing_line, visible
from hub.cli import main
from hub.client import Client, Timings
from tests.running import Start
from tests.test_client import answer, asked, said, scripted, tell

COMMAND = (sys.executable, "-m", "hub", "chat", "--url")
TIMINGS = r"TTFT \d+ ms · \d+ tokens/s · \d+\.\d\d s"


async def piped(url: str, text: str, *options: str) -> str:
    """What the command prints for this input."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *COMMAND, url, *options, stdin=pipe, stdout=pipe, stderr=pipe
    )
    out, err = await process.communicate(text.encode())
    assert (process.returncode, err) == (0, b"")
    return out.decode()


class Terminal:
    """A chat whose lines are given and whose screen can be waited for."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[str] = asyncio.Queue()
        self.screen = ""
        self._seen = 0
        self._wrote = asyncio.Event()

    def write(self, text: str) -> None:
        self.screen += text
        self._wrote.set()

    async def see(self, text: str) -> str:
        """Wait until a text is on the screen, behind what was seen: what is new up to its end."""
        while (at := self.screen.find(text, self._seen)) < 0:
            self._wrote.clear()
            await self._wrote.wait()
        start, self._seen = self._seen, at + len(text)
        return self.screen[start : self._seen]

    def type(self, line: str) -> None:
        self.lines.put_nowait(f"{line}\n")


@asynccontextmanager
async def terminal(client: Client, *names: str) -> AsyncIterator[tuple[Chat, Terminal]]:
    """A chat in a terminal; it must have left at the end."""
    screen = Terminal()
    chat = Chat(client, screen.write, names=names or ("main",))
    talk = asyncio.create_task(converse(chat, screen.lines.get))
    try:
        yield chat, screen
        await talk
    finally:
        talk.cancel()


async def test_each_line_of_a_pipe_is_a_message_of_one_conversation(start: Start) -> None:
    hub = await start(speed=50.0)
    out = await piped(hub.url, "One\n\nTwo\n")
    found = re.fullmatch(f"(.*)\n{TIMINGS}\n(.*)\n{TIMINGS}\n", out, re.DOTALL)
    assert found, out
    assert found.groups() == (said("One"), said("One", said("One"), "Two"))


async def test_lanes_are_conversations_of_their_own(start: Start) -> None:
    hub = await start(speed=50.0)
    out = await piped(hub.ws, "One\n/new b\nTwo\n/lanes\n/a\nThree\n/switch none\n", "--lane", "a")
    texts = re.split(f"\n{TIMINGS}\n", out)
    assert texts[:2] == [said("One"), said("Two")]
    assert texts[2] == f"  a  answered\n* b  answered\n{said('One', said('One'), 'Three')}"
    assert texts[3] == "There is no conversation 'none'. /new NAME opens one.\n"


async def test_the_model_is_passed_on_and_a_failure_is_told(start: Start) -> None:
    hub = await start(speed=50.0)
    out = await piped(hub.url, "Hello\n", "--model", "none")
    assert re.fullmatch(r"Failed: .*none.* \(model_not_found\)\n", out)


async def test_no_escape_sequence_of_a_model_reaches_the_terminal() -> None:
    async def handle(ws: ServerConnection) -> None:
        lane = (await asked(ws))["stream_id"]
        await answer(ws, lane, "a\x1b[31mb\x07\r", "c\x1b", "]0;title\x9b2Jd\u202e", "\te\nf 👩‍💻")
        await ws.wait_closed()

    async with scripted(handle) as url:
        out = await piped(url, "Hello\n")
    assert out.startswith("a[31mbc]0;title2Jd\te\nf 👩‍💻\nTTFT ")
    assert "\x1b" not in out


async def test_a_lane_that_is_left_goes_on_and_is_read_later(start: Start) -> None:
    hub = await start(speed=5.0)
    async with Client(hub.ws) as client, terminal(client) as (chat, screen):
        await screen.see("main> ")
        screen.type("Hello")
        await screen.see(said("Hello")[:10])
        screen.type("/new b")
        await screen.see("b> ")
        first = chat.lanes["main"].run
        assert first is not None
        screen.type("/lanes")
        assert "  main  running\n* b     new\n" in await screen.see("b> ")
        await first.done()
        screen.type("/lanes")
        assert "  main  answered, not read yet\n" in await screen.see("b> ")
        before = len(screen.screen)
        screen.type("/main")
        rest = await screen.see("main> ")
        assert said("Hello").endswith(rest[: rest.index("\nTTFT")])
        assert len(screen.screen[:before]) + len(rest) == len(screen.screen)
        screen.type("And?")
        assert said("Hello", said("Hello"), "And?") in await screen.see("main> ")
        screen.type("")
    assert re.search(TIMINGS, screen.screen)


async def test_while_it_answers_lines_are_commands(start: Start) -> None:
    hub = await start(speed=2.0)
    async with Client(hub.ws) as client, terminal(client, "a", "b") as (chat, screen):
        screen.type("Hello")
        await screen.see(said("Hello")[:10])
        screen.type("Too early")
        await screen.see("a is still answering")
        screen.type("")
        screen.type("/help")
        await screen.see("Ctrl-C")
        assert chat.interrupt()
        await screen.see("stopped · TTFT")
        await screen.see("a> ")
        assert not chat.interrupt()
        for line, complaint in (
            ("/new", "/new NAME"),
            ("/new a b", "/new NAME"),
            ("/new help", "/new NAME"),
            ("/new b", "There is a conversation b already"),
            ("/c\x1b", "There is no conversation 'c'"),
        ):
            screen.type(line)
            await screen.see(complaint)
        screen.type("/b")
        await screen.see("b> ")
        screen.type("/lanes")
        assert "  a  stopped\n* b  new\n" in await screen.see("b> ")
        screen.type(" /path is what?")
        await screen.see(said("/path is what?")[:10])
        # The end of the input leaves, and stops what runs.
        screen.lines.put_nowait("")
    await hub.hub.until_idle()
    assert hub.hub.statistics().by_status == {"cancelled": 2}


async def test_a_stopped_answer_is_gone_on_from_and_a_failed_one_is_not() -> None:
    async def handle(ws: ServerConnection) -> None:
        lane = (await asked(ws))["stream_id"]
        await tell(ws, lane, "response.created", 0, response={"id": "resp_1"})
        await tell(ws, lane, "response.output_text.delta", 1, delta="Half")
        assert (await asked(ws))["type"] == "response.cancel"
        stopped = {"id": "resp_1", "status": "cancelled"}
        await tell(ws, lane, "response.incomplete", 2, response=stopped)
        for _ in range(2):
            create = await asked(ws)
            assert create["previous_response_id"] == "resp_1"
            failed = {"id": "resp_2", "status": "failed", "error": {"code": "x", "message": "y"}}
            await tell(ws, create["stream_id"], "response.failed", 0, response=failed)
        await ws.wait_closed()

    async with (
        scripted(handle) as url,
        Client(url) as client,
        terminal(client) as (chat, screen),
    ):
        screen.type("Hello")
        await screen.see("Half")
        assert chat.interrupt()
        await screen.see("stopped")
        for message in ("Again", "And again"):
            screen.type(message)
            await screen.see("Failed: y (x)\n")
        await screen.see("main> ")
        screen.type("")


async def test_in_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(start: Start) -> None:
    hub = await start(speed=1.0)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, hub.url, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    loop = asyncio.get_running_loop()
    screen = Terminal()
    loop.add_reader(ours, lambda: screen.write(os.read(ours, 65536).decode(errors="replace")))
    try:
        await screen.see("an empty line leaves")
        await screen.see("main> ")
        os.write(ours, b"Hello\n")
        await screen.see(said("Hello")[:10])
        process.send_signal(signal.SIGINT)
        await screen.see("\x1b[2mstopped · TTFT")
        await screen.see("main> ")
        process.send_signal(signal.SIGINT)
        await screen.see("Nothing runs here")
        await screen.see("main> ")
        loop.remove_reader(ours)
        os.write(ours, b"\n")
        assert await process.wait() == 0
    finally:
        loop.remove_reader(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
    assert hub.hub.statistics().by_status == {"cancelled": 1}


async def test_over_a_pipe_ctrl_c_stops_the_answer_and_the_next_line_follows(start: Start) -> None:
    hub = await start(speed=1.0)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *COMMAND, hub.url, stdin=pipe, stdout=pipe, stderr=pipe
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"Hello\n/lanes\n")
    process.stdin.write_eof()
    begun = await process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert said("Hello").startswith(begun.decode())
    assert re.search(r"\nstopped · TTFT .*\n\* main  stopped\n$", out.decode(errors="replace"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--url", "ftp://h"], "--url"),
        (["--lane", "a b"], "--lane"),
        (["--lane", "new"], "--lane"),
        (["--url", "http://127.0.0.1:1"], "Cannot connect to ws://127.0.0.1:1/v1/responses"),
    ],
)
def test_what_cannot_begin_is_told_in_one_line(arguments: list[str], complaint: str) -> None:
    result = CliRunner().invoke(main, ["chat", *arguments])
    assert result.exit_code in (1, 2)
    assert complaint in result.output
    assert "Traceback" not in result.output


def test_help_reads_well() -> None:
    result = CliRunner().invoke(main, ["chat", "--help"], prog_name="hub")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100


def test_what_is_visible() -> None:
    assert visible("".join(map(chr, range(32)))) == "\t\n"
    assert visible("\x7f\x80\x9f\u202a\u202e\u2066\u2069") == ""
    assert visible("é👩‍💻\u00a0") == "é👩‍💻\u00a0"


def test_the_line_of_timings_leaves_out_what_is_not_known() -> None:
    assert (
        timing_line(Timings(0.1234, 2.5, 10, 83.4, False)) == "TTFT 123 ms · 83 tokens/s · 2.50 s"
    )
    assert timing_line(Timings(None, 2.5, None, None, True)) == "2.50 s · resumed"
