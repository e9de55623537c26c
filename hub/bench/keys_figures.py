"""Single figures of a completion server, each measured directly.

``close``    how soon the model server is rid of what nobody wants, though it was asked without a
             stream: from a newer request, or from the editor's going away, until it stopped.
``through``  how long an answer takes that was predicted before.
``added``    what hub adds to a completion that was not.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from hub.bench.keys import behind
from hub.bench.keys_clients import Shot, Socket, completion, infill, window
from hub.bench.keys_corpus import places, sources
from hub.bench.keys_score import Times
from hub.bench.keys_truth import Record, Truth
from hub.bench.keystrokes import Place
from hub.bench.oracle import Oracle
from hub.bench.wire import WireError

SERVED = 10.0
"""Seconds that anything here may take."""
GAP = 4000
"""Characters that are missing at a place: enough for long answers."""
MIDDLE = 30
"""Characters of a function that are typed where an answer should not begin with a line: hub holds
the beginning of a line back as long as it may repeat the line behind the cursor."""
WORKERS = 8
"""Editors at the same time."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report: times in ms, or another number."""

    part: str
    title: str
    times: Times | None = None
    value: str = ""


class Bed:
    """An oracle, hub before it, and places that nobody has typed at yet."""

    def __init__(self, oracle: Oracle, direct: str, url: str, seed: int) -> None:
        self.oracle = oracle
        self.direct = direct
        self.url = url
        self.rng = random.Random(seed)
        self._places: Iterator[Place] = iter(())

    def place(self) -> Place:
        """Raises ``StopIteration`` never: there is always another."""
        found = next(self._places, None)
        if found is None:
            self._places = iter(places(200, GAP, self.rng))
            found = next(self._places)
        return found

    async def record(self, place: Place, typed: str, since: float, *, said: int = 0) -> Record:
        """What the oracle notes of a request, when it is there and has said so many tokens."""
        end = (place.before + typed)[-100:]

        def found() -> Record | None:
            for record in reversed(self.oracle.records):
                if record.arrived < since:
                    break
                if record.before.endswith(end) and place.behind.startswith(record.behind):
                    return record if len(record.said) >= said or record.ended else None
            return None

        async with asyncio.timeout(SERVED):
            return await self.oracle.until(found)

    async def ended(self, record: Record) -> float:
        """When the oracle's work on a request has ended."""
        async with asyncio.timeout(SERVED):
            return await self.oracle.until(lambda: record.ended)


@asynccontextmanager
async def bed(
    seed: int, serve: Sequence[str], *, prefill: float, per_token: float, length: int
) -> AsyncIterator[Bed]:
    """Raises ``StartError``, ``OSError``; what is measured there raises ``WireError`` if an answer
    is not as it must be."""
    truth = Truth(sources(), 1.0, length, seed)
    oracle = Oracle(truth, slots=2 * WORKERS, prefill=prefill, per_token=per_token)
    async with AsyncExitStack() as stack:
        direct = await oracle.start()
        stack.push_async_callback(oracle.stop)
        hub = await stack.enter_async_context(behind(direct, *serve))
        made = Bed(oracle, direct, hub.url, seed)
        # What hub does only once: find out what is behind it, connect.
        await _whole(Shot(hub.url, "/infill", _asked(made.place(), "", most=4)))
        yield made


def _asked(place: Place, typed: str, *, most: int = 1000) -> bytes:
    return infill(*window(place.before + typed, place.behind), most=most, budget=None)


def _created(place: Place, lane: str, typed: str = "", version: int = 1) -> dict[str, Any]:
    before, after = window(place.before + typed, place.behind)
    message = {"type": "completion.create", "stream_id": lane, "version": version}
    return {**message, "prefix": before, "suffix": after, "max_tokens": 1000}


# close


