"""The WebSocket, over a socket, with the simulated engine and the websockets client."""

import asyncio
import json
import socket
from contextlib import suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.running import Start

TERMINAL = {"response.completed", "response.failed", "response.incomplete", "error"}


def said(*turns: str) -> str:
    """What the simulated engine says to a conversation, the user's turn first and last."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return full_text(Generation(model="", messages=messages))


async def create(ws: ClientConnection, lane: str | None = None, **fields: Any) -> None:
    message = {"type": "response.create", **fields}
    if lane is not None:
        message["stream_id"] = lane
    await ws.send(json.dumps(message))


async def turn(ws: ClientConnection) -> list[dict[str, Any]]:
    """All events up to the next terminal one."""
    found = []
    while True:
        event = json.loads(await ws.recv(decode=True))
        found.append(event)
        if event["type"] in TERMINAL:
            return found


def text(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


async def test_a_turn_on_the_default_lane(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await create(ws, input="Hello", store=False)
        events = await turn(ws)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert all("stream_id" not in event for event in events)
    assert text(events) == said("Hello")
    assert events[-1]["response"]["status"] == "completed"


async def test_named_lanes_run_in_parallel_and_say_whose_event_it_is(start: Start) -> None:
    hub = await start(speed=20.0)
    texts: dict[str, str] = {"a": "", "b": "", "c": ""}
    order: list[str] = []
    async with connect(hub.ws) as ws:
        for lane in texts:
            await create(ws, lane, input=f"Hello {lane}")
        ended = 0
        while ended < 3:
            event = json.loads(await ws.recv())
            lane = event["stream_id"]
            if event["type"] == "response.output_text.delta":
                texts[lane] += event["delta"]
                order.append(lane)
            ended += event["type"] in TERMINAL
    assert texts == {lane: said(f"Hello {lane}") for lane in texts}
    assert order != sorted(order), "the lanes ran one after the other"


async def test_a_lane_is_first_in_first_out(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        for lane in (None, "a"):
            for number in range(5):
                await create(ws, lane, input=f"Question {number}")
        answers: dict[str | None, list[str]] = {None: [], "a": []}
        running: dict[str | None, list[dict[str, Any]]] = {None: [], "a": []}
        while sum(map(len, answers.values())) < 10:
            event = json.loads(await ws.recv())
            lane = event.get("stream_id")
            if event["type"] == "response.created":
                assert not running[lane], "two responses at once on a lane"
            running[lane].append(event)
            if event["type"] in TERMINAL:
                answers[lane].append(text(running[lane]))
                running[lane] = []
    expected = [said(f"Question {number}") for number in range(5)]
    assert answers == {None: expected, "a": expected}


async def test_a_conversation_goes_on_by_previous_response_id(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="One", store=False)
        first = (await turn(ws))[-1]["response"]
        # Another lane may fork what this connection made.
        for lane in ("a", "b"):
            await create(ws, lane, input="Two", store=False, previous_response_id=first["id"])
            second = await turn(ws)
            assert text(second) == said("One", said("One"), "Two")
            assert second[-1]["response"]["previous_response_id"] == first["id"]


async def test_a_queued_create_may_name_a_response_of_its_own_lane(start: Start) -> None:
    """The parent is looked up when a create's turn comes, not when it arrives."""
    hub = await start()
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="One")
        while (event := json.loads(await ws.recv()))["type"] != "response.created":
            pass
        await create(ws, "a", input="Two", previous_response_id=event["response"]["id"])
        await turn(ws)
        assert text(await turn(ws)) == said("One", said("One"), "Two")


async def test_another_connection_does_not_know_an_unstored_response(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await create(ws, input="One", store=False)
        id = (await turn(ws))[-1]["response"]["id"]
    async with connect(hub.ws) as ws:
        await create(ws, input="Two", store=False, previous_response_id=id)
        error = (await turn(ws))[-1]
        assert error["error"]["code"] == "previous_response_not_found"
        assert error["error"]["param"] == "previous_response_id"
        await create(ws, input="Three", store=False)
        assert text(await turn(ws)) == said("Three")


async def test_a_failed_continuation_evicts_its_parent_on_the_same_lane_only(start: Start) -> None:
    hub = await start()
    bad = [{"type": "function_call_output", "call_id": "call_none", "output": "x"}]
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="One", store=False)
        id = (await turn(ws))[-1]["response"]["id"]
        for lane in ("b", "a"):
            await create(ws, lane, input=bad, previous_response_id=id, store=False)
            assert (await turn(ws))[-1]["error"]["param"] == "input[0].call_id"
            await create(ws, lane, input="Two", previous_response_id=id, store=False)
            last = (await turn(ws))[-1]
            if lane == "b":
                assert last["type"] == "response.completed"
            else:
                assert last["error"]["code"] == "previous_response_not_found"


