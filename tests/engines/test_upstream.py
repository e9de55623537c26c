"""The upstream engine against model servers that do exactly what each test wants."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest
from aiohttp import web

from hub.api.requests import Generation, Json, Usage
from hub.engines import questions, relay, upstream
from hub.engines.base import Engine, Load
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_server import create_runner
from hub.engines.sim_text import full_text
from hub.engines.upstream import UpstreamEngine, api_url
from hub.errors import HubError
from tests.engines.members import RecordingMember
from tests.engines.members import asking as prompts_of
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
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n", b"[" * (relay.MAX_BODY + 1))
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


# How it is.

ROOM = answer(200, b'{"total_slots":4,"default_generation_settings":{"n_ctx":100}}')
BUSY = answer(200, b"llamacpp:requests_processing 3\nllamacpp:requests_deferred 2\n")
LOADING = answer(503, b'{"error":{"code":503,"message":"Loading model"}}')
UNKNOWN = answer(404, b"{}")


@asynccontextmanager
async def asked(
    answers: dict[str, bytes], **options: Any
) -> AsyncIterator[tuple[UpstreamEngine, list[str]]]:
    """An engine whose server answers by path, 404 where nothing is given; and what it was asked.

    Tests change ``answers`` on the way."""
    paths: list[str] = []

    async def script(peer: Peer) -> None:
        path = peer.request.removeprefix("GET ")
        paths.append(path)
        await peer.send(answers.get(path, UNKNOWN))

    async with engine_for(script, **options) as (engine, _):
        yield engine, paths


async def test_llama_cpp_tells_of_its_slots_once_and_of_its_queue_every_time() -> None:
    """``/props`` is asked until it has said what it knows, ``/metrics`` every time."""
    answers = {"/props": ROOM, "/metrics": BUSY}
    async with asked(answers) as (engine, paths):
        assert not engine.continues
        assert await engine.probe() == Load(4, 400, 3, 2)
        answers["/metrics"] = answer(200, b"llamacpp:requests_processing 1\n")
        assert await engine.probe() == Load(4, 400, 1)
        assert (engine.slots, engine.continues) == (4, True)
        assert paths == ["/props", "/metrics", "/metrics"]


async def test_vllm_tells_of_its_cache_and_its_queue() -> None:
    """What has no ``/props`` is not asked for it every time, and is not llama.cpp."""
    metrics = b'vllm:num_requests_running{engine="0"} 3.0\nvllm:kv_cache_usage_perc 0.5\n'
    metrics += b'vllm:cache_config_info{block_size="16",num_gpu_blocks="10"} 1.0\n'
    async with asked({"/metrics": answer(200, metrics, kind="text/plain")}) as (engine, paths):
        for _ in range(2):
            assert await engine.probe() == Load(None, 160, 3, None, 0.5)
        assert (engine.slots, engine.continues) == (None, False)
        assert paths == ["/props", "/metrics", "/metrics"]


async def test_what_the_metrics_say_of_the_cache_counts() -> None:
    """The product of slots and context is only a guess at what they share."""
    shared = answer(200, b'vllm:cache_config_info{block_size="1",num_gpu_blocks="100"} 1\n')
    async with asked({"/props": ROOM, "/metrics": shared}) as (engine, _):
        assert await engine.probe() == Load(4, 100)


async def test_a_configured_number_of_slots_stands_whatever_the_server_says() -> None:
    """The rest of what it says is believed all the same."""
    async with asked({"/props": ROOM, "/metrics": BUSY}, slots=2) as (engine, _):
        assert await engine.probe() == Load(2, 400, 3, 2)
        assert (engine.slots, engine.continues) == (2, True)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 429, 500, 501, 302])
async def test_what_is_refused_is_unsaid(status: int) -> None:
    """A server that says nothing of itself is asked for its models: to see that it is there."""
    no = answer(status, b"{}")
    async with asked({"/props": no, "/metrics": no, "/v1/models": MODELS}) as (engine, paths):
        for _ in range(2):
            assert await engine.probe() == Load()
        assert paths == ["/props", "/metrics", "/v1/models", "/v1/models"]


async def test_what_was_refused_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may have been started anew, with other options."""
    monkeypatch.setattr(upstream, "ASK_AGAIN", 0.0)
    answers = {"/v1/models": MODELS}
    async with asked(answers) as (engine, paths):
        assert await engine.probe() == Load()
        answers |= {"/props": ROOM, "/metrics": BUSY}
        assert await engine.probe() == Load(4, 400, 3, 2)
        assert paths == ["/props", "/metrics", "/v1/models", "/props", "/metrics"]


