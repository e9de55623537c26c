"""The client against a real server, through a proxy that can be cut, and against a scripted one."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from hub import client as client_module
from hub.api.requests import Generation
from hub.client import LANES, MAX_WAITING, Client, ClientError, Run, websocket_url
from hub.dial import delay
from hub.engines.sim_text import full_text
from hub.errors import HubError
from tests.running import Start


def quick(url: str | list[str], *, patience: float = 60.0) -> Client:
    """A client that does not wait long before it tries again."""
    return Client(url, first_delay=0.01, max_delay=0.05, patience=patience)


def said(*turns: str) -> str:
    """What the simulated engine says to a conversation, the user's turn first and last."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return full_text(Generation(model="", messages=messages))


class Proxy:
    """Passes bytes on, until it is cut; what the server says can be swallowed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._pipes: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepted = 0
        self.swallow = False
        self.url = ""

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/v1/responses"
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for pipe in [*self._pipes]:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection, without a word."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        upstream, out = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, out}
        for source, sink, down in ((reader, out, False), (upstream, writer, True)):
            pipe = asyncio.create_task(self._pipe(source, sink, down))
            self._pipes.add(pipe)
            pipe.add_done_callback(self._pipes.discard)

    async def _pipe(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, down: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await source.read(4096):
                if not (down and self.swallow):
                    sink.write(data)
                    await sink.drain()
        sink.close()


Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def scripted(*handlers: Handler) -> AsyncIterator[str]:
    """A server whose connections are handled by one handler each, in their order."""
    left = iter(handlers)

    async def handle(ws: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await next(left)(ws)

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/v1/responses"


async def asked(ws: ServerConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(await ws.recv())
    return message


async def tell(ws: ServerConnection, lane: str, type: str, number: int, **fields: Any) -> None:
    event = {"type": type, "sequence_number": number, "stream_id": lane, **fields}
    await ws.send(json.dumps(event))


async def answer(
    ws: ServerConnection, lane: str, *pieces: str, first: int = 0, usage: Any = None
) -> None:
    """A whole response, or its end if ``first`` is not 0."""
    response = {"id": "resp_1", "status": "completed", "usage": usage}
    if first == 0:
        await tell(ws, lane, "response.created", 0, response={**response, "status": "in_progress"})
        first = 1
    for number, piece in enumerate(pieces, first):
        await tell(ws, lane, "response.output_text.delta", number, delta=piece)
    end = first + len(pieces)
    await tell(ws, lane, "response.completed", end, response=response)


async def first_piece(run: Run) -> str:
    async for piece in run:
        return piece
    raise AssertionError("there was no text")


async def until(run: Run, holds: Callable[[], bool]) -> None:
    while not holds():
        await run.changed()


# Against hub.


async def test_a_run_gives_pieces_text_response_and_timings(start: Start) -> None:
    hub = await start()
    async with Client(hub.ws) as client:
        run = client.create(input="Hello")
        pieces = [piece async for piece in run]
        response = await run.done()
    assert "".join(pieces) == run.text == said("Hello")
    assert len(pieces) > 1
    assert (response["status"], response["id"], run.state) == ("completed", run.id, "done")
    timings = run.timings
    assert timings.tokens == response["usage"]["output_tokens"]
    assert timings.ttft is not None
    assert timings.total is not None
    assert timings.tokens_per_second is not None
    assert 0 < timings.ttft < timings.total
    assert not timings.resumed


async def test_readers_may_come_late_or_never_and_each_gets_the_text(start: Start) -> None:
    hub = await start()
    async with Client(hub.url) as client:
        run = client.create(input="Hello")
        await run.done()
        assert [piece async for piece in run] == [said("Hello")]
        assert [piece async for piece in run.pieces(after=5)] == [said("Hello")[5:]]


async def test_two_runs_at_once(start: Start) -> None:
    hub = await start(speed=20.0)
    async with Client(hub.ws) as client:
        tea, coffee = client.create("Tea"), client.create("Coffee")
        await asyncio.gather(first_piece(tea), first_piece(coffee))
        assert (tea.state, coffee.state) == ("running", "running")
        await asyncio.gather(tea.done(), coffee.done())
    assert (tea.text, coffee.text) == (said("Tea"), said("Coffee"))


async def test_a_conversation_goes_on(start: Start) -> None:
    hub = await start()
    async with Client(hub.ws) as client:
        first = await client.create("One").done()
        second = client.create("Two", previous_response_id=first["id"])
        await second.done()
    assert second.text == said("One", said("One"), "Two")


async def test_runs_of_one_lane_run_one_after_the_other(start: Start) -> None:
    hub = await start(speed=50.0)
    async with Client(hub.ws) as client:
        runs = [client.create(f"Question {number}", lane="a") for number in range(3)]
        other = client.create("Meanwhile", lane="b")
        for number, run in enumerate(runs):
            await first_piece(run)
            assert {one.state for one in runs[number + 1 :]} <= {"waiting"}
            await run.done()
        await other.done()
    assert [run.text for run in runs] == [said(f"Question {number}") for number in range(3)]


async def test_more_lanes_than_a_connection_may_name(start: Start) -> None:
    hub = await start(speed=1000.0, window=100)
    async with Client(hub.ws) as client:
        runs = [client.create(f"Hello {number}", lane=f"own-{number}") for number in range(100)]
        for run in runs:
            await run.done()
    assert [run.text for run in runs] == [said(f"Hello {number}") for number in range(100)]
    assert hub.hub.statistics().by_status == {"completed": 100}


async def test_too_many_runs_are_refused_here(start: Start) -> None:
    hub = await start(speed=1000.0)
    async with Client(hub.ws) as client:
        runs = [client.create("Hi", generate=False) for _ in range(MAX_WAITING + 1)]
        with pytest.raises(ClientError) as refused:
            await runs[-1].done()
        assert (refused.value.code, refused.value.retryable) == ("too_many_waiting", True)
        assert {(await run.done())["status"] for run in runs[:-1]} == {"completed"}


async def test_cancel_keeps_what_was_said(start: Start) -> None:
    hub = await start(speed=1.0)
    async with Client(hub.ws) as client:
        run = client.create("Hello")
        await first_piece(run)
        run.cancel()
        run.cancel()
        response = await run.done()
        assert response["status"] == "cancelled"
        assert run.text == response["output"][0]["content"][0]["text"]
        assert said("Hello").startswith(run.text)
        run.cancel()
    assert hub.engine.statistics().aborted == 1


async def test_cancel_before_it_was_sent_and_before_it_had_begun(start: Start) -> None:
    hub = await start(speed=1.0)
    async with Client(hub.ws) as client:
        never = client.create("Never sent")
        never.cancel()
        assert (await never.done())["status"] == "cancelled"
        assert never.id is None
        run = client.create("Hello")
        await until(run, lambda: run.state != "waiting")
        run.cancel()
        assert (await run.done())["status"] == "cancelled"
    await hub.hub.until_idle()
    assert set(hub.hub.statistics().by_status) <= {"cancelled"}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "none"}, "model_not_found", "model"),
        ({"previous_response_id": "resp_none"}, "previous_response_not_found", None),
        ({"temperature": "hot"}, "invalid_type", "temperature"),
        ({"model": "sim+error"}, "upstream_error", None),
        ({"model": "sim+429"}, "upstream_overloaded", None),
    ],
)
async def test_errors_are_those_of_the_table(
    start: Start, fields: dict[str, Any], code: str, param: str | None
) -> None:
    hub = await start()
    async with Client(hub.ws) as client:
        run = client.create("Hello", **fields)
        good = client.create("Hello")
        for _ in range(2):
            with pytest.raises(HubError) as failed:
                await run.done()
        with pytest.raises(HubError):
            assert [piece async for piece in run]
        await good.done()
    assert failed.value.code == code
    assert param in (None, failed.value.param)
    assert good.text == said("Hello")


async def test_a_message_that_is_too_large_is_not_sent(start: Start) -> None:
    hub = await start(max_message=1000)
    async with Client(hub.ws, max_message=1000) as client:
        good = client.create("Hello")
        with pytest.raises(HubError) as refused:
            await client.create("x" * 1000).done()
        assert refused.value.code == "message_too_large"
        await good.done()


async def test_a_cut_connection_is_resumed_and_the_text_is_exact(start: Start) -> None:
    hub = await start(speed=10.0)
    async with Proxy(hub.port) as proxy, quick(proxy.url) as client:
        runs = [client.create(f"Hello {number}") for number in range(16)]
        # Those whose request is not acknowledged would end.
        await asyncio.gather(*(first_piece(run) for run in runs))
        for _ in range(4):
            proxy.cut()
            await asyncio.gather(*(_moves(run) for run in runs))
        runs += [client.create(f"Hello {number}") for number in range(16, 20)]
        for run in runs:
            await run.done()
            assert run.text == said(run_input(runs, run))
        resumed = [run.timings for run in runs if run.timings.resumed]
        assert len(resumed) == 16
        assert {timings.tokens_per_second for timings in resumed} == {None}
        assert proxy.accepted >= 3
    assert hub.hub.statistics().by_status == {"completed": 20}


def run_input(runs: list[Run], run: Run) -> str:
    return f"Hello {runs.index(run)}"


async def _moves(run: Run) -> None:
    """The run has text that it had not yet, or has ended."""
    async for _ in run.pieces(len(run.text)):
        return


async def test_what_ended_while_there_was_no_connection_is_read_from_the_store(
    start: Start,
) -> None:
    hub = await start(speed=20.0)
    async with Proxy(hub.port) as proxy, quick(proxy.url) as client:
        run = client.create("Hello")
        await first_piece(run)
        proxy.swallow = True
        await hub.hub.until_idle()
        assert run.state == "running"
        proxy.swallow = False
        proxy.cut()
        response = await run.done()
    assert (run.text, response["status"]) == (said("Hello"), "completed")


async def test_a_request_that_was_not_acknowledged_is_not_sent_again(start: Start) -> None:
    hub = await start(speed=10.0)
    async with Proxy(hub.port) as proxy, quick(proxy.url) as client:
        proxy.swallow = True
        run = client.create("Hello")
        await hub.engine.asked.wait()
        proxy.swallow = False
        proxy.cut()
        with pytest.raises(ClientError) as failed:
            await run.done()
        assert failed.value.code == "outcome_unknown"
        after = client.create("After")
        await after.done()
        assert after.text == said("After")
        await hub.hub.until_idle()
        assert hub.engine.statistics().finished + hub.engine.statistics().aborted == 2


async def test_a_response_that_is_not_stored_is_not_resumed(start: Start) -> None:
    hub = await start(speed=10.0)
    async with Proxy(hub.port) as proxy, quick(proxy.url) as client:
        run = client.create("Hello", store=False)
        text = await first_piece(run)
        proxy.cut()
        with pytest.raises(ClientError) as failed:
            await run.done()
    assert failed.value.code == "connection_lost"
    assert run.text.startswith(text)


async def test_a_cancel_while_the_connection_is_lost_holds(start: Start) -> None:
    hub = await start(speed=1.0)
    async with Proxy(hub.port) as proxy, quick(proxy.url) as client:
        run = client.create("Hello")
        await first_piece(run)
        proxy.cut()
        await until(run, lambda: run.state == "resuming")
        run.cancel()
        assert (await run.done())["status"] == "cancelled"
    assert hub.engine.statistics().aborted == 1


async def test_a_running_and_a_stored_response_can_be_read_by_others(start: Start) -> None:
    hub = await start(speed=20.0)
    async with Client(hub.ws) as client, Client(hub.ws) as other:
        run = client.create("Hello")
        await first_piece(run)
        assert run.id is not None
        for _ in ("running", "stored"):
            copy = other.resume(run.id)
            assert (await copy.done())["id"] == run.id
            assert copy.text == said("Hello")
            assert (copy.timings.ttft, copy.timings.total) == (None, None)
        with pytest.raises(HubError) as failed:
            await other.resume("resp_none").done()
        assert failed.value.code == "response_not_found"


async def test_an_old_connection_is_left_for_a_new_one(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.app.PING_INTERVAL", 0.1)
    hub = await start(speed=10.0, connection_lifetime=0.0)
    async with Proxy(hub.port) as proxy, quick(proxy.url) as client:
        runs = [client.create(f"Hello {number}") for number in range(40)]
        for run in runs:
            await run.done()
            assert run.text == said(run_input(runs, run))
        assert proxy.accepted > 1
    assert hub.hub.statistics().by_status == {"completed": 40}


async def test_closing_ends_what_runs(start: Start) -> None:
    hub = await start(speed=1.0)
    async with Client(hub.ws) as client:
        runs = [client.create("Hello") for _ in range(20)]
        await first_piece(runs[0])
    for run in runs:
        with pytest.raises(ClientError) as failed:
            await run.done()
        assert failed.value.code == "client_closed"
    with pytest.raises(RuntimeError, match="async with"):
        client.create("Too late")


async def test_a_server_that_refuses_says_why(start: Start) -> None:
    hub = await start()
    with pytest.raises(HubError) as refused:
        async with Client(hub.ws, headers={"Origin": "http://evil.example"}):
            pass
    assert refused.value.code == "origin_not_allowed"
    with pytest.raises(HubError) as lost:
        async with Client(f"{hub.url}/v1/nothing"):
            pass
    assert lost.value.code == "not_found"


async def test_a_server_that_is_not_there(start: Start) -> None:
    hub = await start()
    await hub.server.stop(drain=0)
    with pytest.raises(ClientError) as refused:
        async with Client(hub.ws):
            pass
    assert (refused.value.code, refused.value.retryable) == ("connection_refused", True)


# Against a script.


@pytest.mark.parametrize("code", [1001, 1011, 1012, 1013])
async def test_these_close_codes_mean_come_back(code: int) -> None:
    async def first(ws: ServerConnection) -> None:
        create = await asked(ws)
        assert create["input"] == "Hello"
        lane = create["stream_id"]
        await tell(ws, lane, "response.created", 0, response={"id": "resp_1"})
        await tell(ws, lane, "response.output_text.delta", 3, delta="One ")
        await ws.close(code)

    async def second(ws: ServerConnection) -> None:
        resume = await asked(ws)
        lane = resume.pop("stream_id")
        assert resume == {"type": "response.resume", "response_id": "resp_1", "starting_after": 3}
        # What it has already comes again, and is not taken twice.
        await tell(ws, lane, "response.output_text.delta", 3, delta="One ")
        await answer(ws, lane, "two", first=4)
        await ws.wait_closed()

    async with scripted(first, second) as url, quick(url) as client:
        run = client.create("Hello")
        await run.done()
    assert run.text == "One two"
    # The numbers count merged deltas.
    assert run.timings.tokens == 4


@pytest.mark.parametrize("code", [1000, 1002, 1007, 1008, 1009, 4000])
async def test_other_close_codes_end_every_run_but_not_the_client(code: int) -> None:
    async def first(ws: ServerConnection) -> None:
        create = await asked(ws)
        await tell(ws, create["stream_id"], "response.created", 0, response={"id": "resp_1"})
        for _ in LANES[1:]:
            await asked(ws)
        await ws.close(code, "enough")

    async def second(ws: ServerConnection) -> None:
        await answer(ws, (await asked(ws))["stream_id"], "Hello")
        await ws.wait_closed()

    async with scripted(first, second) as url, quick(url) as client:
        runs = [client.create(f"Hello {number}") for number in range(18)]
        codes = []
        for run in runs:
            with pytest.raises(ClientError) as failed:
                await run.done()
            codes.append(failed.value.code)
        unknown = ["outcome_unknown"] * 15
        assert codes == ["connection_closed", *unknown, "connection_closed", "connection_closed"]
        again = client.create("Hello")
        await again.done()
    assert again.text == "Hello"


async def test_a_new_connection_is_not_delayed_by_what_can_be_resumed() -> None:
    """The old one takes nothing new: a run moves to the next one, with those that wait for it."""
    limit = {"code": "websocket_connection_limit_reached", "message": "Connect again."}

    async def first(ws: ServerConnection) -> None:
        lane = (await asked(ws))["stream_id"]
        await tell(ws, lane, "response.created", 0, response={"id": "resp_1"})
        await tell(ws, lane, "response.output_text.delta", 1, delta="One ")
        for _ in range(2):
            refused = (await asked(ws))["stream_id"]
            await ws.send(json.dumps({"type": "error", "stream_id": refused, "error": limit}))
        await ws.wait_closed()

    async def second(ws: ServerConnection) -> None:
        resume, create = await asked(ws), await asked(ws)
        assert (resume["response_id"], resume["starting_after"]) == ("resp_1", 1)
        assert create["input"] == "Two"
        await answer(ws, create["stream_id"], "three")
        await answer(ws, resume["stream_id"], "two", first=2)
        await ws.wait_closed()

    async with scripted(first, second) as url, quick(url) as client:
        run = client.create("One")
        await first_piece(run)
        waits, unwanted = client.create("Two"), client.create("Three")
        await until(unwanted, lambda: unwanted.state == "queued")
        unwanted.cancel()
        await asyncio.gather(run.done(), waits.done())
        assert (await unwanted.done())["status"] == "cancelled"
    assert (run.text, waits.text) == ("One two", "three")


@pytest.mark.parametrize(("status", "retryable"), [(403, False), (429, True), (502, True)])
async def test_a_handshake_that_somebody_else_refuses(status: int, retryable: bool) -> None:
    def refuse(ws: ServerConnection, request: Request) -> Response:
        return ws.respond(status, "No.")

    async def handle(ws: ServerConnection) -> None:
        raise AssertionError("it was refused")

    async with serve(handle, "127.0.0.1", 0, process_request=refuse) as server:
        with pytest.raises(ClientError) as refused:
            async with Client(f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"):
                pass
    assert (refused.value.code, refused.value.retryable) == ("connection_refused", retryable)
    assert str(status) in refused.value.message


async def test_lifecycle_events_and_reasoning_are_not_the_first_token() -> None:
    go = asyncio.Event()

    async def handle(ws: ServerConnection) -> None:
        lane = (await asked(ws))["stream_id"]
        await tell(ws, lane, "response.created", 0, response={"id": "resp_1"})
        await tell(ws, lane, "response.in_progress", 1, response={"id": "resp_1"})
        await tell(ws, lane, "response.reasoning_text.delta", 2, delta="Hm")
        await tell(ws, lane, "response.output_text.delta", 3, delta="")
        await go.wait()
        usage = {"output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 3}}
        await answer(ws, lane, "A", "b", first=4, usage=usage)
        await ws.wait_closed()

    async with scripted(handle) as url, Client(url) as client:
        run = client.create("Hello")
        await until(run, lambda: run.sequence_number == 3)
        assert (run.timings.ttft, run.timings.tokens, run.text) == (None, None, "")
        go.set()
        await run.done()
    assert run.timings.ttft is not None
    assert (run.timings.tokens, run.text) == (2, "Ab")


@pytest.mark.parametrize(
    "garbage",
    [
        "{",
        "[]",
        "7",
        "{}",
        '{"type":"error"}',
        '{"type":"error","error":7}',
        '{"type":"keepalive","stream_id":[]}',
        '{"type":"response.completed","sequence_number":9,"stream_id":"lane-1"}',
        '{"type":"response.output_text.delta","sequence_number":"x","stream_id":"lane-1"}',
        '{"type":"response.created","sequence_number":0,"stream_id":"lane-1","response":null}',
    ],
)
async def test_what_is_not_an_event_ends_the_connection_with_a_typed_error(
    garbage: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(ws: ServerConnection) -> None:
        await asked(ws)
        await ws.send(garbage)
        await ws.wait_closed()

    async with scripted(handle) as url, quick(url) as client:
        run = client.create("Hello")
        with pytest.raises(ClientError) as failed:
            await run.done()
    assert failed.value.code == "protocol_error"
    assert "not an event" in caplog.text


async def test_unknown_codes_and_complaints_about_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def handle(ws: ServerConnection) -> None:
        error = {"code": "strange", "message": "Strange."}
        await ws.send(json.dumps({"type": "error", "error": error}))
        lane = (await asked(ws))["stream_id"]
        await ws.send(json.dumps({"type": "keepalive", "stream_id": lane}))
        await ws.send(json.dumps({"type": "error", "error": error, "stream_id": lane}))
        await ws.wait_closed()

    with caplog.at_level(logging.WARNING, "hub.client"):
        async with scripted(handle) as url, Client(url) as client:
            with pytest.raises(ClientError) as failed:
                await client.create("Hello").done()
    assert (failed.value.code, failed.value.message) == ("strange", "Strange.")
    assert "the server complains: Strange. (strange)" in caplog.text


async def test_a_server_that_stays_away_ends_every_run_and_may_come_back() -> None:
    async def leave(ws: ServerConnection) -> None:
        lane = (await asked(ws))["stream_id"]
        await tell(ws, lane, "response.created", 0, response={"id": "resp_1"})
        ws.transport.abort()

    async def stay(ws: ServerConnection) -> None:
        await answer(ws, (await asked(ws))["stream_id"], "Hello")
        await ws.wait_closed()

    handlers = iter((leave, stay))

    async def handle(ws: ServerConnection) -> None:
        with suppress(ConnectionClosed):
            await next(handlers)(ws)

    server = await serve(handle, "127.0.0.1", 0)
    port = next(iter(server.sockets)).getsockname()[1]
    async with quick(f"ws://127.0.0.1:{port}", patience=0.1) as client:
        run = client.create("Hello")
        server.close(close_connections=False)
        with pytest.raises(ClientError) as failed:
            await run.done()
        assert (failed.value.code, failed.value.retryable) == ("connection_refused", True)
        async with serve(handle, "127.0.0.1", port):
            again = client.create("Hello")
            await again.done()
    assert again.text == "Hello"


# Many nodes.


async def begin(ws: ServerConnection, *, close: str | None = None) -> None:
    """A response of which there is "One ", before the server closes with this reason, if any."""
    lane = (await asked(ws))["stream_id"]
    await tell(ws, lane, "response.created", 0, response={"id": "resp_1"})
    await tell(ws, lane, "response.output_text.delta", 1, delta="One ")
    if close is not None:
        await ws.close(1012, close)


async def refuse(ws: ServerConnection, code: str, status: int = 503) -> dict[str, Any]:
    """Refuse the next request, which this gives."""
    message = await asked(ws)
    error = {"code": code, "message": f"No: {code}."}
    frame = {"type": "error", "status": status, "error": error, "stream_id": message["stream_id"]}
    await ws.send(json.dumps(frame))
    return message


async def go_on(ws: ServerConnection) -> None:
    """The rest of that response, for who asks for it and nothing else."""
    resume = await asked(ws)
    assert resume["type"] == "response.resume"
    assert (resume["response_id"], resume["starting_after"]) == ("resp_1", 1)
    await answer(ws, resume["stream_id"], "two", first=2)
    await ws.wait_closed()


async def test_a_server_that_restarts_may_say_when_to_come_back() -> None:
    async def first(ws: ServerConnection) -> None:
        await begin(ws, close="hub is shutting down; retry in 10 ms")

    async with (
        scripted(first, go_on) as url,
        Client(url, first_delay=1000, max_delay=1000) as client,
    ):
        run = client.create("Hello")
        await run.done()
    assert run.text == "One two"


@pytest.mark.parametrize(
    ("reason", "attempt", "least", "most"),
    [
        ("hub is shutting down; retry in 250 ms", 0, 0.25, 0.375),
        ("hub is shutting down; retry in 250 ms", 1, 0.25, 0.375),
        ("retry in 999999999 ms", 0, 15, 22.5),
        ("hub is shutting down", 0, 0, 0.5),
        ("retry in a while", 0, 0, 0.5),
        ("retry in 9999999999 ms", 0, 0, 0.5),
        # One that fails again and again says the same each time.
        ("retry in 250 ms", 6, 0.25, 15),
    ],
)
def test_no_two_clients_come_back_at_the_same_time(
    reason: str, attempt: int, least: float, most: float
) -> None:
    waits = {delay(attempt, 0.5, 15.0, reason) for _ in range(50)}
    assert len(waits) > 40
    assert least <= min(waits) <= max(waits) <= most


@pytest.mark.parametrize(
    ("code", "status"),
    [("store_unavailable", 503), ("rate_limit_exceeded", 429), ("response_not_found", 404)],
)
async def test_a_node_that_cannot_say_now_is_asked_again(code: str, status: int) -> None:
    async def first(ws: ServerConnection) -> None:
        await begin(ws, close="")

    async def second(ws: ServerConnection) -> None:
        for _ in range(3):
            assert (await refuse(ws, code, status))["starting_after"] == 1
        await go_on(ws)

    async with scripted(first, second) as url, quick(url) as client:
        run = client.create("Hello")
        await run.done()
    assert run.text == "One two"


async def test_a_node_that_stops_while_it_is_asked_is_left_for_another_one() -> None:
    async def first(ws: ServerConnection) -> None:
        await begin(ws, close="")

    async def second(ws: ServerConnection) -> None:
        await refuse(ws, "shutting_down")
        await ws.wait_closed()

    async with scripted(first, second, go_on) as url, quick(url) as client:
        run = client.create("Hello")
        await run.done()
    assert run.text == "One two"


@pytest.mark.parametrize("code", ["store_unavailable", "response_not_found"])
async def test_a_node_that_never_knows_is_asked_for_so_long_only(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BEHIND", 0.05)

    async def first(ws: ServerConnection) -> None:
        await begin(ws, close="")

    async def second(ws: ServerConnection) -> None:
        while True:
            await refuse(ws, code)

    async with scripted(first, second) as url, quick(url, patience=0.05) as client:
        run = client.create("Hello")
        with pytest.raises(HubError) as failed:
            await run.done()
    assert failed.value.code == code
    assert run.text == "One "


@pytest.mark.parametrize("code", ["store_unavailable", "rate_limit_exceeded"])
async def test_what_may_have_run_is_not_sent_again(code: str) -> None:
    async def first(ws: ServerConnection) -> None:
        await refuse(ws, code)
        await ws.wait_closed()

    async with scripted(first) as url, quick(url) as client:
        with pytest.raises(HubError) as failed:
            await client.create("Hello").done()
    assert failed.value.code == code


async def test_what_a_stopping_server_refuses_is_sent_to_the_next_one() -> None:
    """What runs at the first is read there to its end, since it may have no other."""
    refused = asyncio.Event()

    async def first(ws: ServerConnection) -> None:
        lane = (await asked(ws))["stream_id"]
        await tell(ws, lane, "response.created", 0, response={"id": "resp_1"})
        assert (await refuse(ws, "shutting_down"))["input"] == "Two"
        refused.set()
        await answer(ws, lane, "One", first=1)
        await ws.wait_closed()

    async def second(ws: ServerConnection) -> None:
        create = await asked(ws)
        assert create["input"] == "Two"
        await answer(ws, create["stream_id"], "Two")
        await ws.wait_closed()

    async with scripted(first, second) as url, quick(url) as client:
        one, two = client.create("One"), client.create("Two")
        await refused.wait()
        await asyncio.gather(one.done(), two.done())
    assert (one.text, two.text) == ("One", "Two")


async def test_of_several_addresses_the_first_that_answers_is_used_until_it_is_lost() -> None:
    async def first(ws: ServerConnection) -> None:
        await begin(ws, close="")

    nobody = await serve(first, "127.0.0.1", 0)
    dead = f"ws://127.0.0.1:{next(iter(nobody.sockets)).getsockname()[1]}/v1/responses"
    nobody.close()
    await nobody.wait_closed()
    async with (
        scripted(first) as one,
        scripted(go_on) as other,
        quick([dead, one, other]) as client,
    ):
        assert client.url == one
        run = client.create("Hello")
        await run.done()
        assert client.url == other
    assert run.text == "One two"


async def test_a_refusal_that_all_would_repeat_is_told_at_once() -> None:
    def refuse(ws: ServerConnection, request: Request) -> Response:
        return ws.respond(403, "No.")

    async def nobody(ws: ServerConnection) -> None:
        raise AssertionError("it is not tried")

    async with serve(nobody, "127.0.0.1", 0, process_request=refuse) as server, scripted() as other:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        with pytest.raises(ClientError) as refused:
            async with Client([url, other]):
                pass
    assert "403" in refused.value.message


async def test_what_is_not_json_is_refused_at_once(start: Start) -> None:
    hub = await start()
    async with Client(hub.ws) as client:
        with pytest.raises(TypeError):
            client.create("Hello", metadata={"a": object()})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://h:1", "ws://h:1/v1/responses"),
        ("https://h/", "wss://h/v1/responses"),
        ("http://h:1/v1/", "ws://h:1/v1/responses"),
        ("ws://h/v1/responses", "ws://h/v1/responses"),
        ("ws://h/prefix/v1/responses?a=1#x", "ws://h/prefix/v1/responses?a=1"),
    ],
)
def test_the_address(url: str, expected: str) -> None:
    assert websocket_url(url) == expected


@pytest.mark.parametrize("url", ["", "h:1", "ftp://h", "ws://", "ws://h:99999", "ws://[h"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Client(url)


def test_no_address_at_all() -> None:
    with pytest.raises(ValueError, match="needs an address"):
        Client([])
