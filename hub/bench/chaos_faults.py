"""What goes wrong in a chaos run, when, and how it is done.

A seed decides the kinds, their order, amounts and gaps. It does not make a run repeatable, since
the processes' timing is their own.

Faults come one at a time mostly, with random gaps; sometimes one begins while another lasts. Each
ends healed, what was killed included. Those of one process never overlap.
"""

import asyncio
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from hub.bench.chaos_book import STRAY, Book
from hub.bench.chaos_cluster import Cluster, Node
from hub.bench.processes import StartError

LEASE = 5.0
"""The nodes' ``--lease``, in seconds."""
DRAIN = 3.0
"""Their ``--drain``."""
SETTLE = LEASE + 2.0
"""Seconds after a fault in which its consequences are not over."""
GAP = 2.0, 10.0
OVERLAP = 0.15
"""The share of faults that do not wait for the one before to be over."""
LATE = 10.0
"""Seconds beyond its drain that a node may take to end."""

KINDS = {
    "kill a node": 5,
    "stop a node shortly": 2,
    "stop a node beyond its lease": 3,
    "stop Redis": 3,
    "kill Redis": 3,
    "black hole before Redis": 4,
    "slow way to Redis": 1,
    "cut all from Redis": 2,
    "cut an answer of Redis": 2,
    "cut readers": 2,
    "end a node": 3,
}
"""The kinds of faults, and how often they come."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One that is planned."""

    gap: float
    """Seconds since the one before has ended, or begun if they overlap."""
    kind: str
    node: int
    seconds: float
    overlaps: bool
    """The next one does not wait for its end."""
    loses: bool
    """What was on its way is lost."""


def plan(
    seed: int,
    nodes: int,
    kinds: tuple[str, ...] = tuple(KINDS),
    gap: tuple[float, float] = GAP,
) -> Iterator[Fault]:
    """Faults without an end. Every kind has come once before one comes often."""
    dice = random.Random(f"faults {seed}")
    first = dice.sample(kinds, len(kinds))
    while True:
        kind = first.pop() if first else dice.choices(kinds, [KINDS[one] for one in kinds])[0]
        seconds = {
            "kill a node": dice.uniform(0.5, 4.0),
            "stop a node shortly": 0.3,
            "stop a node beyond its lease": 8.0,
            "stop Redis": dice.uniform(0.3, 1.5),
            "kill Redis": dice.uniform(0.5, 4.0),
            "black hole before Redis": dice.uniform(1.0, 8.0),
            "slow way to Redis": dice.uniform(2.0, 5.0),
        }.get(kind, 0.0)
        yield Fault(
            gap=dice.uniform(*gap),
            kind=kind,
            node=dice.randrange(nodes),
            seconds=seconds,
            overlaps=dice.random() < OVERLAP,
            loses=dice.random() < 0.5,
        )


class Weather:
    """Whether something is wrong just now."""

    def __init__(self) -> None:
        self.faults = 0
        self._loop = asyncio.get_running_loop()
        # All clients begin at once.
        self._calm_from = self._loop.time() + SETTLE

    def begins(self) -> None:
        self.faults += 1

    def ends(self, settle: float) -> None:
        self.faults -= 1
        self._calm_from = max(self._calm_from, self._loop.time() + settle)

    def calm_since(self, seconds: float) -> bool:
        """Whether nothing was wrong for so long."""
        return not self.faults and self._loop.time() - seconds >= self._calm_from