async def test_a_server_that_only_tells_of_its_slots_is_still_seen_to_be_there() -> None:
    """llama.cpp without ``--metrics``: some question is asked every time."""
    answers = {"/props": ROOM, "/metrics": answer(501, b"{}"), "/v1/models": MODELS}
    async with asked(answers) as (engine, paths):
        for _ in range(2):
            assert await engine.probe() == Load(4, 400)
        assert paths == ["/props", "/metrics", "/v1/models"]
        answers["/v1/models"] = b""
        with fails_with("upstream_unavailable"):
            await engine.probe()


@pytest.mark.parametrize(
    ("models", "code"),
    [
        (b"", "upstream_unavailable"),
        (answer(401, b""), "upstream_unavailable"),
        (answer(302, b""), "upstream_unavailable"),
        (answer(500, b""), "upstream_error"),
        (answer(502, b""), "upstream_unavailable"),
        (answer(503, b""), "upstream_overloaded"),
        (answer(404, b""), None),
        (answer(429, b""), None),
        (answer(200, b"<html>"), None),
    ],
)
async def test_who_is_there(models: bytes, code: str | None) -> None:
    """Whoever does not know the question is there; whoever fails or refuses hub's key serves
    nobody."""
    async with asked({"/v1/models": models}) as (engine, _):
        with fails_with(code) if code else nullcontext():
            assert await engine.probe() == Load()


async def test_a_server_that_loads_its_model_cannot_be_asked_yet() -> None:
    """llama.cpp lists its model meanwhile, so that is no sign; and nothing counts as refused."""
    answers = {"/props": LOADING, "/metrics": LOADING, "/v1/models": MODELS}
    async with asked(answers) as (engine, _):
        for _ in range(2):
            with fails_with("upstream_overloaded"):
                await engine.probe()
        answers |= {"/props": ROOM, "/metrics": BUSY}
        assert await engine.probe() == Load(4, 400, 3, 2)


async def test_a_question_that_cannot_be_answered_now_is_asked_again() -> None:
    """A 503 for one question, while the other is answered, is neither a refusal nor a failure."""
    answers = {"/props": LOADING, "/metrics": BUSY}
    async with asked(answers) as (engine, _):
        assert await engine.probe() == Load(None, None, 3, 2)
        answers["/props"] = ROOM
        assert await engine.probe() == Load(4, 400, 3, 2)


async def test_who_comes_back_may_be_another_server() -> None:
    """What a server said, and what it refused, is void once it is gone."""
    answers = {"/props": ROOM, "/v1/models": MODELS}
    async with asked(answers) as (engine, _):
        assert await engine.probe() == Load(4, 400)
        answers["/v1/models"] = b""
        with fails_with("upstream_unavailable"):
            await engine.probe()
        answers |= {"/props": answer(200, b'{"total_slots":8}'), "/metrics": BUSY}
        assert await engine.probe() == Load(8, None, 3, 2)
        assert engine.slots == 8


@pytest.mark.parametrize("reply", [b"", b"SSH-2.0-OpenSSH_9.2\r\n"])
async def test_a_path_that_leads_elsewhere(reply: bytes) -> None:
    """A connection that breaks is a server that cannot be asked; nonsense is only no answer."""
    async with asked({"/props": ROOM, "/metrics": reply, "/v1/models": MODELS}) as (engine, _):
        with nullcontext() if reply else fails_with("upstream_unavailable"):
            assert await engine.probe() == Load(4, 400)