async def test_a_warm_up_completes_without_output_and_can_be_continued(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await create(ws, input="Context", generate=False)
        warm = await turn(ws)
        assert [e["type"] for e in warm] == [
            "response.created",
            "response.in_progress",
            "response.completed",
        ]
        response = warm[-1]["response"]
        assert response["output"] == []
        await create(ws, input="Hello", previous_response_id=response["id"])
        assert (await turn(ws))[-1]["type"] == "response.completed"
    assert hub.engine.statistics().finished == 1


async def test_cancel_by_lane_and_by_id(start: Start) -> None:
    hub = await start(speed=1.0)
    async with connect(hub.ws) as ws:
        for by in ("stream_id", "response_id"):
            await create(ws, "a", input="Hello")
            id = ""
            while True:
                event = json.loads(await ws.recv())
                if event["type"] == "response.created":
                    id = event["response"]["id"]
                if event["type"] == "response.output_text.delta":
                    break
            key = {"stream_id": "a"} if by == "stream_id" else {"response_id": id}
            await ws.send(json.dumps({"type": "response.cancel", **key}))
            last = (await turn(ws))[-1]
            assert (last["type"], last["stream_id"]) == ("response.incomplete", "a")
            assert last["response"]["status"] == "cancelled"
            assert last["response"]["output"][0]["content"][0]["text"]
        # There is nothing left to cancel, which is no error, unless a response was named.
        await ws.send('{"type":"response.cancel","stream_id":"a"}')
        await ws.send(json.dumps({"type": "response.cancel", "response_id": id, "stream_id": "a"}))
        error = (await turn(ws))[-1]
        assert (error["error"]["code"], error["stream_id"]) == ("response_not_found", "a")
    assert hub.engine.statistics().aborted == 2


async def test_steering_is_refused_with_its_own_event(start: Start) -> None:
    hub = await start(speed=1.0)
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="Hello")
        created = json.loads(await ws.recv())
        steer = {
            "type": "response.steer",
            "previous_response_id": created["response"]["id"],
            "input": [{"role": "user", "content": "Shorter"}],
        }
        await ws.send(json.dumps(steer))
        while (event := json.loads(await ws.recv()))["type"] != "response.steer.failed":
            assert event["type"] not in TERMINAL
    assert event["error"]["code"] == "steering_not_supported"
    assert event["stream_id"] == "a"
    assert event["steer"]["input"] == steer["input"]


BAD: list[tuple[str | bytes, str, str | None]] = [
    ("{", "invalid_json", None),
    ("[]", "invalid_type", None),
    ("{}", "missing_required_parameter", "type"),
    ('{"type":"response.delete"}', "unknown_event_type", "type"),
    ('{"type":"response.create","stream_id":""}', "invalid_stream_id", "stream_id"),
    ('{"type":"response.create","stream_id":"a b"}', "invalid_stream_id", "stream_id"),
    ('{"type":"response.create","stream_id":7}', "invalid_stream_id", "stream_id"),
    ('{"type":"response.create"}', "missing_required_parameter", "input"),
    ('{"type":"response.create","input":"x","background":true}', "unsupported_value", "background"),
    ('{"type":"response.create","input":"x","model":"none"}', "model_not_found", "model"),
    ('{"type":"response.cancel","response_id":1}', "invalid_type", "response_id"),
    (b"binary", "invalid_type", None),
]


@pytest.mark.parametrize(("message", "code", "param"), BAD)
async def test_a_bad_message_gets_a_typed_error_and_nothing_else_notices(
    start: Start, message: str | bytes, code: str, param: str | None
) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await create(ws, "good", input="Hello")
        await ws.send(message)
        events: list[dict[str, Any]] = []
        error = None
        while not events or events[-1]["type"] not in TERMINAL:
            event = json.loads(await ws.recv())
            if event.get("stream_id") == "good":
                events.append(event)
            else:
                error = event
    assert text(events) == said("Hello")
    assert error is not None
    assert error["type"] == "error"
    assert error["status"] >= 400
    assert (error["error"]["code"], error["error"]["param"]) == (code, param)
    assert error["error"]["type"] == "invalid_request_error"


