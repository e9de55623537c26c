"""The upstream engine against model servers that do exactly what each test wants."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import orjson
import pytest

from hub.api.requests import Generation, Json, Usage
from hub.engines import upstream
from hub.engines.base import Engine
from hub.engines.upstream import UpstreamEngine, api_url
from hub.errors import HubError
from tests.engines.recording import RecordingSink
from tests.engines.scripted import SSE, Peer, Script, Server, answer, event, replies, serve

STOP = event({}, "stop")
DONE = b"data: [DONE]\n\n"
TEXT = event({"content": "x"})
SIZED = SSE.replace(b"\r\n\r\n", b"\r\nContent-Length: 9999\r\n\r\n")
CHUNKED = SSE.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
MODELS = answer(200, b'{"data":[{"id":"first"},{"id":"second"}]}')


class HearingSink(RecordingSink):
    """Tells the server's script that the first text has arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = asyncio.Event()

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        super().text(delta, logprobs)
        self.heard.set()


def asking(model: str = "m", **fields: Any) -> Generation:
    return Generation(model=model, messages=({"role": "user", "content": "Hi"},), **fields)


@asynccontextmanager
async def engine_for(
    script: Script, **options: Any
) -> AsyncIterator[tuple[UpstreamEngine, Server]]:
    """An engine whose model server follows ``script``; both closed at the end."""
    async with serve(script) as server:
        engine = UpstreamEngine(server.url, **options)
        try:
            yield engine, server
        finally:
            await engine.close()


@contextmanager
def fails_with(code: str) -> Iterator[None]:
    with pytest.raises(HubError) as raised:
        yield
    assert raised.value.code == code


async def test_a_stream() -> None:
    usage = event(usage={"prompt_tokens": 3, "completion_tokens": 2})
    stream = event({"role": "assistant"}) + event({"content": "Hel"}) + event({"content": "lo"})
    stream += STOP + usage + DONE
    pieces = [stream[i : i + 7] for i in range(0, len(stream), 7)]
    sink = RecordingSink()
    async with engine_for(replies(SSE, *pieces)) as (engine, _):
        await engine.generate(asking(), sink)
    assert sink.said == "Hello"
    assert sink.calls[-2:] == [("usage", Usage(3, 2)), ("finish", "stop")]


async def test_chunked_transfer() -> None:
    body = TEXT + STOP + DONE
    parts = [body[i : i + 9] for i in range(0, len(body), 9)]
    pieces = [b"%x\r\n%b\r\n" % (len(part), part) for part in parts]
    sink = RecordingSink()
    async with engine_for(replies(CHUNKED, *pieces, b"0\r\n\r\n")) as (engine, _):
        await engine.generate(asking(), sink)
    assert sink.calls == [("text", "x"), ("finish", "stop")]


async def test_what_the_server_is_asked() -> None:
    async with engine_for(replies(SSE, STOP), api_key="key\n", models={"m": "real"}) as (
        engine,
        server,
    ):
        await engine.generate(asking(max_tokens=5), RecordingSink())
        (peer,) = server.peers
    assert peer.request == "POST /v1/chat/completions"
    assert peer.headers["authorization"] == "Bearer key"
    assert peer.headers["content-type"] == "application/json"
    assert peer.headers["accept-encoding"] == "identity"
    assert peer.headers["connection"] == "close"
    assert peer.headers["user-agent"].startswith("hub/")
    assert peer.body["model"] == "real"
    assert peer.body["stream"] is True
    assert peer.body["max_tokens"] == 5


async def test_every_stream_has_its_own_connection_and_no_cookies() -> None:
    head = SSE.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\nConnection: keep-alive\r\n\r\n")
    async with engine_for(replies(head, STOP, DONE)) as (engine, server):
        await engine.generate(asking(), RecordingSink())
        await engine.generate(asking(), RecordingSink())
        assert len(server.peers) == 2
        assert all("cookie" not in peer.headers for peer in server.peers)


async def test_a_large_prompt() -> None:
    text = "x" * (3 << 20)
    async with engine_for(replies(SSE, STOP)) as (engine, server):
        await engine.generate(
            Generation(model="m", messages=({"role": "user", "content": text},)), RecordingSink()
        )
        assert server.peers[0].body["messages"][0]["content"] == text


async def test_a_server_that_ignores_stream() -> None:
    body = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "length"}]}
    sink = RecordingSink()
    async with engine_for(replies(answer(200, orjson.dumps(body)))) as (engine, _):
        await engine.generate(asking(), sink)
    assert sink.calls == [("text", "Hello"), ("finish", "length")]


