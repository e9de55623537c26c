"""What a crash costs: ``python -m tests.e2e.crash --kills 100`` kills hub again and again.

hub runs as a process on a directory and is killed with SIGKILL at random moments, some of them
while it starts. Meanwhile clients on loopback create responses and read them over SSE and
WebSocket. They hop from connection to connection, and now and then back to where they have been
before. Each reader remembers exactly what it has had, and compares it with what the simulated
engine says to its prompt: a response that many processes have written must read as if one had.

A foreground response may die with its process; one whose end was seen must be there ever after.
The moments of the kills and the clients' choices come from a seed. It does not make a run
repeatable, since the processes' timing is their own.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from hub.api.recorder import TERMINAL_EVENTS
from hub.api.requests import Generation, Json
from hub.api.sse import SseParser
from hub.engines.sim_text import full_text
from tests.e2e.process import command

SERVE = ("serve", "--sim", "h100-8b", "--port", "0", "--log-level", "error")
"""At its own speed a text takes one to three seconds, so many see several kills."""
LIFE = 1.2
"""Seconds that a process serves before it is killed, on average."""
START = 0.4
"""Seconds after it was spawned within which a process is killed that is to die while it starts."""

TEXT = "response.output_text.delta"
LOST_CONNECTION = (aiohttp.ClientError, WebSocketException, OSError, EOFError)

WRONG = (
    LOST := "accepted background responses lost",
    FOREGROUND_LOST := "foreground responses lost",
    WRONG_RESULT := "results wrong",
    MISSING := "characters lost",
    REPEATED := "characters repeated",
    DISORDER := "characters out of order",
    NUMBERS := "sequence numbers not increasing",
    TWICE := "repeated creates run twice",
    NONSENSE := "answers that make no sense",
    UNENDED := "clients that were not done in time",
)
"""What must not happen."""


class NotFound(Exception):
    """There is no such response."""


@dataclass
class Report:
    """What was counted in a run."""

    seed: int
    kills: int = 0
    kills_at_start: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    """Responses by kind."""
    ended: Counter[str] = field(default_factory=Counter)
    """Background responses by their end."""
    foreground: Counter[str] = field(default_factory=Counter)
    """Foreground responses by their end."""
    lives: Counter[int] = field(default_factory=Counter)
    """Background responses by the processes that they have seen."""
    connections: Counter[str] = field(default_factory=Counter)
    """Connections by what was read over them, after the creating ones."""
    characters: int = 0
    wrong: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(WRONG, 0)))
    examples: list[str] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    resumed: list[float] = field(default_factory=list)
    created: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def blame(self, what: str, example: object, amount: int = 1) -> None:
        """Something of ``WRONG`` has happened."""
        self.wrong[what] += amount
        if len(self.examples) < 20:
            self.examples.append(f"{what}: {example}")

    def table(self) -> str:
        lives = [f"{lives}: {count}" for lives, count in sorted(self.lives.items())]
        rows: list[tuple[str, object]] = [
            ("seed", self.seed),
            ("seconds", round(self.seconds)),
            ("kills (SIGKILL)", self.kills),
            ("of them while it started", self.kills_at_start),
            *((f"accepted, {kind}", count) for kind, count in sorted(self.accepted.items())),
            *((f"background ended, {end}", count) for end, count in sorted(self.ended.items())),
            ("background by processes seen", ", ".join(lives)),
            *((f"foreground ended, {end}", n) for end, n in sorted(self.foreground.items())),
            *((f"connections, {way}", count) for way, count in sorted(self.connections.items())),
            ("characters read", self.characters),
            *self.wrong.items(),
            ("spawned to serving, p50 / p99", milliseconds(self.started)),
            ("serving to first new text, p50 / p99", milliseconds(self.resumed)),
            ("create acknowledged, p50 / p99", milliseconds(self.created)),
        ]
        lines = [f"{name:<40}{value}" for name, value in rows]
        return "\n".join([*lines, *(f"! {example}" for example in self.examples)])


def milliseconds(times: Sequence[float]) -> str:
    if not times:
        return "-"
    ordered = sorted(times)
    p99 = ordered[int(0.99 * (len(ordered) - 1))]
    return f"{1000 * statistics.median(ordered):.0f} / {1000 * p99:.0f} ms (of {len(ordered)})"


class Place:
    """Where hub is to be found, one process after another."""

    def __init__(self) -> None:
        self.life = 0
        """Which process it is."""
        self.since = 0.0
        """When that began to serve."""
        self.calm = asyncio.Event()
        """The last process has come: it is not killed."""
        self._url = ""
        self._up = asyncio.Event()

    def up(self, url: str) -> None:
        self.life += 1
        self.since = time.perf_counter()
        self._url = url
        self._up.set()

    def down(self) -> None:
        self._up.clear()

    async def url(self) -> str:
        """Wait until there is a process that was not killed yet."""
        await self._up.wait()
        return self._url


@dataclass(eq=False)
class Asked:
    """One response that a client asks for."""

    prompt: str
    kind: str
    expected: str = field(repr=False)
    id: str = ""
    life: int = 0
    """Of the process that has accepted it."""

    @property
    def background(self) -> bool:
        return self.kind.startswith("background")

    @property
    def stream(self) -> bool:
        return self.kind.endswith("stream")


class Reading:
    """What one reader has had of a response."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.cursor = -1
        self.position = 0
        """Characters of the text."""
        self.furthest = 0
        """The same, without going back."""
        self.end: str | None = None
        """The status with which it ended, and the error's code."""
        self.life = 0
        """Of the process whose text was read last."""
        self._marks = [(-1, 0)]

    def take(self, event: Json, report: Report) -> None:
        """Read an event."""
        number = event["sequence_number"]
        if number <= self.cursor or self.end is not None:
            report.blame(NUMBERS, (self.asked, self.cursor, event))
        self.cursor = number
        if event["type"] == TEXT:
            self._take_text(event["delta"], report)
        elif event["type"] in TERMINAL_EVENTS:
            error = event["response"]["error"]
            self.end = event["response"]["status"] + (f" {error['code']}" if error else "")
            left = len(self.asked.expected) - self.position
            if self.end == "completed" and left:
                report.blame(MISSING, (self.asked, "at the end"), left)
        self._marks.append((self.cursor, self.position))

    def _take_text(self, delta: str, report: Report) -> None:
        expected, position = self.asked.expected, self.position
        report.characters += len(delta)
        if not expected.startswith(delta, position):
            example = self.asked, self.cursor, delta, expected[position : position + 20]
            if (found := expected.find(delta, position)) >= 0:
                report.blame(MISSING, example, found - position)
                position = found
            elif expected[:position].endswith(delta):
                report.blame(REPEATED, example, len(delta))
                position -= len(delta)
            else:
                report.blame(DISORDER, example, len(delta))
        self.position = position + len(delta)
        self.furthest = max(self.furthest, self.position)

    def go_back(self, dice: random.Random) -> None:
        """Forget what was had after some moment."""
        del self._marks[dice.randint(1, len(self._marks)) :]
        self.cursor, self.position = self._marks[-1]


