"""Chaos: three nodes of hub on one Redis, and everything that can go wrong between them.

Real processes on this machine: a Redis, nodes that reach it through a fault proxy each, and clients
that hop between the nodes. A model server, in this process, answers all nodes, and knows by the key
that each shows which of them asks: so it is known who generates what, and how long a text stands
still when its owner is gone.

Every character is a function of the response and its place (``text.py``), and the model server goes
on with an unfinished text: so whatever happens to its owner, each stored response is said to its
end, once. Nothing is lost that was seen to be created.
"""

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from hub.bench.chaos_book import UNENDED, Asked, Book
from hub.bench.chaos_cluster import Cluster
from hub.bench.chaos_crowd import READERS, TOKENS, Crowd
from hub.bench.chaos_faults import DRAIN, GAP, KINDS, LEASE, Trouble, Weather, plan
from hub.bench.chaos_wire import Wire
from hub.bench.source import TokenSource

RATE = 15.0
"""Tokens per second of a response."""
FINISH = 120.0
"""Seconds that everything may take to end when nothing is wrong any more."""
TELL = 10.0
"""Seconds between two lines that say how it goes."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run is to be."""

    redis: str
    """The server's executable."""
    seed: int
    seconds: float
    """In which faults begin."""
    readers: int
    nodes: int = 3
    kinds: Sequence[str] = tuple(KINDS)
    faults: int | None = None
    """The most of them."""
    serve: Sequence[str] = ()
    """Further arguments of ``hub serve``."""
    keep: Path | None = None
    """Where to leave the history and the processes' logs; by default they are only left, in a new
    temporary directory, when something was wrong."""
    rate: float = RATE
    gap: tuple[float, float] = GAP
    """Seconds between two faults."""
    tokens: tuple[int, int] = TOKENS
    """Of a response."""
    progress: Callable[[str], None] = lambda line: None


async def run(setup: Setup) -> Book:
    """Do it once. Every process is gone when it returns. Raises ``StartError``."""
    directory = Path(tempfile.mkdtemp(prefix="hub-chaos-"))
    flawless = False
    try:
        with (directory / "history.jsonl").open("wb") as history:
            book = Book(setup.seed, history)
            await _run(setup, book, directory)
        flawless = book.flawless
    finally:
        _leave(directory, setup, flawless)
    return book


async def _run(setup: Setup, book: Book, directory: Path) -> None:
    progress = setup.progress
    async with AsyncExitStack() as stack:
        owners = Owners(book)
        source = TokenSource(rate=setup.rate, on_asked=owners.asked)
        upstream = f"--upstream=http://127.0.0.1:{await source.start()}#continues"
        stack.push_async_callback(source.stop)
        serve = [upstream, f"--lease={LEASE:g}", f"--drain={DRAIN:g}", *setup.serve]
        cluster = await stack.enter_async_context(
            Cluster(directory, redis=setup.redis, nodes=setup.nodes, serve=serve, progress=progress)
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        )
        weather, wire = Weather(), Wire(session)
        crowd = owners.crowd = Crowd(cluster.nodes, wire, book, weather, setup.tokens)
        trouble = Trouble(
            cluster,
            book,
            weather,
            on_hit=owners.hit,
            on_spared=owners.spared,
            cut_readers=crowd.cut,
            progress=progress,
        )
        faults = plan(setup.seed, setup.nodes, tuple(setup.kinds), setup.gap)
        clients = [
            asyncio.create_task(crowd.client())
            for _ in range(max(1, round(setup.readers / READERS)))
        ]
        others = [
            asyncio.create_task(trouble.watch()),
            asyncio.create_task(_tell(book, wire, crowd, progress)),
        ]
        stack.push_async_callback(_stop, [*clients, *others])
        book.note("begun", seed=setup.seed, serve=serve)
        troubling = asyncio.create_task(trouble.run(faults, setup.seconds, setup.faults))
        others.append(troubling)
        # A client that fails is a defect of this program: nothing is measured then.
        await asyncio.wait([troubling, *clients], return_when=asyncio.FIRST_COMPLETED)
        for task in (troubling, *clients):
            if task.done():
                task.result()
        progress(f"{book.now():6.1f} s  all is well again; waiting for the ends")
        crowd.full = True
        done, late = await asyncio.wait(clients, timeout=FINISH)
        for task in done:
            task.result()
        if late:
            for asked in crowd.live.values():
                book.blame(UNENDED, asked)
        await crowd.ends.check()
        book.seconds = book.now()


class Owners:
    """Which node generates what: as the model server hears it."""

    def __init__(self, book: Book) -> None:
        self.crowd: Crowd | None = None
        self._book = book

    def asked(self, seed: int, said: int, key: str) -> None:
        """A node asks for the text of a response, after so many characters."""
        assert self.crowd is not None
        asked, node = self.crowd.live.get(seed), int(key.rpartition("-")[2])
        self._book.note("asked", seed=seed, said=said, node=node)
        if asked is None:
            return
        now = time.monotonic()
        if asked.owner not in (None, node) or asked.hit is not None:
            self._book.continued += 1
            since, why = asked.hit or (asked.news_at or now, "another reason")
            if why == "end a node":
                # It may have gone on for a while.
                since = asked.news_at or since
            asked.moved = since, why, said
            self._book.asked_again.append(now - since)
        asked.hit = None
        asked.owner = node
        asked.owners.append((self._book.now(), node, said))

    def hit(self, node: int, kind: str) -> None:
        """A node is hit by a fault that may take its responses from it."""
        for asked in self._owned(node):
            asked.hit = time.monotonic(), kind

    def spared(self, node: int, kind: str) -> None:
        """It has come back: what it still owns it goes on with."""
        for asked in self._owned(node):
            if asked.hit is not None and asked.hit[1] == kind:
                asked.hit = None

    def _owned(self, node: int) -> list[Asked]:
        assert self.crowd is not None
        return [asked for asked in self.crowd.live.values() if asked.owner == node]


async def _tell(book: Book, wire: Wire, crowd: Crowd, progress: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(TELL)
        wrong = {what: count for what, count in book.wrong.items() if count}
        progress(
            f"{book.now():6.1f} s  {wire.open} streams read, {len(crowd.live)} responses live, "
            f"{sum(book.accepted.values())} accepted, {sum(map(_total, book.ended.values()))} "
            f"ended, {book.continued} gone on with elsewhere, wrong: {wrong or 'nothing'}"
        )


def _total(counter: dict[str, int]) -> int:
    return sum(counter.values())


async def _stop(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _leave(directory: Path, setup: Setup, flawless: bool) -> None:
    """Leave what explains the mistakes, and nothing else."""
    for path in directory.iterdir():
        if path.suffix not in (".log", ".jsonl"):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    if setup.keep is not None:
        shutil.copytree(directory, setup.keep, dirs_exist_ok=True)
    if setup.keep is not None or flawless:
        shutil.rmtree(directory)
    if not flawless:
        setup.progress(f"History and logs are in {setup.keep or directory}.")


def a_seed() -> int:
    """Any."""
    return random.SystemRandom().randrange(1 << 32)
