"""What a chaos run's responses come to, and whether every node tells the same of it."""

import asyncio
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import orjson

from hub.bench.chaos_book import FAILED, LOST, NONSENSE, RESULTS, WRONG_RESULT, Asked, Book
from hub.bench.chaos_reading import Json, Reading, end_of, said, whole
from hub.bench.chaos_wire import Away, Missing, Nonsense, Wire

PATIENCE = 4.0
"""Seconds for an answer, until another node is asked."""
FIELDS = "id", "status", "error", "incomplete_details", "output", "usage"
"""What may never differ between two answers."""


class Node(Protocol):
    """Whom clients ask."""

    number: int
    url: str
    hits: int
    """Faults that broke streams that only it could say."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A response that has ended, and what was told of it."""

    id: str
    seed: int
    digest: str
    end: str


class Ends:
    """See the top of this file."""

    def __init__(self, nodes: Sequence[Node], wire: Wire, book: Book, dice: random.Random) -> None:
        self._nodes = nodes
        self._wire = wire
        self._book = book
        self._dice = dice
        self._kept: list[Kept] = []

    async def check(self) -> None:
        """Whatever has ended can be had on any node, as it has ended."""
        width = asyncio.Semaphore(32)

        async def one(kept: Kept) -> None:
            async with width:
                found = await self.result(kept.id, self._dice.choice(self._nodes))
            if found is None:
                self._book.blame(LOST, None, kept=kept)
            elif _digest(found) != kept.digest:
                self._book.blame(RESULTS, None, kept=kept, end=end_of(found))

        await asyncio.gather(*map(one, self._kept))

    async def over(self, asked: Asked, reading: Reading) -> None:
        """All readers have seen the end, as this one has: so has every node."""
        end = reading.end or "unknown"
        self._book.ended[asked.kind][end] += 1
        self._book.note("ended", id=asked.id, seed=asked.seed, kind=asked.kind, end=end)
        if end == "lost":
            return
        if not whole(end):
            self.blame(FAILED, reading, end=end)
        told: dict[int, Json] = {}
        for node in self._dice.sample(self._nodes, min(2, len(self._nodes))):
            found = await self.result(asked.id, node)
            if found is None:
                self.lost(reading)
                return
            told[node.number] = found
            if end_of(found) != end:
                self.blame(RESULTS, reading, told=end, polled=end_of(found), at=node.number)
            elif whole(end) and said(found) != asked.expected:
                self.blame(WRONG_RESULT, reading, polled=said(found)[-80:], at=node.number)
        if len({*map(_digest, told.values())}) > 1:
            self.blame(RESULTS, reading, differences=_differences(told))
        self._kept.append(Kept(asked.id, asked.seed, _digest([*told.values()][-1]), end))

    async def result(self, id: str, node: Node) -> Json | None:
        """Poll a response, on that node or whichever answers; ``None`` if it is not there."""
        while True:
            try:
                return await self._wire.ask("GET", f"{node.url}/v1/responses/{id}", PATIENCE)
            except Away as away:
                self._book.refused[str(away)] += 1
            except Missing:
                return None
            except Nonsense as error:
                self._book.blame(NONSENSE, None, node=node.number, error=str(error), id=id)
            await asyncio.sleep(self._dice.uniform(0.05, 0.3))
            node = self._dice.choice(self._nodes)

    def lost(self, reading: Reading) -> None:
        """There is no such response any more, though there was."""
        if "lost" not in reading.asked.ends:
            reading.asked.ends.add("lost")
            self.blame(LOST, reading)
        reading.end = "lost"

    def blame(self, what: str, reading: Reading, **more: object) -> None:
        """A reader has found something of ``WRONG``."""
        place = {"node": reading.node, "cursor": reading.cursor, "position": reading.position}
        self._book.blame(what, reading.asked, **place, trail=reading.trail.told(), **more)


def _differences(told: dict[int, Json]) -> dict[str, dict[int, str]]:
    """In what the nodes' answers differ."""
    return {
        field: {node: repr(one.get(field))[-300:] for node, one in told.items()}
        for field in FIELDS
        if len({repr(one.get(field)) for one in told.values()}) > 1
    }


def _digest(response: Json) -> str:
    told = [response.get(field) for field in FIELDS]
    return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
