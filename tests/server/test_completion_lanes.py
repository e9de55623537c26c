"""Completions on a WebSocket: versions of a lane, what each is told, and how each ends."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from hub.completer import Completer
from hub.dispatch.terms import DEFAULT
from hub.server.auth import Gate
from hub.server.lanes import Complete
from hub.server.outbox import Outbox
from hub.server.parser import Parser
from hub.server.session import Session
from tests.manual import Call, ManualEngine
from tests.running import Running, Start

Frame = dict[str, Any]


class Plugin:
    """One connection to a hub whose engine is in the test's hands."""

    def __init__(self, ws: ClientConnection, hub: Running) -> None:
        self.ws = ws
        self.hub = hub
        self.engine: ManualEngine = hub.engine

    async def send(self, type: str, version: int | None = None, **fields: Any) -> None:
        message: Frame = {"type": f"completion.{type}", "stream_id": "a", **fields}
        if version is not None:
            message["version"] = version
        await self.ws.send(json.dumps(message))

    async def until_end(self, version: int) -> list[Frame]:
        """The frames up to a version's last, each of which must be of some version."""
        frames: list[Frame] = []
        while True:
            frames.append(json.loads(await self.ws.recv()))
            if frames[-1]["type"] != "completion.delta" and frames[-1]["version"] == version:
                return frames


@asynccontextmanager
async def plugin(start: Start) -> AsyncIterator[Plugin]:
    hub = await start(ManualEngine())
    async with connect(hub.ws) as ws:
        one = Plugin(ws, hub)
        # A model that has said nothing may be loading, which is another matter.
        await one.send("create", 1, prefix="loaded", stream_id="warm")
        call = await one.engine.call(0)
        call.sink.text("x")
        call.finish()
        await one.until_end(1)
        one.engine.calls.clear()
        yield one


def say(call: Call, text: str, reason: str = "stop") -> None:
    call.sink.text(text)
    call.finish(reason)


def text_of(frames: list[Frame], version: int) -> str:
    deltas = [one for one in frames if one["type"] == "completion.delta"]
    return "".join(one["delta"] for one in deltas if one["version"] == version)


async def test_a_completion_is_its_deltas_and_one_end(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="def f(", suffix="):", max_tokens=5)
        call = await editor.engine.call(0)
        generation = call.generation
        assert (generation.prompt, generation.suffix, generation.max_tokens) == ("def f(", "):", 5)
        say(call, "x, y", "length")
        frames = await editor.until_end(1)
        assert text_of(frames, 1) == "x, y"
        assert {one["stream_id"] for one in frames} == {"a"}
        assert frames[-1] == {
            "type": "completion.done",
            "stream_id": "a",
            "version": 1,
            "reason": "length",
            "reused": False,
        }


async def test_what_is_typed_is_sent_as_a_delta_and_answered_from_the_stream(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="re", suffix="\n")
        call = await editor.engine.call(0)
        call.sink.text("tu")
        await editor.ws.recv()
        await editor.send("type", 2, insert="t")
        ended = await editor.until_end(1)
        assert ended[-1]["reason"] == "superseded"
        say(call, "rn a")
        frames = await editor.until_end(2)
        assert text_of([*ended, *frames], 2) == "urn a"
        assert (frames[-1]["reason"], frames[-1]["reused"]) == ("stop", True)
        # A wrong key and a backspace: the text is as it was.
        await editor.send("type", 3, insert="x")
        await editor.send("type", 4, insert="u", delete=1)
        frames = await editor.until_end(4)
        assert text_of(frames, 4) == "rn a"


async def test_a_text_that_differs_supersedes_and_lets_go_of_the_upstream(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="a", suffix="\n")
        call = await editor.engine.call(0)
        call.sink.text("bc")
        await editor.send("type", 2, insert="x")
        await editor.until_end(1)
        second = await editor.engine.call(1)
        assert call.result.cancelled()
        assert second.generation.prompt == "ax"
        say(second, "y")
        assert text_of(await editor.until_end(2), 2) == "y"