async def test_stream_and_processed_are_ignored(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await ws.send('{"type":"response.processed","response_id":"resp_1"}')
        await create(ws, input="Hello", stream=True, surprise={"a": 1})
        assert text(await turn(ws)) == said("Hello")


async def test_the_33rd_lane_is_refused(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        for number in range(33):
            await create(ws, f"lane-{number}", input="Hi", generate=False)
        results = [(await turn(ws))[-1] for _ in range(33)]
        await create(ws, input="The default lane does not count", generate=False)
        assert (await turn(ws))[-1]["type"] == "response.completed"
    refused = [event for event in results if event["type"] == "error"]
    assert [event["stream_id"] for event in refused] == ["lane-32"]
    assert refused[0]["error"]["code"] == "websocket_stream_limit_reached"


async def test_a_thousand_creates_at_once_all_end(start: Start) -> None:
    hub = await start(speed=10_000.0)
    async with connect(hub.ws) as ws:
        for number in range(1000):
            await create(ws, f"lane-{number % 20}", input="Hi", max_output_tokens=1, store=False)
        ends = [(await turn(ws))[-1] for _ in range(1000)]
    kinds = {event["type"] for event in ends}
    assert kinds <= {"response.completed", "response.incomplete", "error"}
    errors = [event for event in ends if event["type"] == "error"]
    assert len(errors) < 1000
    assert {event["error"]["code"] for event in errors} <= {"rate_limit_exceeded"}
    assert all(event["status"] == 429 for event in errors)


async def test_too_large_a_message_closes_with_1009(start: Start) -> None:
    hub = await start(max_message=1000)
    async with connect(hub.ws) as ws:
        await create(ws, input="x" * 2000)
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


async def test_text_that_is_not_utf8_closes_with_1007(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await ws.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007


async def test_a_client_that_vanishes_stops_its_lanes_and_no_others(start: Start) -> None:
    hub = await start(speed=5.0)
    async with connect(hub.ws) as stays:
        async with connect(hub.ws) as goes:
            for lane in ("a", "b"):
                await create(goes, lane, input="Hello", store=False)
            await goes.recv()
            await create(stays, input="Hello")
            goes.transport.abort()
        assert text(await turn(stays)) == said("Hello")
    await hub.hub.until_idle()
    assert hub.hub.statistics().by_status == {"cancelled": 2, "completed": 1}
    assert hub.engine.statistics().aborted == 2


async def test_fragments_and_pings(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        message = json.dumps({"type": "response.create", "input": "Hello"})
        await ws.send([message[:10], message[10:20], message[20:]])
        await (await ws.ping())
        assert text(await turn(ws)) == said("Hello")


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}])
async def test_pages_of_other_sites_are_refused(start: Start, headers: dict[str, str]) -> None:
    hub = await start()
    with pytest.raises(InvalidStatus) as refused:
        await connect(hub.ws, additional_headers=headers)
    assert refused.value.response.status_code == 403


async def test_the_own_page_may_connect(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws, additional_headers={"Origin": hub.url}) as ws:
        await create(ws, input="Hello")
        assert text(await turn(ws)) == said("Hello")


async def test_a_bad_handshake_is_a_typed_error(start: Start) -> None:
    hub = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(
        b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    writer.close()
    await writer.wait_closed()


async def test_a_silent_peer_is_given_up_and_a_living_one_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.app.PING_INTERVAL", 0.05)
    hub = await start()
    async with connect(hub.ws) as living:
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        writer.write(
            b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        # It answers no ping, so its connection ends; what was read is the upgrade and the ping.
        with suppress(ConnectionResetError):
            while await reader.read(1000):
                pass
        writer.close()
        await create(living, input="Hello")
        assert text(await turn(living)) == said("Hello")


async def test_an_old_connection_finishes_what_runs_and_closes(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.app.PING_INTERVAL", 0.02)
    hub = await start(speed=5.0, connection_lifetime=0.0)
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="Hello")
        events, codes = [], []
        async for message in ws:
            event = json.loads(message)
            if event["type"] == "error":
                codes.append(event["error"]["code"])
                with suppress(ConnectionClosed):
                    await create(ws, "b", input="Too late")
            else:
                events.append(event)
    assert text(events) == said("Hello")
    assert set(codes) == {"websocket_connection_limit_reached"}
    assert ws.close_code == 1001


async def test_stopping_lets_what_runs_end_and_says_come_again(start: Start) -> None:
    hub = await start(speed=20.0)
    async with connect(hub.ws) as busy, connect(hub.ws) as idle:
        await create(busy, input="Hello")
        await busy.recv()
        stopping = asyncio.create_task(hub.server.stop(drain=30.0))
        assert text(await turn(busy)) == said("Hello")
        for ws in (busy, idle):
            with pytest.raises(ConnectionClosed) as closed:
                await ws.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        await stopping
    assert hub.hub.statistics().by_status == {"completed": 1}


async def test_a_slow_reader_gets_exact_text_in_few_events_and_delays_no_one(
    start: Start,
) -> None:
    hub = await start(speed=1000.0)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    narrow.connect(("127.0.0.1", hub.port))
    narrow.setblocking(False)
    async with (
        connect(hub.ws) as fast,
        connect(hub.ws, sock=narrow, max_queue=1) as slow,
    ):
        lanes, rounds = [f"lane-{number}" for number in range(16)], 12
        for lane in lanes * rounds:
            await create(slow, lane, input=f"Hello {lane}")
        # It reads nothing until everything was said, and others notice nothing of it.
        for number in range(20):
            await create(fast, input=f"Hello {number}")
            assert text(await turn(fast)) == said(f"Hello {number}")
        await hub.hub.until_idle()
        events = [event for _ in lanes * rounds for event in await turn(slow)]
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    for lane in lanes:
        heard = text([e for e in deltas if e["stream_id"] == lane])
        assert heard == said(f"Hello {lane}") * rounds
    tokens = sum(e["response"]["usage"]["output_tokens"] for e in events if e["type"] in TERMINAL)
    assert len(deltas) < tokens, "what waited was merged"


async def test_the_lanes_limits_are_settings(start: Start) -> None:
    """Each of the three is reached where it was set, with its own answer."""
    limits = {"lanes": 2, "active_lanes": 1, "waiting": 1}
    hub = await start(speed=1.0, hub_options=limits)
    async with connect(hub.ws) as ws:
        for lane in ("a", "b", "c"):
            await create(ws, input="Hi", stream_id=lane, store=False)
        codes = set[str]()
        while "websocket_stream_limit_reached" not in codes:
            event = json.loads(await ws.recv())
            if event["type"] == "error":
                codes.add(event["error"]["code"])
        await create(ws, input="Hi", stream_id="b", store=False)
        while "rate_limit_exceeded" not in codes:
            event = json.loads(await ws.recv())
            if event["type"] == "error":
                codes.add(event["error"]["code"])


async def test_a_turn_that_waits_can_be_cancelled(start: Start) -> None:
    """Its response is cancelled as soon as it has one, and no model server works for it; what
    comes after it on the lane is not."""
    hub = await start(speed=1.0, hub_options={"active_lanes": 1})
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="Hello", store=False)
        await create(ws, "b", input="Never mind", store=False)
        await create(ws, "b", input="But this", store=False, max_output_tokens=2)
        for lane in ("b", "b", "a"):
            await ws.send(json.dumps({"type": "response.cancel", "stream_id": lane}))
        ends = [(await turn(ws))[-1] for _ in range(3)]
    assert [end["stream_id"] for end in ends] == ["a", "b", "b"]
    statuses = [end["response"]["status"] for end in ends]
    assert statuses == ["cancelled", "cancelled", "incomplete"]
    assert hub.engine.statistics().finished == 1


async def test_a_turn_that_breaks_hub_ends_its_own_lane_only(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect is a typed error on its lane, and logged; the connection and the others go on."""
    hub = await start()
    submit = hub.hub.submit

    def broken(request: Any, *rest: Any, **more: Any) -> Any:
        if request.instructions == "break":
            raise ZeroDivisionError
        return submit(request, *rest, **more)

    monkeypatch.setattr(hub.hub, "submit", broken)
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="Hello", instructions="break", store=False)
        error = json.loads(await ws.recv())
        assert (error["error"]["code"], error["stream_id"]) == ("server_error", "a")
        await create(ws, "a", input="Hello", store=False)
        assert (await turn(ws))[-1]["response"]["status"] == "completed"
    assert "a turn could not start" in caplog.text