async def close(samples: int, seed: int, serve: Sequence[str] = ()) -> list[Figure]:
    """How soon the model server is rid of what nobody wants."""
    async with bed(seed, serve, prefill=0.060, per_token=0.012, length=60) as made:
        found = []
        for title, once in _CLOSES.items():
            lags = await _repeated(samples, lambda once=once: once(made))  # type: ignore[misc]
            found.append(Figure("close", title, Times.of(lags)))
        direct = await _repeated(WORKERS, lambda: _disconnect(made, made.direct))
        found.append(Figure("close", "no hub, the editor disconnects", Times.of(direct)))
        return found


async def _repeated(samples: int, once: Callable[[], Awaitable[float]]) -> list[float]:
    """So many samples, taken by several editors at the same time."""
    found: list[float] = []

    async def worker(count: int) -> None:
        for _ in range(count):
            found.append(await once())  # noqa: PERF401 - one after the other

    shares = [len(range(n, samples, WORKERS)) for n in range(WORKERS)]
    await asyncio.gather(*map(worker, shares))
    return found


async def _while_it_runs(made: Bed, place: Place, begun: float) -> Record:
    """Some time in the life of a request: before its first token, or later."""
    record = await made.record(place, place.missing[:MIDDLE], begun)
    await asyncio.sleep(made.rng.uniform(0.0, 0.3))
    return record


async def _supersede(made: Bed) -> float:
    place, begun = made.place(), time.monotonic()
    old = Shot(made.url, "/infill", _asked(place, place.missing[:MIDDLE])).fire()
    record = await _while_it_runs(made, place, begun)
    sent = time.monotonic()
    # Another character than was there before. What is only added might yet be predicted.
    typed = f"{place.missing[: MIDDLE - 1]}~"
    new = Shot(made.url, "/infill", _asked(place, typed)).fire()
    lag = await made.ended(record) - sent
    if await old.ended or old.text:
        raise WireError(f"a superseded request got {old.ended.result() or old.text!r}")
    new.close()
    return lag


async def _disconnect(made: Bed, url: str | None = None) -> float:
    place, begun = made.place(), time.monotonic()
    old = Shot(url or made.url, "/infill", _asked(place, place.missing[:MIDDLE])).fire()
    record = await _while_it_runs(made, place, begun)
    gone = time.monotonic()
    old.close()
    return await made.ended(record) - gone


async def _supersede_on_socket(made: Bed) -> float:
    place, begun = made.place(), time.monotonic()
    socket = await Socket(made.url, lambda event: None).open()
    socket.send(_created(place, "a", place.missing[:MIDDLE]))
    record = await _while_it_runs(made, place, begun)
    sent = time.monotonic()
    message = {"type": "completion.type", "stream_id": "a", "version": 2}
    socket.send({**message, "delete": 1, "insert": "~"})
    lag = await made.ended(record) - sent
    socket.close()
    return lag


async def _disconnect_socket(made: Bed) -> float:
    place, begun = made.place(), time.monotonic()
    socket = await Socket(made.url, lambda event: None).open()
    socket.send(_created(place, "a", place.missing[:MIDDLE]))
    record = await _while_it_runs(made, place, begun)
    gone = time.monotonic()
    socket.close()
    return await made.ended(record) - gone


_CLOSES: dict[str, Callable[[Bed], Awaitable[float]]] = {
    "/infill, superseded": _supersede,
    "/infill, the editor disconnects": _disconnect,
    "WebSocket, superseded": _supersede_on_socket,
    "WebSocket, the editor disconnects": _disconnect_socket,
}


# through


