"""The load generator: against the token source, and against hub in front of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from hub.bench.clients import Target
from hub.bench.load import Run
from hub.bench.plan import MODES, Load, Mode
from hub.bench.source import TokenSource
from hub.bench.tally import Result, Sofar
from hub.bench.text import Vocabulary
from hub.engines.sim import SimEngine
from hub.engines.sim_model import DEFAULT_PROFILE
from hub.engines.upstream import UpstreamEngine
from tests.running import Running, Start

WHOLE: tuple[Mode, ...] = ("sync", "background")
"""Modes whose answers do not stream."""
Behind = Callable[..., Awaitable[Running]]


@pytest.fixture
async def behind(start: Start) -> AsyncIterator[Behind]:
    """Start hubs in front of token sources."""
    sources: list[TokenSource] = []

    async def begin(source: TokenSource | None = None, **options: Any) -> Running:
        source = source or TokenSource()
        sources.append(source)
        port = await source.start()
        options.setdefault("window", 64)
        return await start(UpstreamEngine(f"http://127.0.0.1:{port}"), **options)

    yield begin
    for source in sources:
        await source.stop()


async def load(url: str, mode: Mode, **options: Any) -> Result:
    plan = {"connections": 3, "lanes": 4, "warmup": 0.0, "max_tokens": 40, "timeout": 5.0}
    plan["poll"] = 0.002
    return await Run(Target.parse(url), Load(mode=mode, **{**plan, **options})).run()


@pytest.mark.parametrize("mode", MODES)
async def test_every_response_is_whole_and_right(behind: Behind, mode: Mode) -> None:
    hub = await behind()
    result = await load(hub.url, mode, requests=60)
    assert result.flawless, result
    assert result.completed == 60
    assert result.cut == 0
    assert result.ttft_ms.count == result.e2e_ms.count == 60
    assert 0 < result.ttft_ms.p50 <= result.e2e_ms.max
    assert (result.itl_ms.count > 0) is (mode != "sync")
    assert (result.tpot_ms.count > 0) is (mode not in WHOLE)
    assert (result.polls is not None) is (mode == "background")
    assert result.http_requests == pytest.approx(
        {"lanes": 3 / 60, "background": 1 + (result.polls or 0)}.get(mode, 1)
    )
    assert result.wire_bytes > 100
    assert result.peak_connections == 3
    assert 60 <= result.tokens <= 60 * 40
    assert result.tokens_per_s > 0
    assert result.cpu_us is None


@pytest.mark.parametrize("mode", MODES)
async def test_open_loop(behind: Behind, mode: Mode) -> None:
    hub = await behind()
    result = await load(hub.url, mode, requests=30, rate=2000.0)
    assert result.flawless, result
    assert result.completed == 30
    assert result.tokens == 30 * 40
    assert result.ttft_ms.count == 30


@pytest.mark.parametrize("mode", MODES)
async def test_measuring_for_a_time_excludes_the_warm_up(behind: Behind, mode: Mode) -> None:
    hub = await behind(TokenSource(rate=500.0))
    result = await load(hub.url, mode, seconds=0.3, warmup=0.2)
    assert result.flawless, result
    assert 0 < result.ttft_ms.count < result.completed


async def test_what_runs_at_the_end_is_cut_off(behind: Behind) -> None:
    hub = await behind(TokenSource(rate=50.0))
    result = await load(hub.url, "lanes", seconds=0.2, drain=0.0, max_tokens=100_000)
    assert result.flawless, result
    assert result.cut == 12
    assert result.tokens > 0


async def test_one_lane_is_the_default_lane(behind: Behind) -> None:
    hub = await behind()
    result = await load(hub.url, "lanes", requests=6, lanes=1)
    assert result.flawless, result
    assert result.streams == 3


@pytest.mark.parametrize("mode", MODES)
async def test_a_wrong_text_is_found(behind: Behind, mode: Mode) -> None:
    hub = await behind(TokenSource(vocabulary=Vocabulary(salt=1)))
    result = await load(hub.url, mode, requests=12)
    assert not result.flawless
    # hub repeats the source's text in its last event; that it is another one shows there, too.
    assert result.wrong == 12
    assert result.lost + result.surplus > 0
    assert result.difference is not None
    assert result.completed == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_refused_response_has_failed_with_its_code(behind: Behind, mode: Mode) -> None:
    hub = await behind(
        TokenSource(rate=2000.0), window=1, dispatcher_options={"queue_size": 1, "batch_size": 1}
    )
    result = await load(hub.url, mode, requests=40, connections=8, lanes=2)
    code = "rate_limit_exceeded" if mode == "lanes" else "429_rate_limit_exceeded"
    if mode == "background":
        # What is on disk waits as long as it takes.
        assert (result.failed, result.completed) == ({}, 40)
        return
    assert set(result.failed) == {code}
    assert result.completed > 0
    assert result.completed + result.failed[code] == 40
    assert result.wrong == result.lost == 0


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_is_not_there(mode: Mode) -> None:
    listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    listener.close()
    await listener.wait_closed()
    result = await load(f"http://127.0.0.1:{port}", mode, seconds=0.05, connections=2, lanes=1)
    assert set(result.failed) == {"connection_failed"}
    assert result.completed == 0


@pytest.mark.parametrize("mode", MODES)
async def test_texts_that_are_not_known_are_compared_with_what_is_told_at_the_end(
    start: Start, mode: Mode
) -> None:
    """In front of the simulated engine: every response is recorded, with hub's own times."""
    hub = await start(SimEngine(DEFAULT_PROFILE, speed=200.0))
    told: list[Sofar] = []
    asked = Load(
        mode=mode, connections=3, lanes=2, requests=12, rate=100.0, warmup=0.0, max_tokens=40,
        poll=0.002, model="", any_text=True, goodput={"e2el": 60_000.0},
    )  # fmt: skip
    run = Run(Target.parse(hub.url), asked, progress=told.append)
    result = await run.run()
    assert result.flawless, result
    assert (result.completed, result.goodput_share) == (12, 1.0)
    assert result.checked is (mode != "chat")
    assert result.tokens == sum(record.tokens or 0 for record in run.records)
    assert len({record.id for record in run.records}) == 12
    for record in run.records:
        assert record.ttft_ms is not None
        assert record.e2e_ms is not None
        assert 0 < record.ttft_ms <= record.e2e_ms
        assert 0 < record.frames <= (record.tokens or 0) <= 40
        if mode == "chat":
            assert record.ledger_ms is None
        else:
            assert record.ledger_ms is not None
            assert record.ledger_ms["ended"] <= record.e2e_ms