async def test_done_ends_a_stream_that_stays_open() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(SSE, TEXT, STOP, DONE)
        await peer.gone()

    async with engine_for(script) as (engine, _):
        await engine.generate(asking(), RecordingSink())


# Models.


async def test_the_default_model_is_asked_for_once() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(*([MODELS] if peer.request == "GET /v1/models" else [SSE, STOP]))

    async with engine_for(script) as (engine, server):
        for _ in range(2):
            await engine.generate(asking(""), RecordingSink())
        assert [peer.request for peer in server.peers] == [
            "GET /v1/models",
            "POST /v1/chat/completions",
            "POST /v1/chat/completions",
        ]
        assert server.peers[1].body["model"] == "first"


async def test_the_default_model_is_looked_up_again_when_it_is_gone() -> None:
    gone = answer(404, b'{"error":{"message":"The model `first` does not exist."}}')

    async def script(peer: Peer) -> None:
        await peer.send(MODELS if peer.request == "GET /v1/models" else gone)

    async with engine_for(script) as (engine, server):
        for _ in range(2):
            with fails_with("model_not_found"):
                await engine.generate(asking(""), RecordingSink())
        assert [peer.request for peer in server.peers].count("GET /v1/models") == 2


async def test_a_server_without_a_model() -> None:
    async with engine_for(replies(answer(200, b'{"data":null}'))) as (engine, _):
        with fails_with("model_not_found"):
            await engine.generate(asking(""), RecordingSink())


async def test_models_default_first() -> None:
    async with engine_for(replies(MODELS)) as (engine, _):
        assert engine.serves("") is True
        assert engine.serves("first") is None
        assert await engine.models() == ["first", "second"]
        assert engine.serves("first") is True
        assert engine.serves("other") is None
    names = {"fast": "second", "": "second"}
    async with engine_for(replies(MODELS), models=names) as (engine, _):
        assert engine.serves("fast") is True
        assert await engine.models() == ["second", "fast", "first"]
    async with engine_for(replies(SSE, STOP), models=names) as (engine, server):
        await engine.generate(asking(""), RecordingSink())
        assert server.peers[0].body["model"] == "second"


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (answer(200, b"<html>"), "upstream_protocol_error"),
        (answer(401, b""), "upstream_unavailable"),
        (answer(200, b"[]")[:-1], "upstream_unavailable"),
        (b"", "upstream_unavailable"),
    ],
)
async def test_models_that_cannot_be_asked(reply: bytes, code: str) -> None:
    async with engine_for(replies(reply)) as (engine, _):
        with fails_with(code):
            await engine.models()


async def test_an_endless_list_of_models() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n", b"[" * (upstream.MAX_BODY + 1))
        await peer.gone()

    async with engine_for(script) as (engine, _):
        with fails_with("upstream_protocol_error"):
            await engine.models()


# Slots.


@pytest.mark.parametrize(
    ("reply", "slots"),
    [
        (answer(200, b'{"total_slots":4}'), 4),
        *(
            (answer(200, body), None)
            for body in (b"{}", b"[]", b"x", b'{"total_slots":0}', b'{"total_slots":true}')
        ),
        (answer(404, b"{}"), None),
        (b"", None),
    ],
)
async def test_slots(reply: bytes, slots: int | None) -> None:
    async with engine_for(replies(reply)) as (engine, server):
        assert await engine.probe_slots() == slots
        assert engine.slots == slots
        assert server.peers[0].request == "GET /props"


async def test_configured_slots_stand() -> None:
    async with engine_for(replies(b""), slots=7) as (engine, server):
        assert await engine.probe_slots() == 7
        assert not server.peers


# Failures.


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, b'{"error":{"type":"exceed_context_size_error"}}', "context_length_exceeded"),
        (400, b'{"error":{"message":"no"}}', "upstream_rejected_request"),
        (429, b"", "upstream_overloaded"),
        (500, b"<html>", "upstream_error"),
        (503, b"", "upstream_overloaded"),
    ],
)
async def test_http_errors(status: int, body: bytes, code: str) -> None:
    async with engine_for(replies(answer(status, body, "Retry-After: 3\r\n"))) as (engine, _):
        with pytest.raises(HubError) as raised:
            await engine.generate(asking(), RecordingSink())
    assert raised.value.code == code
    assert raised.value.retry_after == (3.0 if code == "upstream_overloaded" else None)