class Crowd:
    """The clients."""

    def __init__(self, place: Place, report: Report, session: aiohttp.ClientSession) -> None:
        self.full = False
        """Nobody asks for anything more."""
        self._place = place
        self._report = report
        self._session = session
        self._dice = random.Random(report.seed)
        self._asked = 0
        self._ended: list[tuple[Asked, str]] = []
        """With the end that a reader has seen."""

    async def client(self) -> None:
        """Ask for one response after another, and read each to its end."""
        while not self.full:
            self._asked += 1
            prompt = f"Question {self._asked} of {self._report.seed}"
            messages = [{"role": "user", "content": prompt}]
            expected = full_text(Generation(model="", messages=messages))
            kind = self._dice.choice(["background", "background stream", "foreground stream"])
            asked = Asked(prompt, kind, expected)
            await (self._foreground if kind == "foreground stream" else self._background)(asked)

    async def check(self) -> None:
        """Whatever has ended can be had, as it has ended."""
        url = await self._place.url()
        for asked, end in self._ended:
            async with self._session.get(f"{url}/v1/responses/{asked.id}") as answer:
                result = await answer.json()
            if answer.status != 200:
                self._report.blame(_lost(asked), (asked.id, result))
            elif result["status"] != end or (end == "completed" and said(result) != asked.expected):
                self._report.blame(WRONG_RESULT, (asked, end, result))

    async def _background(self, asked: Asked) -> None:
        report, first = self._report, Reading(asked)
        while not await self._create(asked, first):
            pass  # Nobody knows whether it was accepted. The key makes it safe to ask again.
        report.accepted[asked.kind] += 1
        if self._dice.random() < 0.2:
            again = Asked(asked.prompt, asked.kind, asked.expected)
            while not await self._create(again, Reading(again)):
                pass
            if again.id != asked.id:
                report.blame(TWICE, (asked, again))
        readings = [first, *(Reading(asked) for _ in range(self._dice.randint(0, 2)))]
        await asyncio.gather(*(self._follow(reading) for reading in readings))
        self._note_end(readings, report.ended)
        report.lives[self._place.life - asked.life + 1] += 1

    async def _foreground(self, asked: Asked) -> None:
        reading = Reading(asked)
        if await self._create(asked, reading):
            self._report.accepted[asked.kind] += 1
            await self._follow(reading)
        if reading.end in (None, "not found"):
            self._report.foreground["cut off by a kill"] += 1
        else:
            self._note_end([reading], self._report.foreground)

    def _note_end(self, readings: Sequence[Reading], ends: Counter[str]) -> None:
        first = readings[0]
        assert first.end is not None
        if any(other.end != first.end for other in readings):
            self._report.blame(WRONG_RESULT, (first.asked, [one.end for one in readings]))
        ends[first.end] += 1
        self._ended.append((first.asked, first.end.split()[0]))

    async def _create(self, asked: Asked, reading: Reading) -> bool:
        """Create a response, or create it again, and read its stream for a while. False if the
        connection was lost before it was acknowledged."""
        url = await self._place.url()
        asked.life = self._place.life
        body = {"input": asked.prompt, "stream": asked.stream, "background": asked.background}
        headers = {"Idempotency-Key": asked.prompt}
        start = time.perf_counter()
        try:
            async with self._session.post(
                f"{url}/v1/responses", json=body, headers=headers
            ) as answer:
                if answer.status != 200:
                    self._report.blame(NONSENSE, await answer.text())
                elif asked.stream:
                    async with aclosing(self._noting(asked, start, answer)) as events:
                        await self._take(reading, events)
                else:
                    asked.id = (await answer.json())["id"]
                    self._report.created.append(time.perf_counter() - start)
        except LOST_CONNECTION:
            pass
        return bool(asked.id)

    async def _noting(
        self, asked: Asked, start: float, answer: aiohttp.ClientResponse
    ) -> AsyncGenerator[Json, None]:
        async with aclosing(sse(answer)) as events:
            async for event in events:
                if not asked.id:
                    asked.id = event["response"]["id"]
                    self._report.created.append(time.perf_counter() - start)
                yield event

    async def _follow(self, reading: Reading) -> None:
        """Read to the end, over many connections."""
        while reading.end is None:
            await self._read(reading)

    async def _read(self, reading: Reading) -> None:
        """Read on for a while, over one connection."""
        url = await self._place.url()
        if self._dice.random() < 0.2:
            reading.go_back(self._dice)
        way = self._dice.choice(["SSE", "WebSocket"])
        read = self._over_sse if way == "SSE" else self._over_websocket
        self._report.connections[way] += 1
        try:
            async with aclosing(read(url, reading)) as events:
                await self._take(reading, events)
        except NotFound as error:
            reading.end = "not found"
            if reading.asked.background or reading.asked.life == self._place.life:
                self._report.blame(_lost(reading.asked), (reading.asked, error))
        except LOST_CONNECTION:
            pass

    async def _take(self, reading: Reading, events: AsyncGenerator[Json, None]) -> None:
        left = self._dice.choice([1, 5, 20, 80, 1000])
        life, furthest = self._place.life, reading.furthest
        async for event in events:
            reading.take(event, self._report)
            if reading.furthest > furthest:
                if reading.life not in (0, life) and self._place.life == life:
                    self._report.resumed.append(time.perf_counter() - self._place.since)
                reading.life = life
            left -= 1
            if left == 0 or reading.end is not None:
                return

    async def _over_sse(self, url: str, reading: Reading) -> AsyncGenerator[Json, None]:
        query = {"stream": "true"}
        if reading.cursor >= 0:
            query["starting_after"] = str(reading.cursor)
        async with self._session.get(
            f"{url}/v1/responses/{reading.asked.id}", params=query
        ) as answer:
            if answer.status == 404:
                raise NotFound(await answer.text())
            if answer.status != 200:
                self._nonsense(reading, await answer.text())
                return
            async with aclosing(sse(answer)) as events:
                async for event in events:
                    yield event

    async def _over_websocket(self, url: str, reading: Reading) -> AsyncGenerator[Json, None]:
        # The library does not see the other's close behind a full queue.
        async with connect(f"ws{url.removeprefix('http')}/v1/responses", max_queue=None) as ws:
            resume = {"type": "response.resume", "response_id": reading.asked.id}
            await ws.send(json.dumps({**resume, "starting_after": reading.cursor}))
            async for message in ws:
                event = json.loads(message)
                if event["type"] == "error":
                    if event["status"] == 404:
                        raise NotFound(message)
                    self._nonsense(reading, message)
                    return
                yield event

    def _nonsense(self, reading: Reading, answer: str | bytes) -> None:
        self._report.blame(NONSENSE, (reading.asked, reading.cursor, answer))
        reading.end = "unknown"


