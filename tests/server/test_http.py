"""The HTTP endpoints, over a socket, with the simulated engine."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from hub.api.requests import Generation
from hub.engines.base import Sink
from hub.engines.sim_text import full_text
from tests.running import Running, Start


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def said(prompt: str, **options: Any) -> str:
    """What the simulated engine says to a prompt."""
    messages = [{"role": "user", "content": prompt}]
    return full_text(Generation(model="", messages=messages, **options))


def events(body: bytes) -> list[dict[str, Any]]:
    """The events of an SSE body, each checked to be one well-formed block."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    found = []
    for block in blocks:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


async def test_a_response_as_json(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    async with client.post(f"{hub.url}/v1/responses", json={"input": "Hello"}) as answer:
        body = await answer.json()
        assert answer.status == 200
        assert answer.headers["X-Request-Id"].startswith("req_")
    assert body["status"] == "completed"
    assert body["output"][0]["content"][0]["text"] == said("Hello")
    assert body["usage"]["output_tokens"] > 0


async def test_a_response_as_sse(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    request = {"input": "Hello", "stream": True}
    async with client.post(f"{hub.url}/v1/responses", json=request) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        found = events(await answer.read())
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[0]["type"] == "response.created"
    assert found[-1]["type"] == "response.completed"
    deltas = [e["delta"] for e in found if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == said("Hello")


async def test_a_connection_serves_again_after_a_stream(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    body = b'{"input":"Hi","stream":true,"max_output_tokens":3}'
    request = b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    for _ in range(3):
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        stream = await reader.readuntil(b"\r\n0\r\n\r\n")
        assert b"data: [DONE]" in stream
    writer.close()
    await writer.wait_closed()


async def test_http_1_0_gets_a_stream_that_ends_with_the_connection(start: Start) -> None:
    hub = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    body = b'{"input":"Hi","stream":true,"max_output_tokens":3}'
    writer.write(b"POST /v1/responses HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    answer = await reader.read()
    assert b"chunked" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")
    writer.close()
    await writer.wait_closed()


async def test_every_sse_event_is_one_chunk_at_least(start: Start) -> None:
    """No event is cut in two: a client's parser may lose what comes in two pieces."""
    hub = await start(speed=1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    body = b'{"input":"Hi","stream":true,"max_output_tokens":5}'
    writer.write(
        b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (len(body), body)
    )
    await reader.readuntil(b"\r\n\r\n")
    while size := int(await reader.readline(), 16):
        chunk = await reader.readexactly(size)
        assert chunk.startswith((b"event: ", b"data: ", b": "))
        assert chunk.endswith(b"\n\n")
        await reader.readexactly(2)
    writer.close()
    await writer.wait_closed()


async def test_a_chat_completion_as_json_and_sse(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    request: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}]}
    async with client.post(f"{hub.url}/v1/chat/completions", json=request) as answer:
        body = await answer.json()
    assert body["choices"][0]["message"]["content"] == said("Hello")
    assert body["choices"][0]["finish_reason"] == "stop"
    request["stream"] = True
    async with client.post(f"{hub.url}/v1/chat/completions", json=request) as answer:
        blocks = (await answer.text()).split("\n\n")[:-1]
    assert blocks.pop() == "data: [DONE]"
    chunks = [json.loads(block.removeprefix("data: ")) for block in blocks]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == said("Hello")


BAD: list[tuple[str, str, bytes, int, str, str | None]] = [
    ("POST", "/v1/responses", b"{", 400, "invalid_json", None),
    ("POST", "/v1/responses", b"\xff", 400, "invalid_json", None),
    ("POST", "/v1/responses", b"[]", 400, "invalid_type", None),
    ("POST", "/v1/responses", b"{}", 400, "missing_required_parameter", "input"),
    ("POST", "/v1/responses", b'{"input":1}', 400, "invalid_type", "input"),
    ("POST", "/v1/responses", b'{"input":"x","model":"none"}', 404, "model_not_found", "model"),
    (
        "POST",
        "/v1/responses",
        b'{"input":"x","previous_response_id":"resp_1"}',
        400,
        "previous_response_not_found",
        "previous_response_id",
    ),
    ("POST", "/v1/responses", b"[" * 2000 + b"]" * 2000, 400, "invalid_json", None),
    (
        "POST",
        "/v1/responses",
        b'{"input":"x","metadata":' + b'{"a":' * 100 + b"1" + b"}" * 101,
        400,
        "invalid_value",
        None,
    ),
    ("POST", "/v1/chat/completions", b"{}", 400, "missing_required_parameter", "messages"),
    ("POST", "/v1/chat/completions", b'{"messages":[1]}', 400, "invalid_type", "messages[0]"),
    ("GET", "/v1/responses", b"", 426, "upgrade_required", None),
    ("DELETE", "/v1/chat/completions", b"", 405, "method_not_allowed", None),
    ("GET", "/nowhere", b"", 404, "not_found", None),
    ("GET", "/v1/models/none", b"", 404, "model_not_found", "model"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "code", "param"), BAD)
async def test_bad_requests_get_the_typed_error(
    start: Start,
    client: aiohttp.ClientSession,
    method: str,
    path: str,
    body: bytes,
    status: int,
    code: str,
    param: str | None,
) -> None:
    hub = await start()
    async with client.request(method, hub.url + path, data=body) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error"
    assert error["message"]


async def test_too_large_a_body_is_413(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start(max_message=1000)
    async with client.post(f"{hub.url}/v1/responses", json={"input": "x" * 2000}) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (413, "message_too_large")


async def test_pages_of_other_sites_are_refused(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    for origin, status in ((hub.url, 200), ("http://evil.example", 403), ("null", 403)):
        async with client.get(f"{hub.url}/v1/models", headers={"Origin": origin}) as answer:
            assert answer.status == status


async def test_a_full_queue_refuses_with_429(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start(window=1, dispatcher_options={"queue_size": 1})
    hang = {"input": "x", "model": "sim+hang", "stream": True, "store": False}
    async with (
        client.post(f"{hub.url}/v1/responses", json=hang),
        client.post(f"{hub.url}/v1/responses", json=hang),
        client.post(f"{hub.url}/v1/responses", json={"input": "x"}) as refused,
    ):
        error = (await refused.json())["error"]
        assert (refused.status, error["code"]) == (429, "rate_limit_exceeded")
        assert error["type"] == "rate_limit_error"
        assert int(refused.headers["Retry-After"]) >= 1
    await hub.hub.until_idle()


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("429", 503, "upstream_overloaded"),
        ("503", 503, "upstream_overloaded"),
        ("400", 400, "context_length_exceeded"),
        ("error=0", 502, "upstream_error"),
        ("eof=0", 502, "upstream_incomplete_stream"),
    ],
)
@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_a_failure_before_the_first_token_is_an_http_error(
    start: Start, client: aiohttp.ClientSession, fault: str, status: int, code: str, path: str
) -> None:
    hub = await start()
    request = {
        "model": f"sim+{fault}",
        "input": "x",
        "messages": [{"role": "user", "content": "x"}],
    }
    async with client.post(f"{hub.url}/v1/{path}", json=request) as answer:
        error = (await answer.json())["error"]
    assert (answer.status, error["code"]) == (status, code)


async def test_a_failure_in_mid_stream_is_a_typed_failure(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    request: dict[str, Any] = {"model": "sim+error=5", "input": "x", "stream": True}
    async with client.post(f"{hub.url}/v1/responses", json=request) as answer:
        found = events(await answer.read())
    assert found[-1]["type"] == "response.failed"
    assert found[-1]["response"]["error"]["code"] == "upstream_error"
    assert sum(e["type"] == "response.output_text.delta" for e in found) == 5
    chat = {**request, "messages": [{"role": "user", "content": "x"}]}
    async with client.post(f"{hub.url}/v1/chat/completions", json=chat) as answer:
        blocks = (await answer.text()).split("\n\n")
    assert json.loads(blocks[-3].removeprefix("data: "))["error"]["code"] == "upstream_error"
    async with client.post(f"{hub.url}/v1/responses", json={**request, "stream": False}) as answer:
        body = await answer.json()
    assert (answer.status, body["status"]) == (200, "failed")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_a_client_that_vanishes_stops_the_engine(
    start: Start, client: aiohttp.ClientSession, stream: bool, path: str
) -> None:
    hub = await start(speed=1.0)
    await vanish(hub, path, stream)
    await hub.hub.until_idle()
    assert hub.hub.statistics().by_status == {"cancelled": 1}
    assert hub.engine.statistics().aborted == 1


async def vanish(hub: Running, path: str, stream: bool) -> None:
    """Send a request, wait until the engine runs it, and break the connection."""
    body = json.dumps(
        {
            "input": "x",
            "messages": [{"role": "user", "content": "x"}],
            "stream": stream,
            "store": False,
        }
    ).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(
        b"POST /v1/%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
        % (path.encode(), len(body), body)
    )
    await hub.engine.asked.wait()
    writer.transport.abort()


async def test_models_and_health(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    async with client.get(f"{hub.url}/v1/models") as answer:
        assert [one["id"] for one in (await answer.json())["data"]] == ["sim"]
    async with client.get(f"{hub.url}/v1/models/sim") as answer:
        assert (await answer.json())["id"] == "sim"
    async with client.get(f"{hub.url}/health") as answer:
        body = await answer.json()
    assert body["status"] == "ok"
    assert body["dispatcher"]["in_flight"] == 0


async def test_the_page_is_served_with_a_strict_policy(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    for path, kind in (("/", "text/html"), ("/hub.js", "javascript"), ("/style.css", "text/css")):
        async with client.get(hub.url + path) as answer:
            assert answer.status == 200
            assert kind in answer.headers["Content-Type"]
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_silent_stream_says_that_it_is_there(
    start: Start, client: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.server.http.HEARTBEAT", 0.01)
    hub = await start()
    for path in ("responses", "chat/completions"):
        request = {
            "model": "sim+hang",
            "input": "x",
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
        }
        async with client.post(f"{hub.url}/v1/{path}", json=request) as answer:
            while await answer.content.readline() != b": ping\n":
                pass


class Broken:
    """An engine with a defect."""

    name = "broken"
    slots = None
    continues = False

    def serves(self, model: str) -> bool | None:
        return True

    async def generate(self, generation: Generation, sink: Sink) -> None:
        raise ZeroDivisionError("a defect")

    async def models(self) -> list[str]:
        raise ZeroDivisionError("a defect")

    async def close(self) -> None:
        pass


async def test_a_defect_is_a_typed_error_that_tells_nothing(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(Broken())
    async with client.post(f"{hub.url}/v1/responses", json={"input": "x"}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (500, "server_error")
    async with client.get(f"{hub.url}/v1/models") as answer:
        body = await answer.text()
    assert answer.status == 500
    assert "defect" not in body