async def test_an_endless_answer_says_nothing() -> None:
    """What has more than ``MAX_BODY`` bytes is no answer to the question."""

    async def script(peer: Peer) -> None:
        if peer.request != "GET /metrics":
            await peer.send(ROOM)
            return
        with suppress(ConnectionError):
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\n", b"\n" * (relay.MAX_BODY + 1))
        await peer.gone()

    async with engine_for(script) as (engine, _):
        assert await engine.probe() == Load(4, 400)


async def test_silence_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer in time cannot be asked, and it is not asked further."""
    monkeypatch.setattr(questions, "QUESTION_TIMEOUT", 0.05)

    async def script(peer: Peer) -> None:
        await peer.gone()

    async with engine_for(script) as (engine, server):
        with fails_with("upstream_timeout"):
            await engine.probe()
        assert len(server.peers) == 1


async def test_questions_go_to_the_root_with_the_key() -> None:
    """A server's own endpoints are beside ``/v1``, and behind the same key."""
    seen: list[tuple[str, str]] = []

    async def script(peer: Peer) -> None:
        seen.append((peer.request, peer.headers["authorization"]))
        await peer.send(ROOM)

    async with serve(script) as server:
        engine = UpstreamEngine(f"{server.url}/llama/v1", api_key="key")
        await engine.probe()
        await engine.close()
    assert seen == [("GET /llama/props", "Bearer key"), ("GET /llama/metrics", "Bearer key")]


async def test_a_probe_that_cannot_connect() -> None:
    """``HubError`` if nobody listens; asking for the slots alone is no error."""
    async with serve(replies()) as server:
        url = server.url
    engine = UpstreamEngine(url)
    with fails_with("upstream_unavailable"):
        await engine.probe()
    assert await engine.probe_slots() is None
    await engine.close()


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
    monkeypatch.setattr(relay, "ERROR_BODY_TIMEOUT", 0.05)

    async def large(peer: Peer) -> None:
        await peer.send(b"HTTP/1.1 429 X\r\n\r\n", b"x" * (relay.MAX_ERROR_BODY + 1))
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
    monkeypatch.setattr(relay, "USAGE_GRACE", 0.05)

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
            "upstream_protocol_error",
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


# Raw prompts, alone and in arrays.


