"""Streams whose tokens are timed one by one: from when the source says each to when it is read.

The source says token ``i`` of an answer ``i`` periods after it was asked, and readers know by
their text which tokens they have. Source and readers are one process: one clock. A reader reads
where it has asked, or on another node than the one that generates.
"""

import asyncio
import time
from array import array
from collections.abc import Callable

from hub.bench import plan, wire
from hub.bench.answer import Answer, Window, http_error
from hub.bench.clients import RESPONSES, Stream, Target
from hub.bench.http_streams import SseStream, SyncStream
from hub.bench.plan import Load
from hub.bench.source import TokenSource
from hub.bench.tally import Traffic


class Timings:
    """What the measured tokens have taken, in seconds."""

    def __init__(self, source: TokenSource) -> None:
        self.source = source
        self.asked: dict[int, float] = {}
        """When the source was asked for the answer to a seed."""
        self.latencies = array("d")
        self.ttft = array("d")
        self.window = Window()
        self.tokens = 0
        """Read while the window was open."""
        self.failed: dict[str, int] = {}
        source.on_asked = self._on_asked

    def _on_asked(self, seed: int, said: int, key: str) -> None:
        self.asked.setdefault(seed, time.monotonic())


class TimedAnswer(Answer):
    """An answer that knows when each of its tokens was said."""

    __slots__ = ("_timings", "_tokens")

    def __init__(self, timings: Timings, load: Load, seed: int, tokens: int) -> None:
        vocabulary = timings.source.vocabulary
        super().__init__(
            vocabulary.answer(seed, tokens), seed=seed, tokens=tokens, window=timings.window
        )
        self._timings = timings
        self._tokens = 0

    def text(self, piece: str, now: float) -> None:
        if not piece:
            return
        first = self.first is None
        super().text(piece, now)
        timings, before = self._timings, self._tokens
        self._tokens = timings.source.vocabulary.tokens(self.seed, self.received)
        if not timings.window.open:
            return
        timings.tokens += self._tokens - before
        if first:
            timings.ttft.append(now - self.begun)
        said, period = timings.asked[self.seed], 1 / timings.source.rate
        timings.latencies.extend(now - said - at * period for at in range(before, self._tokens))


class _Accepted(SyncStream):
    """Background requests, each until it is accepted."""

    def __init__(
        self, target: Target, traffic: Traffic, on_end: Callable[[Stream, Answer], None]
    ) -> None:
        super().__init__(target, traffic, on_end)
        self.on_accepted: Callable[[Answer], None] = lambda answer: None

    def _whole(self, answer: Answer, now: float) -> None:
        found = self._json()
        if self._http.status != 200 or not isinstance(found, dict):
            self._end(answer, now, http_error(self._http.status, found))
            return
        # What was said already is read again.
        answer.id = str(found["id"])
        self.answer = None
        self.on_accepted(answer)


class FollowedStream(SseStream):
    """Responses that are asked for on one node, in the background, and read on another."""

    def __init__(
        self,
        target: Target,
        other: Target,
        traffic: Traffic,
        on_end: Callable[[Stream, Answer], None],
    ) -> None:
        super().__init__(other, traffic, on_end, chat=False)
        # What is not accepted ends here.
        self._accepted = _Accepted(target, traffic, lambda stream, answer: on_end(self, answer))
        self._accepted.on_accepted = self._follow

    def start(self, answer: Answer, request: bytes) -> None:
        self._accepted.start(answer, request)

    def close(self) -> None:
        self._accepted.close()
        super().close()

    def _follow(self, answer: Answer) -> None:
        self.answer = answer
        path = f"{self._target.path}{RESPONSES}/{answer.id}?stream=true"
        self._ask(wire.get(self._target.authority, path, self._target.key))


class Streams:
    """So many streams in closed loop, each one response after another."""

    def __init__(self, timings: Timings, load: Load, target: Target, other: Target | None) -> None:
        """``other``: where they are read, if not where they are asked for."""
        self._timings = timings
        self._load = load
        self._number = 0
        self._going = True
        traffic = Traffic()
        self._streams: list[SseStream] = [
            SseStream(target, traffic, self._ended, chat=False)
            if other is None
            else FollowedStream(target, other, traffic, self._ended)
            for _ in range(load.connections)
        ]

    async def run(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Warm up, measure and stop. ``before`` and ``after`` are called around the window."""
        load, window = self._load, self._timings.window
        assert load.seconds is not None
        for number, stream in enumerate(self._streams):
            loop = asyncio.get_running_loop()
            loop.call_later(load.warmup / 2 * number / load.connections, self._next, stream)
        await asyncio.sleep(load.warmup)
        before()
        window.open = True
        await asyncio.sleep(load.seconds)
        window.open = False
        after()
        self._going = False
        for stream in self._streams:
            stream.close()
        await asyncio.sleep(0)

    def _next(self, stream: SseStream) -> None:
        if not self._going:
            return
        load, number = self._load, self._number
        self._number += 1
        seed, tokens = plan.seed_of(load, number), plan.tokens_of(load, number)
        answer = TimedAnswer(self._timings, load, seed, tokens)
        answer.begun = time.monotonic()
        stream.start(answer, plan.request(load, seed, tokens))

    def _ended(self, stream: Stream, answer: Answer) -> None:
        code = answer.error or ("wrong text" if answer.wrong else None)
        if code is not None:
            self._timings.failed[code] = self._timings.failed.get(code, 0) + 1
        assert isinstance(stream, SseStream)
        self._next(stream)