async def test_redirects_are_not_followed() -> None:
    reply = answer(307, b"", "Location: /elsewhere\r\n")
    async with engine_for(replies(reply)) as (engine, server):
        with fails_with("upstream_unavailable"):
            await engine.generate(asking(), RecordingSink())
        assert len(server.peers) == 1


async def test_an_endless_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "ERROR_BODY_TIMEOUT", 0.05)

    async def large(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 429 X\r\n\r\n", b"x" * (upstream.MAX_ERROR_BODY + 1))
        await peer.gone()

    async def silent(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 429 X\r\n\r\n")
        await peer.gone()

    for script in (large, silent):
        async with engine_for(script) as (engine, _):
            with fails_with("upstream_overloaded"):
                await engine.generate(asking(), RecordingSink())


async def test_nobody_listens() -> None:
    async with serve(replies()) as server:
        url = server.url
    engine = UpstreamEngine(url)
    for _ in range(2):
        with fails_with("upstream_unavailable"):
            await engine.generate(asking(), RecordingSink())
    with fails_with("upstream_unavailable"):
        await engine.models()
    await engine.close()


@pytest.mark.parametrize("pieces", [(), (b"HTTP/1.1 200 OK\r\nContent-",)])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_drop_before_the_answer(pieces: tuple[bytes, ...], reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(*pieces)
        if reset:
            peer.reset()

    async with engine_for(script) as (engine, server):
        with fails_with("upstream_unavailable"):
            await engine.generate(asking(), RecordingSink())
        assert len(server.peers) == 1, "a request was repeated"


@pytest.mark.parametrize(
    "stream",
    [(SSE, TEXT), (SIZED, TEXT), (CHUNKED, b"%x\r\n%b\r\n" % (len(TEXT), TEXT))],
    ids=["unsized", "sized", "chunked"],
)
@pytest.mark.parametrize("reset", [False, True])
async def test_a_drop_in_the_middle(stream: tuple[bytes, ...], reset: bool) -> None:
    sink = HearingSink()

    async def script(peer: Peer) -> None:
        await peer.send(*stream)
        await sink.heard.wait()
        if reset:
            peer.reset()

    async with engine_for(script) as (engine, _):
        with fails_with("upstream_incomplete_stream"):
            await engine.generate(asking(), sink)
    assert sink.calls == [("text", "x")]


@pytest.mark.parametrize("reset", [False, True])
async def test_a_drop_after_the_finish_reason_costs_nothing(reset: bool) -> None:
    sink = HearingSink()

    async def script(peer: Peer) -> None:
        await peer.send(SIZED, event({"content": "x"}, "stop"))
        await sink.heard.wait()
        if reset:
            peer.reset()

    async with engine_for(script) as (engine, _):
        await engine.generate(asking(), sink)
    assert sink.calls == [("text", "x"), ("finish", "stop")]


async def test_silence_after_the_finish_reason_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upstream, "USAGE_GRACE", 0.05)

    async def script(peer: Peer) -> None:
        await peer.send(SSE, TEXT, STOP)
        await peer.gone()

    sink = RecordingSink()
    async with engine_for(script) as (engine, _):
        await engine.generate(asking(), sink)
    assert sink.calls == [("text", "x"), ("finish", "stop")]


@pytest.mark.parametrize("pieces", [(), (SSE,), (SSE, TEXT)])
async def test_silence(pieces: tuple[bytes, ...]) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(*pieces)
        await peer.gone()

    async with engine_for(script, idle_timeout=0.05) as (engine, _):
        with fails_with("upstream_timeout"):
            await engine.generate(asking(), RecordingSink())


async def test_a_server_that_never_reads() -> None:
    text = "x" * (16 << 20)  # more than the buffers of both sockets hold
    async with serve(replies(), reads=False) as server:
        engine = UpstreamEngine(server.url, connect_timeout=0.1, idle_timeout=0.1)
        with fails_with("upstream_timeout"):
            await engine.generate(
                Generation(model="m", messages=({"role": "user", "content": text},)),
                RecordingSink(),
            )
        await engine.close()


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), "upstream_protocol_error"),
        ((b"\x00" * 64,), "upstream_protocol_error"),
        ((b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",), "upstream_protocol_error"),
        ((b"HTTP/1.1 200 OK\r\nA: " + b"x" * 20000,), "upstream_protocol_error"),
        (
            (SSE.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"), b"no gzip"),
            "upstream_incomplete_stream",
        ),
        ((SSE,), "upstream_incomplete_stream"),
        ((SSE, b"\xff\xfe\n\n"), "upstream_incomplete_stream"),
        ((SSE, b"data: \xff\n\n"), "upstream_protocol_error"),
        ((SSE, b"data: " + b"x" * (2 << 20)), "upstream_protocol_error"),
        ((SSE, event({"content": 7})), "upstream_protocol_error"),
        ((SSE, b'data: {"error":{"code":500,"message":"boom"}}\n\n'), "upstream_error"),
        ((answer(200, b"{"),), "upstream_protocol_error"),
        ((answer(200, b"{}"),), "upstream_incomplete_stream"),
        ((answer(200, b'{"error":"boom"}'),), "upstream_error"),
        ((answer(200, b"<html>", kind="text/html; charset=utf-8"),), "upstream_protocol_error"),
        ((answer(204, b""),), "upstream_protocol_error"),
    ],
)
async def test_lies(pieces: tuple[bytes, ...], code: str) -> None:
    async def script(peer: Peer) -> None:
        with suppress(ConnectionError):  # the engine may close before all is sent
            await peer.send(*pieces)

    async with engine_for(script) as (engine, _):
        with fails_with(code):
            await engine.generate(asking(), RecordingSink())


@pytest.mark.parametrize("body", [b"zz\r\n", b"5\r\nhelloXX", b"-1\r\n"])
async def test_broken_framing(body: bytes) -> None:
    sink = HearingSink()

    async def script(peer: Peer) -> None:
        await peer.send(CHUNKED, b"%x\r\n%b\r\n" % (len(TEXT), TEXT))
        await sink.heard.wait()
        await peer.send(body)
        await peer.gone()

    async with engine_for(script) as (engine, _):
        with fails_with("upstream_incomplete_stream"):
            await engine.generate(asking(), sink)


# Cancellation.


@pytest.mark.parametrize("pieces", [(), (SSE,), (SSE, TEXT)])
async def test_cancelling_is_seen_by_the_server_at_once(pieces: tuple[bytes, ...]) -> None:
    ready, seen = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(*pieces)
        ready.set()
        await peer.gone()
        seen.set()

    async with engine_for(script) as (engine, _):
        task = asyncio.create_task(engine.generate(asking(), RecordingSink()))
        await ready.wait()
        start = time.perf_counter()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await seen.wait()
        assert time.perf_counter() - start < 1.0  # a few hundred microseconds when undisturbed


async def test_cancelling_one_stream_leaves_the_others_alone() -> None:
    both = asyncio.Barrier(3)
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(SSE, event({"content": peer.body["model"]}))
        await both.wait()
        await go_on.wait()
        await peer.send(STOP, DONE)

    sinks = [RecordingSink(), RecordingSink()]
    async with engine_for(script) as (engine, _):
        first, second = (
            asyncio.create_task(engine.generate(asking(name), sink))
            for name, sink in zip("ab", sinks, strict=True)
        )
        await both.wait()
        first.cancel()
        go_on.set()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
    assert sinks[1].calls == [("text", "b"), ("finish", "stop")]
    assert not sinks[0].ended


# Configuration.


def test_it_is_an_engine() -> None:
    engine: Engine = UpstreamEngine("http://localhost:8080", slots=4)
    assert engine.name == "http://localhost:8080/v1"
    assert engine.slots == 4


async def test_closing_what_was_never_used() -> None:
    engine = UpstreamEngine("http://localhost:1")
    await engine.close()
    await engine.close()


@pytest.mark.parametrize(
    ("base", "api"),
    [
        ("http://h", "http://h/v1"),
        ("http://h:8080/", "http://h:8080/v1"),
        ("http://h/v1", "http://h/v1"),
        ("http://h/v1/", "http://h/v1"),
        ("https://h/openai/v1", "https://h/openai/v1"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai"),
        ("http://h/vllm", "http://h/vllm/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_addresses(base: str, api: str) -> None:
    assert api_url(base) == api


@pytest.mark.parametrize(
    "base",
    [
        *("", "localhost:8080", "ftp://h", "http://", "http:///v1", "http://h:0", "http://h:99999"),
        *("http://user:secret@h", "http://h/v1?key=1", "http://h/#x"),
    ],
)
def test_addresses_that_are_none(base: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        UpstreamEngine(base)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("key", ["a\nb", "schlüssel"])
def test_keys_that_no_header_holds(key: str) -> None:
    with pytest.raises(ValueError, match="printable") as raised:
        UpstreamEngine("http://h", api_key=key)
    assert key not in str(raised.value)
