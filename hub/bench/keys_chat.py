"""Completions beside chats, on the simulated engine: what they wait for, and what the chats pay.

Completions come by a Poisson process, each at a place of its own, so that none supersedes another
and none is predicted before; chats are in closed loop, more than the engine has slots. Measured in
front of the same hub: chats alone, while it has seen no completion for which it would keep a place
free, then completions alone, then both.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from hub.bench.keys import SERVE
from hub.bench.keys_clients import Shot, chat, completion
from hub.bench.keys_corpus import places
from hub.bench.keys_figures import MIDDLE, Figure
from hub.bench.keys_score import Times
from hub.bench.keystrokes import Place
from hub.bench.processes import serving

WARM = 0.25
"""How long a load runs before it is measured, as a share of the time that it is."""
GRACE = 10.0
"""Seconds that a completion may take after the end."""
CONTEXT = 400
"""Characters before the cursor in what the simulated engine is asked: it has no prefix cache, and
a server that has one evaluates few tokens for a key."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """How a measurement goes."""

    seconds: float = 60.0
    """Of each of the three loads."""
    rate: float = 2.0
    """Completions per second."""
    completion_tokens: int = 16
    chats: int = 32
    """At a time."""
    chat_tokens: int = 128
    profile: str = "h100-8b"
    serve: Sequence[str] = ()
    """Further options of ``hub serve``."""


async def measure(loaded: Loaded, seed: int) -> list[Figure]:
    """All three loads. Raises ``StartError``, ``OSError``."""
    async with serving(*SERVE, "--sim", loaded.profile, *loaded.serve) as hub:
        talked, typed, both = [
            await _Load(hub.url, loaded, rate, chats, random.Random(f"{seed}:{number}")).run()
            for number, (rate, chats) in enumerate(
                [(0.0, loaded.chats), (loaded.rate, 0), (loaded.rate, loaded.chats)]
            )
        ]
    idle, busy = Times.of(typed.first), Times.of(both.first)
    before, after = Times.of(talked.chat_first), Times.of(both.chat_first)
    paid = f"{after.p50 - before.p50:+.0f} ms TTFT p50"
    if talked.tokens:
        paid += f", {100 * (both.tokens / talked.tokens - 1):+.1f} % tokens/s"
    return [
        Figure("chat", "completions alone: TTFT", idle),
        Figure("chat", "completions beside chats: TTFT", busy),
        Figure("chat", "p99, beside chats / alone", value=f"{busy.p99 / idle.p99:.2f}"),
        Figure("chat", "chats alone: TTFT", before),
        Figure("chat", "chats beside completions: TTFT", after),
        Figure("chat", "chats alone", value=f"{talked.tokens / loaded.seconds:.0f} tokens/s"),
        Figure("chat", "chats pay", value=paid),
        Figure("chat", "failed", value=str(typed.failed + talked.failed + both.failed)),
    ]


@dataclass(slots=True)
class _Load:
    """One load: ``run`` it once."""

    url: str
    loaded: Loaded
    rate: float
    chats: int
    rng: random.Random
    first: list[float] = field(default_factory=list)
    """TTFT of completions, in seconds."""
    chat_first: list[float] = field(default_factory=list)
    tokens: int = 0
    """Of chats that ended while it was measured."""
    failed: int = 0
    warm: float = 0.0
    until: float = 0.0

    async def run(self) -> "_Load":
        begun = time.monotonic()
        self.warm = begun + self.loaded.seconds * WARM
        self.until = self.warm + self.loaded.seconds
        await asyncio.gather(self._ask(begun), *(self._talk(n) for n in range(self.chats)))
        return self

    async def _ask(self, due: float) -> None:
        asking: list[asyncio.Task[None]] = []
        found: list[Place] = []
        while self.rate and (due := due + self.rng.expovariate(self.rate)) < self.until:
            await asyncio.sleep(due - time.monotonic())
            found = found or places(100, 1500, self.rng)
            asking.append(asyncio.create_task(self._complete(found.pop())))
        await asyncio.gather(*asking)

    async def _complete(self, at: Place) -> None:
        before = f"{at.before}{at.missing[:MIDDLE]}"[-CONTEXT:]
        behind, most = at.behind[: CONTEXT // 2], self.loaded.completion_tokens
        body = completion(before, behind, stream=True, most=most)
        self._note(
            await _shot(Shot(self.url, "/v1/completions", body), self.until + GRACE), self.first
        )

    async def _talk(self, number: int) -> None:
        turn = 0
        while time.monotonic() < self.until:
            words = f"What do you think of {number} and {turn}, and why?"
            body = chat(words, self.loaded.chat_tokens)
            shot = await _shot(Shot(self.url, "/v1/chat/completions", body), self.until)
            self._note(shot, self.chat_first)
            if shot.done is not None and shot.done > self.warm:
                self.tokens += shot.tokens
            turn += 1

    def _note(self, shot: Shot, first: list[float]) -> None:
        self.failed += bool(shot.ended.result())
        if shot.first and shot.begun and shot.begun > self.warm:
            first.append(shot.first - shot.begun)


async def _shot(shot: Shot, until: float) -> Shot:
    """Read it to its end, or until it is time to go: then it is not ``done``."""
    shot.fire()
    await asyncio.wait([shot.ended], timeout=until - time.monotonic())
    if not shot.ended.done():
        shot.close()
        shot.done = None
    return shot
