"""The token source, by its bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest

from hub.api.sse import SseParser
from hub.bench import wire
from hub.bench.source import TokenSource
from hub.bench.text import Vocabulary
from hub.bench.wire import HttpReader
from hub.engines.chat_wire import ChunkReader
from hub.engines.upstream import UpstreamEngine
from tests.bench.doubles import TextSink

WORDS = Vocabulary()
Begin = Callable[..., Awaitable[tuple[TokenSource, int]]]


@pytest.fixture
async def begin() -> AsyncIterator[Begin]:
    """Start token sources; stop them at the end."""
    sources: list[TokenSource] = []

    async def begin(**options: Any) -> tuple[TokenSource, int]:
        source = TokenSource(**options)
        sources.append(source)
        return source, await source.start()

    yield begin
    for source in sources:
        await source.stop()


async def ask(port: int, request: bytes) -> tuple[HttpReader, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    http = HttpReader()
    body = http.feed(await reader.read())
    writer.close()
    await writer.wait_closed()
    return http, body


def chat(tokens: int | None, seed: int = 1, **fields: Any) -> bytes:
    message = {"role": "user", "content": f"seed={seed} and so on"}
    body = {"messages": [message], "stream": True, "max_tokens": tokens, **fields}
    return wire.post("h", "/v1/chat/completions", orjson.dumps(body))


@pytest.mark.parametrize("options", [{}, {"rate": 5000.0}, {"rate": 5000.0, "tick": 0.002}])
@pytest.mark.parametrize("per_chunk", [1, 4])
@pytest.mark.parametrize("tokens", [0, 1, 4, 7, 400])
async def test_an_answer_is_whole_and_hubs_client_reads_it(
    begin: Begin, options: dict[str, Any], per_chunk: int, tokens: int
) -> None:
    source, port = await begin(per_chunk=per_chunk, **options)
    http, body = await ask(port, chat(tokens, stream_options={"include_usage": True}))
    assert http.status == 200
    assert http.done
    sink = TextSink()
    reader = ChunkReader(sink)
    parser = SseParser()
    for event in parser.feed(body):
        reader.feed(event)
    assert reader.done
    assert not parser.close()
    assert "".join(sink.said) == WORDS.answer(1, tokens or 128)
    assert len(sink.said) == source.streamed == (tokens or 128)
    assert f'"completion_tokens":{tokens or 128},'.encode() in body


async def test_what_it_cannot_do_is_refused(begin: Begin) -> None:
    _, port = await begin()
    for request, status in (
        (chat(3, stream=False), 400),
        (chat(3, messages=[{"role": "user", "content": "Hello"}]), 400),
        (chat(3, stream_options=3), 400),
        (wire.post("h", "/v1/chat/completions", b"no json"), 400),
        (wire.post("h", "/v1/chat/completions", b"[]"), 400),
        (b"no http\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /v1/other HTTP/1.1\r\n\r\n", 404),
        (b"GET /health HTTP/1.1\r\n\r\n", 200),
    ):
        http, _ = await ask(port, request)
        assert http.status == status, request


async def test_hub_finds_its_model_and_its_slots(begin: Begin) -> None:
    _, port = await begin(model="m")
    engine = UpstreamEngine(f"http://127.0.0.1:{port}")
    try:
        assert await engine.models() == ["m"]
        assert await engine.probe_slots() == 65536
    finally:
        await engine.close()


@pytest.mark.parametrize("rate", [0.0, 1e6])
async def test_a_reader_that_does_not_read_holds_up_nobody(begin: Begin, rate: float) -> None:
    source, port = await begin(rate=rate)
    much = 500_000
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(chat(much))
    await reader.readuntil(b"\r\n\r\n")
    for _ in range(3):
        _, body = await ask(port, chat(2000, 2))
        assert body.endswith(b"data: [DONE]\n\n")
    # All that fits into the buffers of both ends is a few megabytes.
    assert source.streamed < much
    before = source.streamed
    await reader.readexactly(1 << 20)
    while source.streamed == before:
        await reader.read(1 << 16)
    writer.transport.abort()


async def test_a_reader_that_goes_away_ends_its_stream(begin: Begin) -> None:
    source, port = await begin(rate=1000.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(chat(10_000_000))
    await reader.readuntil(b"[")
    writer.transport.abort()
    while source.clients:  # noqa: ASYNC110 - the source tells nobody
        await asyncio.sleep(0.001)
    _, body = await ask(port, chat(3, 2))
    assert body.endswith(b"data: [DONE]\n\n")
    assert source.streamed < 10_000_000


@pytest.mark.parametrize("characters", [0, 1, 5, 6, 7, 8, 9, 700, 20_000])
async def test_it_goes_on_from_exactly_where_an_unfinished_text_stops(
    begin: Begin, characters: int
) -> None:
    heard: list[tuple[int, int, str]] = []
    _, port = await begin(on_asked=lambda *told: heard.append(told))
    whole = WORDS.answer(7, 10_000)
    said = whole[:characters]
    messages = [{"role": "user", "content": "seed=7"}, {"role": "assistant", "content": said}]
    http, body = await ask(port, chat(4000, messages=messages, continue_final_message=True))
    assert http.status == 200
    sink = TextSink()
    reader = ChunkReader(sink)
    for event in SseParser().feed(body):
        reader.feed(event)
    assert len(sink.said) == 4000
    assert whole.startswith(said + "".join(sink.said))
    assert heard == [(7, characters, "")]


async def test_it_goes_on_with_no_other_text(begin: Begin) -> None:
    _, port = await begin()
    messages = [{"role": "user", "content": "seed=7"}, {"role": "assistant", "content": "Ah."}]
    http, _ = await ask(port, chat(4, messages=messages, continue_final_message=True))
    assert http.status == 400