def text_event(index: int, text: str = "", finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": finish}
    return b"data: " + orjson.dumps({"choices": [choice], **more}) + b"\n\n"


def going_on(prompt: str, model: str = "m", **fields: Any) -> Generation:
    return Generation(model, (), prompt=prompt, **fields)


async def test_a_raw_prompt_is_a_completion() -> None:
    usage = event(usage={"prompt_tokens": 3, "completion_tokens": 2})
    stream = text_event(0, "Hel") + text_event(0, "lo") + text_event(0, "", "length") + usage + DONE
    pieces = [stream[i : i + 7] for i in range(0, len(stream), 7)]
    sink = RecordingSink()
    async with engine_for(replies(SSE, *pieces), models={"m": "real"}) as (engine, server):
        await engine.generate(going_on("Once", max_tokens=5), sink)
        (peer,) = server.peers
    assert peer.request == "POST /v1/completions"
    assert (peer.body["model"], peer.body["prompt"], peer.body["max_tokens"]) == ("real", "Once", 5)
    assert "messages" not in peer.body
    assert sink.said == "Hello"
    assert sink.calls[-2:] == [("usage", Usage(3, 2)), ("finish", "length")]


async def test_a_raw_prompt_that_fails() -> None:
    async with engine_for(replies(answer(429, b""))) as (engine, _):
        with fails_with("upstream_overloaded"):
            await engine.generate(going_on("Once"), RecordingSink())
    async with engine_for(replies(SSE, text_event(0, "x"))) as (engine, _):
        with fails_with("upstream_incomplete_stream"):
            await engine.generate(going_on("Once"), RecordingSink())


async def run_array(script: Script, *prompts: str, **options: Any) -> list[RecordingMember]:
    """The members of an array that the server answered so."""
    members = prompts_of(*prompts)
    async with engine_for(script, **options) as (engine, server):
        await engine.generate_array(members)
        assert len(server.peers) == 1
    return members


async def test_an_array_is_one_request() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    stream = b"data: null\n\n" + text_event(1, "B") + text_event(0, "A")
    stream += text_event(1, "", "stop", usage=usage) + text_event(0, "", "length") + DONE
    pieces = [stream[i : i + 7] for i in range(0, len(stream), 7)]
    members = prompts_of("a", "b")
    async with engine_for(replies(SSE, *pieces)) as (engine, server):
        await engine.generate_array(members)
        (peer,) = server.peers
    assert peer.request == "POST /v1/completions"
    assert peer.body["prompt"] == ["a", "b"]
    assert members[0].sink.calls == [("text", "A"), ("finish", "length")]
    assert members[1].sink.calls == [("text", "B"), ("usage", Usage(3, 1)), ("finish", "stop")]
    assert [member.outcome for member in members] == ["length", "stop"]


async def test_an_array_for_the_default_model() -> None:
    async def script(peer: Peer) -> None:
        gone = answer(404, b'{"error":{"message":"The model `first` does not exist."}}')
        await peer.send(MODELS if peer.request == "GET /v1/models" else gone)

    async with engine_for(script) as (engine, server):
        for _ in range(2):
            members = [RecordingMember(going_on(prompt, model="")) for prompt in "ab"]
            await engine.generate_array(members)
            assert [member.outcome for member in members] == ["model_not_found"] * 2
        assert server.peers[1].body["model"] == "first"
        assert [peer.request for peer in server.peers].count("GET /v1/models") == 2


@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ((answer(400, b'{"error":{"type":"exceed_context_size_error"}}'),), None),
        ((answer(503, b""),), "upstream_overloaded"),
        ((b"",), "upstream_unavailable"),
        ((SSE, text_event(0, "A")), "upstream_incomplete_stream"),
        ((SSE, text_event(0, "A"), DONE), "upstream_incomplete_stream"),
        ((SIZED, text_event(0, "A")), "upstream_incomplete_stream"),
        ((SSE, text_event(0, "A"), b"data: {\n\n"), "upstream_protocol_error"),
        ((SSE, text_event(0, "A"), text_event(2, "C")), "upstream_protocol_error"),
        (
            (SSE, text_event(0, "A"), b'data: {"error":{"code":500,"message":"boom"}}\n\n'),
            "upstream_error",
        ),
    ],
)
async def test_what_ends_all_of_an_array(pieces: tuple[bytes, ...], code: str | None) -> None:
    members = await run_array(replies(*pieces), "a", "b")
    assert [member.outcome for member in members] == [code or "context_length_exceeded"] * 2
    assert members[0].ends[0] is not members[1].ends[0]


async def test_an_array_that_breaks_off_costs_only_who_has_not_ended() -> None:
    pieces = (text_event(1, "B", "stop"), text_event(0, "A"))
    members = await run_array(replies(SSE, *pieces), "a", "b")
    assert [member.outcome for member in members] == ["upstream_incomplete_stream", "stop"]


async def test_an_array_in_silence() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(SSE, text_event(1, "B", "stop"))
        await peer.gone()

    members = await run_array(script, "a", "b", idle_timeout=0.05)
    assert [member.outcome for member in members] == ["upstream_timeout", "stop"]


async def test_an_array_is_over_when_all_have_ended() -> None:
    async def script(peer: Peer) -> None:
        await peer.send(SSE, text_event(1, "B", "stop"), text_event(0, "A", "stop"))
        await peer.gone()

    members = await run_array(script, "a", "b")
    assert [member.outcome for member in members] == ["stop", "stop"]