Answer = Callable[[asyncio.StreamWriter], None]


async def against(answer: Answer, mode: Mode, **options: Any) -> Result:
    """Load a server that answers whatever it reads by a call."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            answer(writer)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        return await load(url, mode, requests=1, connections=1, lanes=1, **options)


@pytest.mark.parametrize("mode", MODES)
async def test_a_server_that_is_silent_has_failed(mode: Mode) -> None:
    result = await against(lambda writer: None, mode, timeout=0.05, drain=0.0)
    assert (result.failed, result.cut) == ({"timeout": 1}, 0)


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", "500"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n??", "500"),
        (STREAM + b"0\r\n\r\n", "incomplete_stream"),
        (STREAM + b"x\r\n\r\n", "protocol_error"),
        (STREAM + b"8\r\ndata: x\n\r\n1\r\n\n\r\n", "protocol_error"),
        (STREAM + b"a\r\ndata: []\n\n\r\n", "protocol_error"),
        (STREAM + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n", None),
        (STREAM + b"e\r\ndata: [DONE]\n\n\r\na\r\ndata: {}\n\n\r\n0\r\n\r\n", "event_after_end"),
    ],
)
async def test_streams_that_are_none(answer: bytes, code: str | None) -> None:
    result = await against(lambda writer: writer.write(answer), "chat")
    if code is None:
        assert (result.failed, result.wrong) == ({}, 1)
    else:
        assert result.failed == {code: 1}


@pytest.mark.parametrize("mode", WHOLE)
@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", "500"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "protocol_error"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n??", "protocol_error"),
    ],
)
async def test_answers_that_are_none(answer: bytes, code: str, mode: Mode) -> None:
    result = await against(lambda writer: writer.write(answer), mode)
    assert result.failed == {code: 1}


async def test_a_synchronous_answer_must_have_ended() -> None:
    answer = b'{"id":"resp_1","status":"in_progress","output":[]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer)
    result = await against(lambda writer: writer.write(head + answer), "sync")
    assert result.failed == {"not_ended": 1}


@pytest.mark.parametrize(
    ("head", "code"),
    [
        (b"", "connection_lost"),
        (b"HTTP/1.1 200 OK\r\n", "connection_lost"),
        (b"HTTP/1.1 503 No\r\n\r\nbusy", "503"),
    ],
)
async def test_connections_that_end(head: bytes, code: str) -> None:
    def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        writer.close()

    result = await against(answer, "chat")
    assert result.failed == {code: 1}


async def test_a_socket_that_is_no_websocket() -> None:
    result = await against(
        lambda writer: writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"), "lanes"
    )
    assert result.failed == {"protocol_error": 1}


async def test_a_server_that_goes_away_closes_its_lanes(behind: Behind) -> None:
    hub = await behind(TokenSource(rate=100.0))

    async def stop() -> None:
        while hub.hub.statistics().live < 12:  # noqa: ASYNC110 - hub tells nobody
            await asyncio.sleep(0.005)
        await hub.server.stop(drain=0)

    stopping = asyncio.create_task(stop())
    result = await load(hub.url, "lanes", seconds=1.0, max_tokens=100_000)
    await stopping
    assert result.failed.pop("connection_failed", 0) >= 0
    assert sum(result.failed.values()) == 12, result.failed
    assert result.wrong == 0


def test_targets() -> None:
    assert Target.parse("http://h:1") == Target("h", 1)
    assert Target.parse("http://h/v1/") == Target("h", 80)
    assert Target.parse("ws://h:1/hub/v1", "key") == Target("h", 1, "/hub", "key")
    for url in ("https://h", "h:1", "http://"):
        with pytest.raises(ValueError, match="not an http"):
            Target.parse(url)
