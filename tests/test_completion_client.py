"""The client of completions against a scripted server."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.completion import MAX_TYPED, typed_between
from hub.completion_client import LANES, ClientError, CompletionClient
from hub.errors import HubError
from hub.run import Error
from tests.scripted_hub import ScriptedHub


class News:
    """What the client told of its connection."""

    def __init__(self) -> None:
        self.heard: list[Error | None] = []
        self._back = asyncio.Event()

    def __call__(self, error: Error | None) -> None:
        self.heard.append(error)
        if error is None:
            self._back.set()

    async def back(self, client: CompletionClient) -> None:
        """Ask until hub can be reached again."""
        back = asyncio.ensure_future(self._back.wait())
        while not back.done():
            ended = asyncio.ensure_future(client.complete("a", "x").done())
            await asyncio.wait([ended, back], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()


def quick(hub: ScriptedHub, **options: Any) -> CompletionClient:
    """A client that does not wait long before it tries again."""
    return CompletionClient(hub.url, **{"first_delay": 0.01, "max_delay": 0.02, **options})


async def test_a_completion_gives_pieces_text_and_reason() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        completion = client.complete("a", "def f(", ")\n", model="m", max_tokens=9, stop=None)
        asked = await hub.asked()
        expected = {"prefix": "def f(", "suffix": ")\n", "model": "m", "max_tokens": 9}
        head = {"type": "completion.create", "version": 1}
        assert asked.message == {**head, "stream_id": asked.message["stream_id"], **expected}
        await asked.tell("completion.delta", delta="a, ")
        pieces = completion.pieces()
        assert await anext(pieces) == "a, "
        await asked.say("b", reason="line", reused=True)
        assert [piece async for piece in pieces] == ["b"]
        assert await completion.done() == "a, b"
        assert [piece async for piece in completion] == ["a, b"]
        assert (completion.reason, completion.reused, completion.version) == ("line", True, 1)


async def test_an_error_is_raised_and_ends_only_its_completion() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        completion = client.complete("a", "x")
        await (await hub.asked()).refuse("model_not_found", "model")
        with pytest.raises(HubError, match="No: model_not_found") as refused:
            await completion.done()
        assert refused.value.param == "model"
        with pytest.raises(HubError):
            _ = [piece async for piece in completion]
        after = client.complete("a", "xy")
        asked = await hub.asked()
        # What the server made of the refused one is not known.
        assert asked.message["type"] == "completion.create"
        await asked.say("z")
        assert (await after.done(), completion.reason) == ("z", "failed")


async def test_a_newer_completion_supersedes_the_older_at_once() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        older = client.complete("a", "x")
        first = await hub.asked()
        await first.tell("completion.delta", delta="stale")
        newer, other = client.complete("a", "xy"), client.complete("b", "x")
        assert older.reason == "superseded"
        assert await older.done() is None
        second, third = await hub.asked(), await hub.asked()
        # What the server still says of the older one is nobody's.
        await first.say("stale", reason="superseded")
        await second.say("new")
        await third.say("other")
        assert (await newer.done(), await other.done()) == ("new", "other")


async def test_only_the_newest_of_a_burst_is_sent() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        burst = [client.complete("a", "x" * length) for length in range(9)]
        asked = await hub.asked()
        await asked.say("!")
        assert [await one.done() for one in burst] == [None] * 8 + ["!"]
        assert (asked.prefix, hub.quiet) == ("x" * 8, True)


async def test_a_completion_may_wait_for_a_pause_in_the_typing() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        first = client.complete("a", "x")
        await hub.asked()
        second = client.complete("a", "xy", after=3600)
        assert first.reason == "superseded"
        third = client.complete("a", "xyz", after=0.001)
        asked = await hub.asked()
        # The server was not told to stop: it may predict what is typed.
        assert (asked.prefix, asked.message["type"], hub.quiet) == ("xyz", "completion.type", True)
        await asked.say("!")
        assert (await second.done(), await third.done()) == (None, "!")
        client.complete("a", "x")
        await hub.asked()
        client.complete("a", "xy", after=3600).cancel()
        assert (await hub.told())["type"] == "completion.cancel"


async def test_what_was_typed_is_sent_where_only_the_end_of_the_prefix_changed() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:

        async def sent(prefix: str, suffix: str = "", **options: Any) -> dict[str, Any]:
            client.complete("a", prefix, suffix, **options)
            asked = await hub.asked()
            assert (asked.prefix, asked.fields["suffix"]) == (prefix, suffix)
            hidden = {"stream_id", "version"}
            return {key: value for key, value in asked.message.items() if key not in hidden}

        await sent("x = ")
        assert await sent("x = 😀") == {"type": "completion.type", "insert": "😀"}
        assert await sent("x = y") == {"type": "completion.type", "insert": "y", "delete": 1}
        assert await sent("x = y") == {"type": "completion.type", "insert": ""}
        assert (await sent("x = yz", "\n"))["type"] == "completion.create"
        assert (await sent("x = yz", "\n", indent=4))["type"] == "completion.create"
        assert (await sent("x" * 9000, "\n", indent=4))["type"] == "completion.create"


@given(st.text("ab😀", max_size=40), st.text("ab😀", max_size=40))
def test_what_was_typed_makes_the_new_text_of_the_old(old: str, new: str) -> None:
    change = typed_between(old, new)
    assert change is not None
    delete = change.get("delete", 0)
    assert old[: len(old) - delete] + change["insert"] == new
    # Nothing is deleted that is typed again.
    assert not delete or not change["insert"] or old[-delete] != change["insert"][0]


def test_much_typing_is_no_typing() -> None:
    assert typed_between("a", "a" + "b" * MAX_TYPED) is not None
    assert typed_between("a", "a" + "b" * (MAX_TYPED + 1)) is None


async def test_a_lane_that_the_server_forgot_is_asked_for_in_full() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        client.complete("a", "x")
        await (await hub.asked()).say("1")
        completion = client.complete("a", "xy")
        await (await hub.asked()).refuse("invalid_value", "stream_id")
        asked = await hub.asked()
        assert (asked.message["type"], asked.prefix) == ("completion.create", "xy")
        await asked.say("2")
        assert await completion.done() == "2"
        assert completion.version == asked.message["version"] == 3


async def test_cancel_stops_the_lane_and_the_next_one_works() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        completion = client.complete("a", "x")
        asked = await hub.asked()
        completion.cancel()
        assert (await completion.done(), completion.reason) == (None, "cancelled")
        told = await hub.told()
        assert told == {"type": "completion.cancel", "stream_id": asked.message["stream_id"]}
        await asked.say("late", reason="cancelled")
        completion.cancel()
        client.cancel("a")
        client.cancel("never used")
        after = client.complete("a", "x")
        await (await hub.asked()).say("y")
        assert (await after.done(), hub.quiet) == ("y", True)


async def test_acceptance_is_told_of_a_lane_that_is_known() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        client.complete("a", "x")
        asked = await hub.asked()
        client.accepted("unknown", 1, 2)
        client.accepted("a", 1, 12)
        told = await hub.told()
        head = {"type": "completion.accepted", "stream_id": asked.message["stream_id"]}
        assert told == {**head, "version": 1, "characters": 12}


async def test_more_lanes_than_a_connection_may_name() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        completions = [client.complete(f"file {number}", "x") for number in range(LANES + 1)]
        assert completions[0].reason == "superseded"
        names = {(await hub.asked()).message["stream_id"] for _ in range(LANES)}
        assert len(names) == LANES
        # One that is used again is not the next to go.
        client.complete("file 1", "xy")
        client.complete("another", "x")
        assert completions[1].reason == completions[2].reason == "superseded"
        assert completions[3].reason is None
        again = [await hub.asked() for _ in range(2)]
        assert {asked.message["stream_id"] for asked in again} < names
        assert {asked.message["type"] for asked in again} == {
            "completion.type",
            "completion.create",
        }


async def test_a_lane_that_gave_its_name_away_is_stopped() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        for number in range(LANES):
            client.complete(f"file {number}", "x")
            asked = await hub.asked()
        first = client.complete("another", "x")
        first.cancel()
        assert (await hub.told())["type"] == "completion.cancel"
        assert asked.message["version"] == LANES
        assert hub.quiet


async def test_a_lost_connection_ends_what_ran_and_the_next_one_works() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        completion = client.complete("a", "x")
        await (await hub.asked()).tell("completion.delta", delta="half")
        hub.cut()
        assert (await completion.done(), completion.reason) == (None, "lost")
        client.accepted("a", 1, 4)
        after = client.complete("a", "xy")
        asked = await hub.asked()
        assert (asked.message["type"], hub.connections) == ("completion.create", 2)
        await asked.say("z")
        assert (await after.done(), hub.quiet) == ("z", True)


async def test_a_hub_that_is_gone_is_told_once_and_found_again() -> None:
    news = News()
    hub = ScriptedHub()
    await hub.start()
    port = int(hub.url.split(":")[2].split("/")[0])
    await hub.stop()
    async with quick(hub, on_connection=news) as client:
        for _ in range(5):
            # Each waits for an attempt, or is told at once that there was one.
            assert await client.complete("a", "x").done() is None
        assert [type(error) for error in news.heard] == [ClientError]
        await hub.start(port)
        await news.back(client)
        after = client.complete("b", "y")
        while (asked := await hub.asked()).prefix != "y":
            pass
        await asked.say("z")
        assert await after.done() == "z"
        assert news.heard[1:] == [None]
        await hub.stop()


@pytest.mark.parametrize("code", ["websocket_connection_limit_reached", "shutting_down"])
async def test_a_connection_that_takes_no_more_is_left_and_nothing_is_lost(code: str) -> None:
    """It is too old, or its server is about to stop and another one serves there."""
    async with ScriptedHub() as hub, quick(hub) as client:
        running = client.complete("a", "x")
        first = await hub.asked()
        refused = client.complete("b", "y")
        await (await hub.asked()).refuse(code)
        asked = await hub.asked()
        assert (asked.prefix, hub.connections) == ("y", 2)
        assert asked.ws is not first.ws
        await asked.say("z")
        assert (await refused.done(), await running.done()) == ("z", None)


async def test_a_server_that_restarts_may_say_when_to_come_back() -> None:
    async with (
        ScriptedHub() as hub,
        CompletionClient(hub.url, first_delay=1000, max_delay=1000) as client,
    ):
        first = client.complete("a", "x")
        asked = await hub.asked()
        await asked.ws.close(1012, "hub is shutting down; retry in 10 ms")
        assert await first.done() is None
        second = client.complete("a", "x")
        await (await hub.asked()).say("y")
        assert await second.done() == "y"


async def test_a_connection_that_becomes_too_old_is_left_when_nothing_runs() -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        first = client.complete("a", "x")
        asked = await hub.asked()
        error = {"code": "websocket_connection_limit_reached", "message": "60 minutes."}
        await asked.ws.send(json.dumps({"type": "error", "status": 400, "error": error}))
        await asked.say("y")
        assert await first.done() == "y"
        await asked.ws.wait_closed()
        second = client.complete("a", "xy")
        await (await hub.asked()).say("z")
        assert (await second.done(), hub.connections) == ("z", 2)


async def test_a_complaint_about_nothing_that_runs_hurts_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with ScriptedHub() as hub, quick(hub) as client:
        completion = client.complete("a", "x")
        asked = await hub.asked()
        error = {"code": "invalid_json", "message": "What?"}
        await asked.ws.send(json.dumps({"type": "error", "status": 400, "error": error}))
        await asked.tell("completion.unheard_of")
        await asked.say("y")
        assert await completion.done() == "y"
    assert [record.getMessage() for record in caplog.records if record.name.startswith("hub")] == [
        "the server complains: What? (invalid_json)"
    ]


async def test_a_defect_is_logged_and_the_client_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    class Defect(News):
        defect = True

        def __call__(self, error: Error | None) -> None:
            if error is None and self.defect:
                self.defect = False
                raise RuntimeError("a defect")
            super().__call__(error)

    news = Defect()
    async with ScriptedHub() as hub, quick(hub, on_connection=news) as client:
        client.complete("a", "x")
        await (await hub.asked()).ws.send("no JSON")
        await news.back(client)
        after = client.complete("b", "y")
        while (asked := await hub.asked()).prefix != "y":
            pass
        await asked.say("z")
        assert await after.done() == "z"
    assert "the client failed" in caplog.text


@pytest.mark.parametrize("noise", ["no JSON", '"text"', '{"type":"error"}'])
async def test_noise_ends_the_connection_and_not_the_client(noise: str) -> None:
    news = News()
    async with ScriptedHub() as hub, quick(hub, on_connection=news) as client:
        completion = client.complete("a", "x")
        await (await hub.asked()).ws.send(noise)
        assert (await completion.done(), completion.reason) == (None, "lost")
        assert [getattr(error, "code", None) for error in news.heard] == ["connection_closed"]
        await news.back(client)
        after = client.complete("b", "y")
        while (asked := await hub.asked()).prefix != "y":
            pass
        await asked.say("z")
        assert await after.done() == "z"


async def test_what_is_too_large_is_refused_here() -> None:
    async with ScriptedHub() as hub, quick(hub, max_message=1000) as client:
        with pytest.raises(HubError) as refused:
            await client.complete("a", "x" * 1000).done()
        assert refused.value.code == "message_too_large"
        with pytest.raises(TypeError):
            client.complete("a", "\ud83d")


async def test_closing_ends_what_runs() -> None:
    async with ScriptedHub() as hub:
        async with quick(hub) as client:
            completion = client.complete("a", "x")
            await hub.asked()
        assert (await completion.done(), completion.reason) == (None, "lost")
        with pytest.raises(RuntimeError):
            client.complete("a", "x")