async def test_a_server_that_ignores_stream_in_an_array() -> None:
    choices = [{"index": i, "text": text, "finish_reason": "stop"} for i, text in enumerate("AB")]
    body = orjson.dumps({"choices": choices, "usage": {"prompt_tokens": 1}})
    members = await run_array(replies(answer(200, body)), "a", "b")
    assert [member.sink.calls for member in members] == [
        [("text", "A"), ("finish", "stop")],
        [("text", "B"), ("finish", "stop")],
    ]


async def test_an_array_that_all_have_left_is_let_go_of() -> None:
    members = prompts_of("a", "b")

    async def script(peer: Peer) -> None:
        await peer.send(SSE, text_event(0, "A"))
        await members[0].heard.wait()
        members[0].left = True
        await peer.send(text_event(0, "a"), text_event(1, "B"))
        await members[1].heard.wait()
        members[1].left = True
        await peer.send(text_event(1, "b"))
        await peer.gone()

    async with engine_for(script) as (engine, _):
        await engine.generate_array(members)
    assert [member.outcome for member in members] == ["left", "left"]
    assert [member.sink.said for member in members] == ["A", "B"]


async def test_cancelling_an_array_closes_it_without_an_end() -> None:
    ready, seen = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(SSE, text_event(0, "A"))
        ready.set()
        await peer.gone()
        seen.set()

    members = prompts_of("a", "b")
    async with engine_for(script) as (engine, _):
        task = asyncio.create_task(engine.generate_array(members))
        await ready.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await seen.wait()
    assert [member.ends for member in members] == [[], []]


# Against the simulated server.


@asynccontextmanager
async def simulated() -> AsyncIterator[UpstreamEngine]:
    """An engine whose model server is the simulated one."""
    sim = SimEngine(PROFILES["h100-8b"], speed=100.0, faults=True)
    runner = create_runner(sim)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    engine = UpstreamEngine(f"http://{host}:{port}")
    try:
        yield engine
    finally:
        await engine.close()
        await runner.cleanup()
        await sim.close()


@pytest.mark.parametrize("model", ["sim", "sim+null", "sim+comment=3"])
async def test_raw_prompts_against_the_simulated_server(model: str) -> None:
    generation = going_on("Once upon a time", model, max_tokens=20)
    sink = RecordingSink()
    members = [RecordingMember(replace(generation, prompt=prompt)) for prompt in ("a", "", "b")]
    async with simulated() as engine:
        await engine.generate(generation, sink)
        await engine.generate_array(members)
    assert sink.said == full_text(generation)
    assert sink.calls[-2:] == [("usage", Usage(4, 20)), ("finish", "length")]
    for member in members:
        assert member.sink.said == full_text(member.generation)
        assert member.sink.calls[-2:] == [("usage", Usage(1, 20)), ("finish", "length")]
        assert member.outcome == "length"


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("error=5", "upstream_error"),
        ("error=0", "upstream_unavailable"),
        ("eof=5", "upstream_incomplete_stream"),
        ("400", "context_length_exceeded"),
        ("429", "upstream_overloaded"),
        ("garbage=4", "upstream_protocol_error"),
        ("cut=600", "upstream_incomplete_stream"),
        ("html", "upstream_unavailable"),
    ],
)
async def test_faults_of_the_simulated_server(fault: str, code: str) -> None:
    generation = going_on("Once", f"sim+{fault}")
    members = [RecordingMember(generation) for _ in range(3)]
    async with simulated() as engine:
        with fails_with(code):
            await engine.generate(generation, RecordingSink())
        await engine.generate_array(members)
    assert [member.outcome for member in members] == [code] * 3


# Configuration.


def test_it_is_an_engine() -> None:
    engine: Engine = UpstreamEngine("http://localhost:8080", slots=4)
    assert engine.name == "upstream", "not its address"
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