async def test_the_same_text_again_goes_on_with_what_runs(start: Start) -> None:
    """One version of a lane is answered at a time, the latest, and nothing is asked for twice."""
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="re", suffix="\n")
        call = await editor.engine.call(0)
        call.sink.text("tu")
        await editor.ws.recv()
        await editor.send("type", 2, insert="")
        ended = await editor.until_end(1)
        assert ended[-1]["reason"] == "superseded"
        say(call, "rn")
        assert text_of([*ended, *await editor.until_end(2)], 2) == "turn"
        assert len(editor.engine.calls) == 1


async def test_only_so_many_versions_are_open(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused may be asked again when one has ended; what was typed by then counts."""
    monkeypatch.setattr("hub.server.completion_lanes.MAX_OPEN", 2)
    async with plugin(start) as editor:
        for lane in "abc":
            await editor.send("create", 1, prefix="x", stream_id=lane)
        error = (await editor.until_end(1))[-1]
        assert (error["stream_id"], error["error"]["code"]) == ("c", "rate_limit_exceeded")
        say(await editor.engine.call(0), "y")
        await editor.until_end(1)
        await editor.send("type", 2, insert="z", stream_id="c")
        assert (await editor.engine.call(2)).generation.prompt == "xz"


async def test_versions_that_are_open_hold_only_so_much(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.completion_lanes.MAX_OPEN_BYTES", 1000)
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="x" * 1000)
        await editor.send("create", 1, prefix="x", stream_id="b")
        assert (await editor.until_end(1))[-1]["error"]["code"] == "rate_limit_exceeded"


async def test_after_a_message_that_was_not_understood_the_text_is_not_known(start: Start) -> None:
    """What is typed next is not added to the text from before it."""
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="ab")
        say(await editor.engine.call(0), "c")
        await editor.until_end(1)
        await editor.send("type", 2, insert="x", delete=9)
        assert (await editor.until_end(2))[-1]["error"]["param"] == "delete"
        await editor.send("type", 3, insert="y")
        assert (await editor.until_end(3))[-1]["error"]["param"] == "stream_id"


async def test_a_version_that_was_overtaken_is_superseded_at_once(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("create", 7, prefix="a")
        await editor.send("create", 6, prefix="b")
        await editor.send("type", 7, insert="b")
        assert (await editor.until_end(6))[-1]["reason"] == "superseded"
        assert (await editor.until_end(7))[-1]["reason"] == "superseded"
        say(await editor.engine.call(0), "y")
        frames = await editor.until_end(7)
        assert text_of(frames, 7) == "y"
        assert len(editor.engine.calls) == 1


async def test_a_cancelled_lane_ends_its_completion(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="a")
        call = await editor.engine.call(0)
        await editor.send("cancel")
        assert (await editor.until_end(1))[-1]["reason"] == "cancelled"
        assert call.result.cancelled()


async def test_an_old_connection_may_still_be_told_to_stop(start: Start) -> None:
    """It takes no new versions, and ends when those that it has have ended."""
    hub = await start(ManualEngine())
    idle, sent, frames = asyncio.Event(), list[Frame](), list[bytes]()
    loop, stop, completer = asyncio.get_running_loop(), hub.hub.cancel, Completer(hub.hub)
    completer.warm("")
    session = Session(
        hub.hub,
        Outbox(frames.append, loop, patience=60.0, max_lag=1 << 20, on_slow=idle.clear),
        sent.append,
        parser=Parser(),
        completer=completer,
        gate=Gate(None, now=loop.time, clock=loop.time, stop=stop),
        tenant="",
        terms=DEFAULT,
        on_idle=idle.set,
    )
    create = {"type": "completion.create", "version": 1, "prefix": "x"}
    session.receive(lambda: Complete("a", create))
    call = await hub.engine.call(0)
    session.expire("old")
    session.receive(lambda: Complete("b", create))
    session.receive(lambda: Complete("a", {"type": "completion.cancel"}))
    await idle.wait()
    await call.over()
    assert call.result.cancelled()
    codes = [frame["error"]["code"] for frame in sent]
    assert codes == ["websocket_connection_limit_reached"] * 2
    session.close()


async def test_a_closed_connection_stops_all_its_completions(start: Start) -> None:
    async with plugin(start) as editor:
        for lane in "ab":
            await editor.send("create", 1, prefix="x", stream_id=lane)
        await editor.engine.call(1)
        engine = editor.engine
    for call in engine.calls:
        await call.over()
        assert call.result.cancelled()


async def test_hubs_own_rules_end_a_text_and_are_named(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("create", 1, prefix="x = ", suffix="\n", single_line=True)
        call = await editor.engine.call(0)
        call.sink.text("1\ny = 2")
        frames = await editor.until_end(1)
        assert (text_of(frames, 1), frames[-1]["reason"]) == ("1", "line")
        await call.over()


async def test_lanes_of_completions_and_of_responses_share_the_connection(start: Start) -> None:
    async with plugin(start) as editor:
        create = {"type": "response.create", "stream_id": "a", "input": "hi", "store": False}
        await editor.ws.send(json.dumps(create))
        chat = await editor.engine.call(0)
        await editor.send("create", 1, prefix="a")
        say(await editor.engine.call(1), "b")
        say(chat, "hello")
        seen: set[str] = set()
        while not {"completion.done", "response.completed"} <= seen:
            seen.add(json.loads(await editor.ws.recv())["type"])


async def test_what_was_accepted_is_counted(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("accepted", 1, characters=12)
        await editor.send("accepted", 1, characters=-1)
        error = json.loads(await editor.ws.recv())
        assert (error["error"]["param"], error["stream_id"]) == ("characters", "a")


@pytest.mark.parametrize(
    ("type", "fields", "code", "param"),
    [
        ("create", {}, "missing_required_parameter", "prefix"),
        ("create", {"prefix": 1}, "invalid_type", "prefix"),
        ("create", {"prefix": "x", "model": "none"}, "model_not_found", "model"),
        ("type", {"insert": "x"}, "invalid_value", "stream_id"),
    ],
)
async def test_a_bad_request_is_its_versions_error(
    start: Start, type: str, fields: Frame, code: str, param: str
) -> None:
    """And the lane goes on."""
    async with plugin(start) as editor:
        await editor.send(type, 1, **fields)
        error = (await editor.until_end(1))[-1]
        assert (error["type"], error["error"]["code"]) == ("error", code)
        assert error["error"]["param"] == param
        await editor.send("create", 2, prefix="x")
        say(await editor.engine.call(0), "y")
        assert text_of(await editor.until_end(2), 2) == "y"


async def test_a_message_without_a_version_is_refused(start: Start) -> None:
    async with plugin(start) as editor:
        await editor.send("create", prefix="x")
        error = json.loads(await editor.ws.recv())
        assert error["error"]["param"] == "version"


async def test_the_texts_of_a_connections_lanes_are_bounded_together(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The longest unused is forgotten, and its client has to send it again."""
    monkeypatch.setattr("hub.server.completion_lanes.MAX_CHARACTERS", 100)
    async with plugin(start) as editor:
        for call, lane in enumerate(("a", "b")):
            await editor.send("create", 1, prefix="x" * 30, suffix="y" * 30, stream_id=lane)
            say(await editor.engine.call(call), "zz")
            await editor.until_end(1)
        await editor.send("type", 2, insert="z", stream_id="a")
        error = (await editor.until_end(2))[-1]
        assert error["error"]["param"] == "stream_id"
        await editor.send("type", 2, insert="z", stream_id="b")
        assert (await editor.until_end(2))[-1]["type"] == "completion.done"