class Trouble:
    """Does what is planned. ``run`` until it is cancelled or over; everything is healed then."""

    def __init__(
        self,
        cluster: Cluster,
        book: Book,
        weather: Weather,
        *,
        on_hit: Callable[[int, str], None],
        on_spared: Callable[[int, str], None],
        cut_readers: Callable[[], int],
        progress: Callable[[str], None],
    ) -> None:
        """``on_hit`` is told a node that a fault takes its responses from, and the kind, and
        ``on_spared`` when the node lives on after that. ``cut_readers`` cuts some, and tells how
        many."""
        self._cluster = cluster
        self._book = book
        self._weather = weather
        self._on_hit = on_hit
        self._on_spared = on_spared
        self._cut_readers = cut_readers
        self._progress = progress
        self._locks = {name: asyncio.Lock() for name in ("Redis", *self._numbers)}

    @property
    def _numbers(self) -> list[str]:
        return [str(node.number) for node in self._cluster.nodes]

    async def run(self, faults: Iterator[Fault], seconds: float, number: int | None = None) -> None:
        """Do them for so long, and so many at most; return when the last one is over."""
        until = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            while number is None or number > 0:
                fault = next(faults)
                if asyncio.get_running_loop().time() + fault.gap >= until:
                    return
                await asyncio.sleep(fault.gap)
                doing = group.create_task(self._do(fault))
                if not fault.overlaps:
                    await asyncio.wait([doing])
                if number is not None:
                    number -= 1

    async def _do(self, fault: Fault) -> None:
        kind, node = fault.kind, self._cluster.nodes[fault.node]
        name = "Redis" if kind in ("stop Redis", "kill Redis") else str(node.number)
        async with self._locks[name]:
            self._book.faults[kind] += 1
            self._book.note("fault", kind=kind, node=node.number, seconds=round(fault.seconds, 2))
            self._progress(f"{self._book.now():6.1f} s  {kind}, node {node.number}")
            self._weather.begins()
            try:
                await self._act(fault, node)
            finally:
                self._weather.ends(SETTLE)
                self._book.note("healed", kind=kind, node=node.number)

    async def _act(self, fault: Fault, node: Node) -> None:
        redis, nodes = self._cluster.redis, self._cluster.nodes
        match fault.kind:
            case "kill a node":
                self._hit(node, fault.kind)
                await node.kill()
                await asyncio.sleep(fault.seconds)
                await node.start()
            case "end a node":
                self._hit(node, fault.kind)
                begun = self._book.now()
                code = await node.end(DRAIN + LATE)
                took = round(self._book.now() - begun, 1)
                self._book.note("ended by SIGTERM", node=node.number, code=code, took=took)
                if code:
                    self._book.blame(STRAY, None, node=node.number, code=code, took=took)
                await node.start()
            case "stop a node shortly" | "stop a node beyond its lease":
                self._hit(node, fault.kind)
                await self._stopped(node.signal, fault.seconds)
                self._on_spared(node.number, fault.kind)
            case "stop Redis":
                await self._stopped(redis.signal, fault.seconds)
            case "kill Redis":
                await redis.kill()
                await asyncio.sleep(fault.seconds)
                await redis.start()
            case "black hole before Redis":
                self._on_hit(node.number, fault.kind)
                node.proxy.black_hole()
                await self._for_a_while(fault, node)
                self._on_spared(node.number, fault.kind)
            case "slow way to Redis":
                node.proxy.delay(0.05)
                await self._for_a_while(fault, node)
            case "cut all from Redis":
                for one in nodes:
                    one.proxy.cut()
            case "cut an answer of Redis":
                node.proxy.cut_after(random.Random(fault.gap).randrange(1, 3000))
            case "cut readers":
                self._book.note("cut", readers=self._cut_readers())
            case kind:
                raise AssertionError(kind)

    def _hit(self, node: Node, kind: str) -> None:
        node.hits += 1
        self._on_hit(node.number, kind)

    async def _stopped(self, signalled: Callable[[int], None], seconds: float) -> None:
        signalled(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            signalled(signal.SIGCONT)

    async def _for_a_while(self, fault: Fault, node: Node) -> None:
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            if fault.loses:
                node.proxy.cut()
            node.proxy.heal()

    async def watch(self) -> None:
        """Tell of processes that end by themselves, and start them again. Until cancelled."""
        known: set[int] = set()
        while True:
            await asyncio.sleep(0.5)
            for process in (self._cluster.redis, *self._cluster.nodes):
                name = str(process.number) if isinstance(process, Node) else "Redis"
                if process.alive or self._locks[name].locked() or process.process is None:
                    continue
                pid = process.process.pid
                if pid not in known:
                    known.add(pid)
                    code = process.process.returncode
                    self._book.blame(STRAY, None, process=name, code=code)
                    async with self._locks[name]:
                        with suppress(StartError):
                            await process.start()
