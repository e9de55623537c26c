"""``POST /v1/completions``, over a socket, with the simulated engine and with a model server."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from hub.api.requests import Generation
from hub.engines.base import Sink
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_server import create_runner
from hub.engines.sim_text import full_text, script
from hub.engines.upstream import UpstreamEngine
from tests.running import Running, Start, WatchedEngine

PROMPTS = ["Once upon a time", "", "def add(a, b):\n"]


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def asking(prompt: str, **options: Any) -> Generation:
    return Generation("sim", (), prompt=prompt, **options)


def going_on(prompt: str, **options: Any) -> str:
    """What the simulated engine has to say after a raw text."""
    return full_text(asking(prompt, **options))


class Moody(WatchedEngine):
    """Fails, or never answers, when the prompt asks for it."""

    async def generate(self, generation: Generation, sink: Sink) -> None:
        if (generation.prompt or "").startswith("sim+"):
            generation = replace(generation, model=generation.prompt or "")
        await super().generate(generation, sink)


async def post(client: aiohttp.ClientSession, hub: Running, **body: Any) -> tuple[int, Any]:
    """The status and the JSON of an answer that is not streamed."""
    async with client.post(f"{hub.url}/v1/completions", json=body) as answer:
        return answer.status, await answer.json()


async def stream(client: aiohttp.ClientSession, hub: Running, **body: Any) -> list[Any]:
    """The chunks of a streamed answer, each checked to be one well-formed block."""
    body["stream"] = True
    async with client.post(f"{hub.url}/v1/completions", json=body) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        *blocks, last = (await answer.text()).split("\n\n")
    assert last == ""
    assert blocks.pop() == "data: [DONE]"
    assert all(block.startswith("data: ") for block in blocks)
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def texts(chunks: list[Any], count: int) -> list[str]:
    """What was said at each index. Nothing follows a finish reason."""
    said, ended = [""] * count, [False] * count
    for chunk in chunks:
        for choice in chunk["choices"]:
            assert not ended[choice["index"]]
            said[choice["index"]] += choice["text"]
            ended[choice["index"]] = choice["finish_reason"] is not None
    assert all(ended)
    return said


async def test_one_completion(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    status, body = await post(client, hub, prompt="Once upon a time", max_tokens=9)
    assert status == 200
    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert body["choices"] == [
        {
            "index": 0,
            "text": going_on("Once upon a time", max_tokens=9),
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert (body["model"], body["usage"]["completion_tokens"]) == ("sim", 9)
    chunks = await stream(client, hub, prompt="Once upon a time", stop=["simul"])
    assert texts(chunks, 1) == [going_on("Once upon a time", stop=["simul"])]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_many_completions_are_one_answer(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    expected = [going_on(prompt) for prompt in PROMPTS for _ in range(2)]
    status, body = await post(client, hub, prompt=PROMPTS, n=2)
    assert status == 200
    assert [choice["index"] for choice in body["choices"]] == list(range(6))
    assert [choice["text"] for choice in body["choices"]] == expected
    tokens = sum(len(script(asking(prompt))) for prompt in PROMPTS for _ in range(2))
    assert body["usage"]["completion_tokens"] == tokens

    options = {"include_usage": True}
    *chunks, total = await stream(client, hub, prompt=PROMPTS, n=2, stream_options=options)
    assert texts(chunks, 6) == expected
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert total["choices"] == []
    assert total["usage"] == body["usage"]
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order != sorted(order), "they are streamed side by side"


async def test_as_many_as_a_body_may_ask_for(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    prompts = [f"Line {number}:" for number in range(128)]
    chunks = await stream(client, hub, prompt=prompts)
    assert texts(chunks, 128) == [going_on(prompt) for prompt in prompts]


async def test_a_connection_serves_again_after_a_stream(start: Start) -> None:
    hub = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    body = b'{"prompt":["a","b"],"stream":true,"max_tokens":3}'
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    for _ in range(3):
        writer.write(request)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert answer.count(b"data: [DONE]") == 1
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (b"[]", 400, "invalid_type", None),
        (b"{}", 400, "missing_required_parameter", "prompt"),
        (b'{"prompt":[1,2]}', 400, "unsupported_value", "prompt"),
        (b'{"prompt":["x","y"],"suffix":"z"}', 400, "invalid_value", "suffix"),
        (b'{"prompt":"x","logprobs":1,"stream":true}', 400, "unsupported_parameter", "logprobs"),
        (b'{"prompt":["x","y"],"model":"none"}', 404, "model_not_found", "model"),
    ],
)
async def test_bad_requests_get_the_typed_error(
    start: Start,
    client: aiohttp.ClientSession,
    body: bytes,
    status: int,
    code: str,
    param: str | None,
) -> None:
    hub = await start()
    async with client.post(f"{hub.url}/v1/completions", data=body) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["param"]) == (status, code, param)


@pytest.mark.parametrize("streaming", [True, False])
async def test_all_are_accepted_or_none(
    start: Start, client: aiohttp.ClientSession, streaming: bool
) -> None:
    """If one of them is refused, those before it are let go of."""
    hub = await start(window=1, dispatcher_options={"queue_size": 2})
    body = {"prompt": ["a", "b", "c", "d", "e"], "model": "sim+hang", "stream": streaming}
    async with client.post(f"{hub.url}/v1/completions", json=body) as refused:
        error = (await refused.json())["error"]
        assert (refused.status, error["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["Retry-After"]) >= 1
    await hub.hub.until_idle()
    assert hub.hub.statistics().by_status == {"cancelled": 3}


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("503", 503, "upstream_overloaded"),
        ("400", 400, "context_length_exceeded"),
        ("error=0", 502, "upstream_error"),
        ("eof=0", 502, "upstream_incomplete_stream"),
    ],
)
@pytest.mark.parametrize("prompt", ["x", ["x", "y"]])
@pytest.mark.parametrize("streaming", [True, False])
async def test_a_failure_before_the_first_token_is_an_http_error(
    start: Start,
    client: aiohttp.ClientSession,
    fault: str,
    status: int,
    code: str,
    prompt: Any,
    streaming: bool,
) -> None:
    hub = await start()
    found = await post(client, hub, prompt=prompt, model=f"sim+{fault}", stream=streaming)
    assert (found[0], found[1]["error"]["code"]) == (status, code)


async def test_a_failure_in_mid_stream_is_its_own_and_the_others_go_on(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(Moody(speed=100.0))
    chunks = await stream(client, hub, prompt=["a", "sim+error=5", "b", "sim+503"])
    errors = {chunk["index"]: chunk["error"]["code"] for chunk in chunks if "error" in chunk}
    assert errors == {1: "upstream_error", 3: "upstream_overloaded"}
    chunks = [chunk for chunk in chunks if "error" not in chunk]
    own = [chunk for chunk in chunks if chunk["choices"][0]["index"] == 1]
    assert "".join(chunk["choices"][0]["text"] for chunk in own) == "".join(
        script(asking("sim+error=5")).text[:5]
    )
    others = [chunk for chunk in chunks if chunk not in own]
    for chunk in others:
        chunk["choices"][0]["index"] //= 2
    assert texts(others, 2) == [going_on("a"), going_on("b")]


async def test_a_failure_of_one_is_the_answer_and_the_others_are_let_go_of(
    start: Start, client: aiohttp.ClientSession
) -> None:
    """It is not waited for what nobody will read."""
    hub = await start(Moody(speed=100.0))
    status, body = await post(client, hub, prompt=["sim+hang", "sim+error=5", "a"])
    assert (status, body["error"]["code"]) == (502, "upstream_error")
    await hub.hub.until_idle()
    ended = hub.hub.statistics().by_status
    assert (ended["failed"], sum(ended.values())) == (1, 3)
    assert hub.engine.statistics().aborted >= 1


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_client_that_vanishes_stops_all(start: Start, streaming: bool) -> None:
    hub = await start(speed=1.0, window=2)
    body = json.dumps({"prompt": ["a", "b", "c"], "stream": streaming}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await hub.engine.asked.wait()
    writer.transport.abort()
    await hub.hub.until_idle()
    assert hub.hub.statistics().by_status == {"cancelled": 3}
    assert hub.engine.statistics().aborted == 2


async def test_a_silent_stream_says_that_it_is_there(
    start: Start, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.http.HEARTBEAT", 0.01)
    hub = await start()
    body = {"model": "sim+hang", "prompt": ["x", "y"], "stream": True}
    async with client.post(f"{hub.url}/v1/completions", json=body) as answer:
        while await answer.content.readline() != b": ping\n":
            pass


async def test_its_class_is_its_own_unless_it_says_otherwise(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    async with client.post(
        f"{hub.url}/v1/completions", json={"prompt": "x"}, headers={"X-Hub-Class": "none"}
    ) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["param"]) == (400, "X-Hub-Class")


async def test_completions_of_a_model_server(start: Start, client: aiohttp.ClientSession) -> None:
    """All the way: hub's client of a server that speaks the same dialect."""
    sim = SimEngine(PROFILES["h100-8b"], speed=100.0, faults=True)
    runner = create_runner(sim)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    address, port = runner.addresses[0]
    try:
        hub = await start(UpstreamEngine(f"http://{address}:{port}"))
        _, body = await post(client, hub, prompt=PROMPTS)
        assert [choice["text"] for choice in body["choices"]] == [
            going_on(prompt) for prompt in PROMPTS
        ]
        tokens = sum(len(script(asking(prompt))) for prompt in PROMPTS)
        assert body["usage"]["completion_tokens"] == tokens
        chunks = await stream(client, hub, prompt=PROMPTS, max_tokens=20)
        assert texts(chunks, 3) == [going_on(prompt, max_tokens=20) for prompt in PROMPTS]
        failed = await stream(client, hub, prompt=["a"], model="sim+error=5")
        assert failed[-1]["error"]["code"] == "upstream_error"
    finally:
        await runner.cleanup()
        await sim.close()