async def sse(answer: aiohttp.ClientResponse) -> AsyncGenerator[Json, None]:
    """The events of a stream. Raises ``ClientError`` if it breaks off."""
    parser = SseParser()
    async for chunk in answer.content.iter_any():
        for data in parser.feed(chunk):
            if data == b"[DONE]":
                return
            yield json.loads(data)


def said(result: Json) -> str:
    """The text of a response object."""
    messages = [item for item in result["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])


def _lost(asked: Asked) -> str:
    return LOST if asked.background else FOREGROUND_LOST


async def kill(place: Place, report: Report, kills: int, until: float, store: Path) -> None:
    """Run hub and kill it, so often or until that time; then let it run."""
    dice = random.Random(f"kills {report.seed}")
    loop = asyncio.get_running_loop()
    while True:
        last = report.kills >= kills or time.perf_counter() >= until
        at_start = not last and dice.random() < 0.15
        spawned = time.perf_counter()
        try:
            async with (
                asyncio.timeout(dice.uniform(0, START) if at_start else None) as moment,
                command(*SERVE, "--store", str(store)) as hub,
            ):
                place.up(hub.url)
                report.started.append(place.since - spawned)
                if last:
                    place.calm.set()
                elif not at_start:
                    moment.reschedule(loop.time() + dice.expovariate(1 / LIFE))
                try:
                    await hub.process.wait()
                finally:
                    place.down()
                raise AssertionError("hub has ended by itself")
        except TimeoutError:
            report.kills += 1
            report.kills_at_start += at_start


async def run(*, kills: int, seed: int, minutes: float, store: Path, clients: int = 12) -> Report:
    """Kill hub so often while clients use it, and count. After four fifths of the time there are
    no more kills."""
    report, place = Report(seed), Place()
    start = time.perf_counter()
    people: list[asyncio.Task[None]] = []
    try:
        async with (
            asyncio.timeout(60 * minutes),
            aiohttp.ClientSession() as session,
            asyncio.TaskGroup() as group,
        ):
            crowd = Crowd(place, report, session)
            until = start + 0.8 * 60 * minutes
            killer = group.create_task(kill(place, report, kills, until, store))
            people += [group.create_task(crowd.client()) for _ in range(clients)]
            await place.calm.wait()
            crowd.full = True
            await asyncio.wait(people)
            await crowd.check()
            killer.cancel()
    except TimeoutError:
        left = sum(person.cancelled() for person in people)
        report.blame(UNENDED, "see above", max(left, 1))
    report.seconds = time.perf_counter() - start
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill hub again and again; count what is lost.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=20.0, help="the most that it may take")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as store:
        report = asyncio.run(
            run(
                kills=given.kills,
                seed=given.seed,
                minutes=given.minutes,
                clients=given.clients,
                store=Path(store),
            )
        )
    print(report.table())
    sys.exit(any(report.wrong.values()))


if __name__ == "__main__":
    main()