async def through(samples: int, seed: int, serve: Sequence[str] = ()) -> list[Figure]:
    """How long an answer takes that was predicted before: to its first text."""
    async with bed(seed, serve, prefill=0.020, per_token=0.005, length=40) as made:
        each = 10
        running: list[float] = []
        ended: list[float] = []
        http: list[float] = []
        for _ in range(-(-samples // each)):
            running += await _typed(made, each, whole=False)
            ended += await _typed(made, each, whole=True)
            http += await _typed_over_http(made, each)
        return [
            Figure("through", "WebSocket, while it is predicted", Times.of(running)),
            Figure("through", "WebSocket, predicted before", Times.of(ended)),
            Figure("through", "/infill on a new connection, predicted before", Times.of(http)),
        ]


async def _typed(made: Bed, count: int, *, whole: bool) -> list[float]:
    place, begun, took = made.place(), time.monotonic(), []
    told: asyncio.Queue[tuple[int, float]] = asyncio.Queue()

    def on_event(event: dict[str, Any]) -> None:
        if event["type"] == "completion.delta":
            told.put_nowait((event["version"], time.monotonic()))

    socket = await Socket(made.url, on_event).open()
    socket.send(_created(place, "a"))
    record = await made.record(place, "", begun, said=8)
    if whole:
        await made.ended(record)
        await asyncio.sleep(0.02)
    for version in range(2, count + 2):
        sent = time.monotonic()
        insert = record.text[version - 2]
        message = {"type": "completion.type", "stream_id": "a", "version": version}
        socket.send({**message, "insert": insert})
        async with asyncio.timeout(SERVED):
            while (first := await told.get())[0] != version:
                pass
        took.append(first[1] - sent)
    socket.close()
    return took


async def _typed_over_http(made: Bed, count: int) -> list[float]:
    place, begun, took = made.place(), time.monotonic(), []
    await _whole(Shot(made.url, "/infill", _asked(place, "")))
    record = await made.record(place, "", begun)
    for typed in range(1, count + 1):
        shot = await _whole(Shot(made.url, "/infill", _asked(place, record.text[:typed])))
        if shot.text != record.text[typed:]:
            raise WireError(f"instead of what was predicted hub said {shot.text!r}")
        took.append((shot.first or 0) - (shot.begun or 0))
    return took


# added


async def added(samples: int, seed: int, serve: Sequence[str] = ()) -> list[Figure]:
    """Fresh completions with and without hub between, in turn, one at a time."""
    async with bed(seed, serve, prefill=0.020, per_token=0.002, length=16) as made:
        took: dict[str, list[float]] = {}
        for _ in range(samples):
            for where, url in (("no hub", made.direct), ("hub", made.url)):
                place = made.place()
                begun = f"{place.before}{place.missing[:MIDDLE]}"
                body = completion(*window(begun, place.behind), stream=True)
                shot = await _whole(Shot(url, "/v1/completions", body))
                took.setdefault(f"{where}, streamed: first text", []).append(
                    (shot.first or 0) - (shot.begun or 0)
                )
                place = made.place()
                body = _asked(place, place.missing[:MIDDLE])
                shot = await _whole(Shot(url, "/infill", body))
                took.setdefault(f"{where}, /infill: the answer", []).append(
                    (shot.done or 0) - (shot.begun or 0)
                )
        found = [Figure("added", title, Times.of(times)) for title, times in took.items()]
        for kind in ("streamed: first text", "/infill: the answer"):
            by = [Times.of(took[f"{where}, {kind}"]).p50 for where in ("no hub", "hub")]
            found.append(Figure("added", f"hub adds, {kind}", value=f"{by[1] - by[0]:.2f} ms p50"))
        return found


async def _whole(shot: Shot) -> Shot:
    async with asyncio.timeout(SERVED):
        error = await shot.fire().ended
    if error:
        raise WireError(error)
    return shot


def table(found: list[Figure]) -> str:
    """A Markdown table."""
    lines = ["| part | | n | p50, ms | p95 | p99 | max |", "| --- | --- |" + " ---: |" * 5]
    for one in found:
        if one.times is None:
            lines.append(f"| {one.part} | {one.title} | | {one.value} | | | |")
        else:
            times = one.times
            shown = " | ".join(
                f"{value:.1f}" for value in (times.p50, times.p95, times.p99, times.max)
            )
            lines.append(f"| {one.part} | {one.title} | {times.count} | {shown} |")
    return "\n".join(lines)
