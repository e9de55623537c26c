"""Large requests: worked on in another thread, in order, with the same answers as small ones."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from hub.api.chat import parse_chat
from hub.api.compaction import parse_compact
from hub.api.completions import parse_completions
from hub.api.prompt import with_messages
from hub.api.responses import parse_create
from hub.server import parser
from tests.running import Start
from tests.server.test_websocket import TERMINAL, create, said, text, turn

PAD = "x" * parser.LARGE
"""Makes any request a large one; no dialect knows the field it is in."""


class Seen:
    """In which threads a dialect's parser ran; it can be held up there."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.began = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def watch(self, parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def watched(body: Any) -> Any:
            self.threads.append(threading.get_ident())
            if threading.get_ident() != threading.main_thread().ident:
                self.began.set()
                assert self.go_on.wait(30)
            return parse(body)

        return watched


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    one = Seen()
    monkeypatch.setattr("hub.server.http.parse_create", one.watch(parse_create))
    monkeypatch.setattr("hub.server.http.parse_chat", one.watch(parse_chat))
    monkeypatch.setattr("hub.server.stored.parse_create", one.watch(parse_create))
    monkeypatch.setattr("hub.server.stored.parse_compact", one.watch(parse_compact))
    monkeypatch.setattr("hub.server.completions.parse_completions", one.watch(parse_completions))
    monkeypatch.setattr("hub.server.session.parse_create", one.watch(parse_create))
    yield one
    one.go_on.set()


async def _began(seen: Seen) -> None:
    assert await asyncio.to_thread(seen.began.wait, 30)


HTTP: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"input": "Hello"}),
    ("/v1/responses/input_tokens", {"input": "Hello"}),
    ("/v1/responses/compact", {"model": "sim", "input": "Hello"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    ("/v1/completions", {"prompt": "Hello"}),
]


@pytest.mark.parametrize(("path", "body"), HTTP)
async def test_only_a_large_body_is_parsed_in_another_thread(
    start: Start, seen: Seen, path: str, body: dict[str, Any]
) -> None:
    hub = await start()
    here = threading.get_ident()
    async with aiohttp.ClientSession() as session:
        for pad in ("", PAD):
            async with session.post(f"{hub.url}{path}", json={**body, "pad": pad}) as answer:
                assert answer.status == 200, await answer.text()
    small, large = seen.threads
    assert small == here
    assert large != here


@pytest.mark.parametrize(("path", "body"), HTTP)
@pytest.mark.parametrize("wrong", ["type", "json", "depth"])
async def test_the_errors_of_a_large_body_are_those_of_a_small_one(
    start: Start, path: str, body: dict[str, Any], wrong: str
) -> None:
    hub = await start()
    name = next(name for name in ("input", "messages", "prompt") if name in body)
    deep: Any = {}
    for _ in range(70):
        deep = [deep]
    changes: dict[str, dict[str, Any]] = {"type": {"model": 7}, "depth": {name: deep}, "json": {}}
    bad = {**body, **changes[wrong]}
    answers: list[tuple[int, str, str | None]] = []
    async with aiohttp.ClientSession() as session:
        for pad in ("", PAD):
            data = json.dumps({**bad, "pad": pad}) + ("}" if wrong == "json" else "")
            async with session.post(f"{hub.url}{path}", data=data) as answer:
                error = (await answer.json())["error"]
                answers.append((answer.status, error["code"], error["param"]))
    assert answers[0] == answers[1]
    assert answers[0][0] == 400


async def test_other_connections_go_on_while_a_large_body_is_parsed(
    start: Start, seen: Seen
) -> None:
    hub = await start()
    seen.go_on.clear()
    async with aiohttp.ClientSession() as session, connect(hub.ws) as large, connect(hub.ws) as ws:
        url = f"{hub.url}/v1/responses"
        posted = asyncio.create_task(session.post(url, json={"input": "One", "pad": PAD}))
        await _began(seen)
        await create(large, input="Two", pad=PAD)
        await create(ws, input="Hello")
        assert text(await turn(ws)) == said("Hello")
        seen.go_on.set()
        assert text(await turn(large)) == said("Two")
        async with await posted as answer:
            assert answer.status == 200


ORDERS = ["L", "sL", "Ls", "sLs", "LLs", "sLLs", "LsLs", "bLb", "Lbs", "LcL"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lane", [None, "a"])
async def test_messages_keep_their_order(
    start: Start, seen: Seen, order: str, lane: str | None
) -> None:
    """Of large (L), small (s) and bad (b: binary, c: no JSON) messages, in one write."""
    hub = await start()
    seen.go_on.clear()
    async with connect(hub.ws) as ws:
        for number, kind in enumerate(order):
            if kind == "b":
                await ws.send(b"binary")
            elif kind == "c":
                await ws.send("{")
            else:
                pad = PAD if kind == "L" else ""
                await create(ws, lane, input=f"Question {number}", pad=pad)
        await _began(seen)
        seen.go_on.set()
        created = [n for n, kind in enumerate(order) if kind in "sL"]
        answers: list[str] = []
        refused = 0
        running: list[dict[str, Any]] = []
        while len(answers) < len(created) or refused < len(order) - len(created):
            event = json.loads(await ws.recv())
            if event["type"] == "error":
                refused += 1
                continue
            running.append(event)
            if event["type"] in TERMINAL:
                answers.append(text(running))
                running = []
    assert answers == [said(f"Question {number}") for number in created]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": 7}, "invalid_type", "input"),
        ({}, "missing_required_parameter", "input"),
        ({"input": "x", "background": True}, "unsupported_value", "background"),
        ({"input": "x", "previous_response_id": "no"}, "previous_response_not_found", None),
        ({"input": "x", "model": "none"}, "model_not_found", "model"),
    ],
)
async def test_the_error_of_a_large_create_comes_when_its_turn_has_come(
    start: Start, fields: dict[str, Any], code: str, param: str | None
) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await create(ws, "a", input="Hello")
        await create(ws, "a", pad=PAD, **fields)
        await create(ws, "a", input="Again")
        assert text(await turn(ws)) == said("Hello")
        (error,) = await turn(ws)
        assert (error["stream_id"], error["error"]["code"]) == ("a", code)
        assert param is None or error["error"]["param"] == param
        assert text(await turn(ws)) == said("Again")


