"""The clients of a chaos run: each asks for one response after another, and reads it to its end.

Readers hop from node to node at random with their cursor, over SSE and WebSocket, and now and then
back to where they have been before. Whoever is told to go elsewhere, or hears nothing, does. What
was seen to be created must be there until its end, and its end ever after, the same on all nodes.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from hub.bench.chaos_book import BROKEN, NONSENSE, TWICE, WRONG_RESULT, Asked, Book
from hub.bench.chaos_ends import Ends, Node
from hub.bench.chaos_faults import Weather
from hub.bench.chaos_reading import Json, Reading, end_of, said, whole
from hub.bench.chaos_wire import Away, Missing, Nonsense, Wire
from hub.bench.text import Vocabulary

POLLED, STREAMED = "background, polled", "background, streamed"
SSE, LANES, UNSTORED = "foreground, SSE", "foreground, lanes", "unstored, SSE"
KINDS = {POLLED: 15, STREAMED: 25, SSE: 25, LANES: 20, UNSTORED: 15}
"""What clients ask for, and how often."""
READERS = 3.5
"""That one client is, on average: its own and those beside it."""
TOKENS = 60, 450
PATIENCE, LONG_PATIENCE = 4.0, 25.0
"""Seconds of silence until a reader asks another node; one who cannot waits longer."""
CAUGHT_UP = 0.15
"""Seconds that a reader stays away, at least, for there to be news when it comes back."""


class Crowd:
    """All clients. ``client`` is one; it goes on until the crowd is ``full``."""

    def __init__(
        self,
        nodes: Sequence[Node],
        wire: Wire,
        book: Book,
        weather: Weather,
        tokens: tuple[int, int] = TOKENS,
    ) -> None:
        """``tokens``: the shortest and the longest response."""
        self.full = False
        self.live: dict[int, Asked] = {}
        """Those that have not ended, by their seeds."""
        self._nodes = nodes
        self._wire = wire
        self._book = book
        self._weather = weather
        self._words = Vocabulary()
        self._tokens = tokens
        self._dice = random.Random(f"crowd {book.seed}")
        self._asked = 0
        self.ends = Ends(nodes, wire, book, self._dice)

    async def client(self) -> None:
        while not self.full:
            kind = self._dice.choices([*KINDS], [*KINDS.values()])[0]
            await {
                POLLED: self._polled,
                STREAMED: self._streamed,
                SSE: self._streamed,
                LANES: self._lanes,
                UNSTORED: self._unstored,
            }[kind](kind)

    def cut(self) -> int:
        """Cut half of the streams that are read."""
        return self._wire.cut(self._dice, 0.5)

    # The kinds.

    async def _polled(self, kind: str) -> None:
        asked = self._ask(kind)
        await self._accept(asked)
        reading = Reading(asked, self._book)
        self._book.readers += 1
        while reading.end is None:
            await asyncio.sleep(self._dice.uniform(0.3, 1.5))
            found = await self.ends.result(asked.id, self._dice.choice(self._nodes))
            if found is None:
                self.ends.lost(reading)
                return
            text = said(found)
            if not asked.expected.startswith(text):
                self._book.blame(WRONG_RESULT, asked, said=text[-80:])
            asked.furthest = max(asked.furthest, len(text))
            if found["status"] not in ("queued", "in_progress"):
                reading.end = end_of(found)
                asked.ends.add(reading.end)
        await self._over(asked, [reading])

    async def _streamed(self, kind: str) -> None:
        """Created over HTTP with a key, so that it can be asked again when nobody knows."""
        asked = self._ask(kind)
        first = Reading(asked, self._book)
        body = {**_body(asked), "stream": True, "background": kind == STREAMED}
        while not asked.id:
            await self._begin(first, body)
        self._book.accepted[kind] += 1
        if self._dice.random() < 0.1:
            # The same once more is the same response, from its beginning.
            await self._begin(Reading(asked, self._book), body)
        await self._read_all(asked, first)

    async def _begin(self, reading: Reading, body: Json) -> None:
        node = self._dice.choice(self._nodes)
        request = self._wire.sse(
            "POST",
            f"{node.url}/v1/responses",
            PATIENCE,
            json=body,
            headers=_key(reading.asked),
        )
        await self._try(reading, node, request, creating=True)

    async def _lanes(self, kind: str) -> None:
        """Several on one WebSocket. One whose beginning was not seen is nobody's."""
        number = self._dice.randint(2, 4)
        readings = {f"lane-{lane}": Reading(self._ask(kind), self._book) for lane in range(number)}
        messages = [
            {"type": "response.create", "stream_id": lane, **_body(reading.asked)}
            for lane, reading in readings.items()
        ]
        node, left = self._dice.choice(self._nodes), self._dice.choice([30, 200, 1000])
        started = time.monotonic()
        try:
            async with aclosing(self._wire.lanes(node.url, PATIENCE, messages)) as events:
                async for event in events:
                    reading = readings[event["stream_id"]]
                    if not reading.asked.id:
                        self._created(started)
                    reading.node = node.number
                    self._take(reading, event)
                    left -= 1
                    if left == 0 or all(one.end for one in readings.values()):
                        break
        except Away as away:
            self._book.refused[str(away)] += 1
        except (Nonsense, Missing) as error:
            self._book.blame(NONSENSE, None, node=node.number, error=str(error), kind=kind)
        known = [one for one in readings.values() if one.asked.id]
        for reading in readings.values():
            if not reading.asked.id:
                self._book.ended[kind]["never heard of"] += 1
                del self.live[reading.asked.seed]
        self._book.accepted[kind] += len(known)
        await asyncio.gather(*(self._read_all(one.asked, one) for one in known))

    async def _unstored(self, kind: str) -> None:
        """It ends with its connection, and that only with its node or with who cuts it."""
        asked = self._ask(kind)
        node = self._dice.choice(self._nodes)
        reading, hits, cuts = (
            Reading(asked, self._book),
            node.hits,
            self._book.faults["cut readers"],
        )
        reading.node = node.number
        self._book.readers += 1
        body = {**_body(asked), "stream": True, "store": False}
        try:
            url = f"{node.url}/v1/responses"
            async with aclosing(self._wire.sse("POST", url, LONG_PATIENCE, json=body)) as events:
                async for event in events:
                    self._take(reading, event)
        except Away as away:
            self._book.refused[str(away)] += 1
            if asked.id:
                reading.end = f"broken: {away}"
        except (Nonsense, Missing) as error:
            self._book.blame(NONSENSE, asked, node=node.number, error=str(error))
        del self.live[asked.seed]
        if not asked.id:
            return
        self._book.accepted[kind] += 1
        self._book.ended[kind][reading.end or "cut short"] += 1
        hit = node.hits != hits or self._book.faults["cut readers"] != cuts
        if not whole(reading.end or "") and not hit:
            self._book.blame(BROKEN, asked, end=reading.end, node=node.number)

    # Creating.

    def _ask(self, kind: str) -> Asked:
        self._asked += 1
        seed, tokens = (
            self._book.seed % 10**6 * 10**6 + self._asked,
            self._dice.randint(*self._tokens),
        )
        asked = Asked(seed, tokens, kind, self._words.answer(seed, tokens))
        self.live[seed] = asked
        return asked

    async def _accept(self, asked: Asked) -> None:
        """Have a background response accepted, on whichever node."""
        body = {**_body(asked), "background": True}
        while not asked.id:
            started = time.monotonic()
            found = await self._ask_node(asked, body)
            if found is None:
                await self._pause()
            else:
                asked.id = found["id"]
                self._created(started)
        self._book.accepted[asked.kind] += 1
        if self._dice.random() < 0.2:
            await self._again(asked, body)

    async def _again(self, asked: Asked, body: Json) -> None:
        """Ask for the same once more, elsewhere: it must be the one that there is."""
        while (found := await self._ask_node(asked, body)) is None:
            await self._pause()
        if found["id"] != asked.id:
            self._book.blame(TWICE, asked, other=found["id"])

    async def _ask_node(self, asked: Asked, body: Json) -> Json | None:
        node = self._dice.choice(self._nodes)
        try:
            url = f"{node.url}/v1/responses"
            return await self._wire.ask("POST", url, PATIENCE, json=body, headers=_key(asked))
        except Away as away:
            self._book.refused[str(away)] += 1
        except (Nonsense, Missing) as error:
            self._book.blame(NONSENSE, asked, node=node.number, error=str(error))
        return None

    def _created(self, started: float) -> None:
        seconds = time.monotonic() - started
        if self._weather.calm_since(seconds):
            self._book.creates.append(seconds)

    # Reading.

    async def _read_all(self, asked: Asked, first: Reading) -> None:
        """Read it with a few readers, each to the end."""
        others = [Reading(asked, self._book) for _ in range(self._dice.randint(1, 4))]
        if asked.kind == LANES:
            others = others[:1]
        for other in others:
            other.start_late(self._dice)
        self._book.readers += 1 + len(others)
        readings = [first, *others]
        await asyncio.gather(*map(self._follow, readings))
        await self._over(asked, readings)

    async def _follow(self, reading: Reading) -> None:
        while reading.end is None:
            away = self._dice.choice([0.0, 0.0, 0.2, 0.4, 0.8])
            await asyncio.sleep(away)
            if self._dice.random() < 0.1:
                reading.go_back(self._dice)
            node = self._dice.choice(self._nodes)
            if self._dice.random() < 0.5:
                query = "?stream=true"
                if reading.cursor >= 0:
                    query += f"&starting_after={reading.cursor}"
                url = f"{node.url}/v1/responses/{reading.asked.id}{query}"
                request = self._wire.sse("GET", url, PATIENCE)
                self._book.connects["SSE"] += 1
            else:
                resume = {"type": "response.resume", "response_id": reading.asked.id}
                message = {**resume, "starting_after": reading.cursor}
                request = self._wire.lanes(node.url, PATIENCE, [message])
                self._book.connects["WebSocket"] += 1
            await self._try(reading, node, request, caught_up=away >= CAUGHT_UP)

    async def _try(
        self,
        reading: Reading,
        node: Node,
        request: AsyncGenerator[Json, None],
        *,
        creating: bool = False,
        caught_up: bool = False,
    ) -> None:
        """Read on for a while, over one connection."""
        asked, started = reading.asked, time.monotonic()
        other, known = node.number != reading.node, asked.id
        left, news = self._dice.choice([1, 5, 20, 80, 1000]), False
        reading.trail.step(f"node {node.number}, after {reading.cursor}")
        reading.node = node.number
        try:
            async with aclosing(request) as events:
                async for event in events:
                    fresh = self._take(reading, event)
                    if creating and not known and asked.id:
                        known = asked.id
                        self._created(started)
                    if fresh and not news:
                        news = True
                        self._resumed(started, other and caught_up)
                    left -= 1
                    if left <= 0 or reading.end is not None:
                        break
        except Away as away:
            reading.trail.step(f"node {node.number}: {away}")
            self._book.refused[str(away)] += 1
            await self._pause()
        except Missing:
            self.ends.lost(reading)
        except Nonsense as error:
            reading.trail.step(f"node {node.number}: {error}")
            self.ends.blame(NONSENSE, reading, error=str(error))
            await asyncio.sleep(1.0)
        reading.trail.step(f"node {node.number} left at {reading.cursor}, {reading.position}")

    def _take(self, reading: Reading, event: Json) -> bool:
        fresh = reading.take(event)
        self._advance(reading.asked, reading.position)
        return fresh

    def _advance(self, asked: Asked, position: int) -> None:
        """A reader has had so much."""
        if position <= asked.furthest:
            return
        now = time.monotonic()
        if asked.moved is not None and position > asked.moved[2]:
            since, why, _ = asked.moved
            self._book.takeovers[why].append(now - since)
            self._book.note("taken over", id=asked.id, why=why, seconds=round(now - since, 3))
            asked.moved = None
        asked.furthest, asked.news_at = position, now

    def _resumed(self, started: float, counts: bool) -> None:
        seconds = time.monotonic() - started
        if counts and self._weather.calm_since(seconds):
            self._book.resumes.append(seconds)

    async def _over(self, asked: Asked, readings: Sequence[Reading]) -> None:
        self.live.pop(asked.seed, None)
        await self.ends.over(asked, readings[0])

    async def _pause(self) -> None:
        await asyncio.sleep(self._dice.uniform(0.05, 0.3))


def _body(asked: Asked) -> Json:
    return {"input": f"chaos seed={asked.seed}", "max_output_tokens": asked.tokens}


def _key(asked: Asked) -> dict[str, str]:
    return {"Idempotency-Key": f"chaos-{asked.seed}"}
