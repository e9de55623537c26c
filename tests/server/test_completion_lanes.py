"""Completions on a WebSocket: versions of a lane, what each is told, and how each ends."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

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