async def test_a_large_message_that_is_not_json_or_not_utf8(start: Start) -> None:
    hub = await start()
    async with connect(hub.ws) as ws:
        await ws.send("{" + PAD)
        (error,) = await turn(ws)
        assert error["error"]["code"] == "invalid_json"
        await ws.send(b"\xff" + PAD.encode(), text=True)
        await ws.wait_closed()
    assert ws.close_code == 1007


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_connection_that_goes_while_its_message_is_parsed_leaves_nothing(
    start: Start, seen: Seen, who: str
) -> None:
    hub = await start()
    seen.go_on.clear()
    async with connect(hub.ws) as ws:
        await create(ws, input="Hello", pad=PAD)
        await create(ws, input="Again")
        await _began(seen)
        if who == "client":
            ws.transport.abort()
        stopping = asyncio.create_task(hub.server.stop(drain=0))
        await asyncio.sleep(0)
        seen.go_on.set()
        await stopping
    assert hub.server.connections == 0
    await hub.hub.until_idle()
    assert hub.hub.statistics().live == 0


async def test_a_client_that_leaves_while_its_body_is_parsed_starts_nothing(
    start: Start, seen: Seen
) -> None:
    hub = await start()
    seen.go_on.clear()
    async with aiohttp.ClientSession() as session:
        url = f"{hub.url}/v1/responses"
        posted = asyncio.create_task(session.post(url, json={"input": "One", "pad": PAD}))
        await _began(seen)
        posted.cancel()
        await asyncio.wait([posted])
        # Its going is noticed before the answer to this one is written.
        async with session.get(f"{hub.url}/health") as answer:
            assert answer.status == 200
        seen.go_on.set()
        # In one thread, so this one is parsed behind it.
        async with session.post(url, json={"input": "Two", "pad": PAD}) as answer:
            assert answer.status == 200
    assert hub.hub.statistics().accepted == 1


async def test_a_long_chain_is_made_in_another_thread(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not part of the request, so only what comes before it tells."""
    monkeypatch.setattr(parser, "MANY", 3)
    threads: list[int] = []

    def watched(*args: Any) -> Any:
        threads.append(threading.get_ident())
        return with_messages(*args)

    monkeypatch.setattr(parser, "with_messages", watched)
    hub = await start()
    async with connect(hub.ws) as ws:
        messages = [{"role": "user", "content": f"Part {number}"} for number in range(4)]
        await create(ws, "a", input=messages, store=False)
        first = (await turn(ws))[-1]["response"]
        await create(ws, "a", input="Go on", previous_response_id=first["id"], store=False)
        await create(ws, "a", input="Hello", store=False)
        assert (await turn(ws))[-1]["type"] == "response.completed"
        assert text(await turn(ws)) == said("Hello")
    assert threads
    assert threading.get_ident() not in threads
