"""Who asks the dispatcher for what, and when: plans of requests for its experiments. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hub.dispatch.terms import Class
from hub.engines.sim_model import PROFILES, Profile

H100_LIKE = Profile(
    "h100-like",
    slots=64,
    kv_tokens=400_000,
    chunk=2048,
    p0=0,
    p1=0.06,
    steps=((1, 7.29), (64, 12.96)),
)
"""A server that hardly minds company, and the profile of the published comparisons: a decode step
of 7.2 ms and 0.09 ms per sequence. An assumption, not a fit."""

CPU = PROFILES["llama-cpu"]
CPU_VALLEY = replace(CPU, name="llama-cpu-4", slots=4)
"""A server on which 4 side by side make fewer tokens than one alone."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, which arrives ``at`` so many seconds. Its answer has just so many tokens."""

    at: float
    rank: Class
    tenant: str
    prompt_tokens: int
    output_tokens: int
    held: float = 0.0
    """Seconds for which somebody holds it back before the dispatcher has it."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind that arrive by a Poisson process. Sizes are drawn from those given, each
    as likely as another."""

    rate: float
    """Requests per second."""
    prompt: Sequence[int]
    """Tokens."""
    output: Sequence[int]
    rank: Class = Class.CHAT
    tenant: str = ""


CHAT = Stream(0.8, range(50, 251), range(60, 241))
TYPING = Stream(0.2, range(50, 151), range(8, 25), rank=Class.COMPLETION)
MIXED = (CHAT, TYPING)
"""One request per second: four fifths are chat, a fifth is completions for somebody who types."""
SHORT = Stream(1.0, range(100, 301), range(32, 129))


def scaled(streams: Sequence[Stream], rate: float) -> list[Stream]:
    """The same mix, of so many requests per second in all."""
    total = sum(stream.rate for stream in streams)
    return [replace(stream, rate=stream.rate * rate / total) for stream in streams]


def poisson(streams: Sequence[Stream], seconds: float, seed: int) -> list[Ask]:
    """What arrives in so many seconds, in order. A stream's requests depend on no other stream."""
    asks = [
        ask
        for number, stream in enumerate(streams)
        for ask in _arrivals(stream, number, seconds, seed)
    ]
    return sorted(asks, key=lambda ask: ask.at)


def _arrivals(stream: Stream, number: int, seconds: float, seed: int) -> Iterator[Ask]:
    rng = random.Random(f"arrivals {number} {seed}")
    now = rng.expovariate(stream.rate)
    while now < seconds:
        yield _ask(stream, now, rng)
        now += rng.expovariate(stream.rate)


def backlog(streams: Sequence[Stream], requests: int, seed: int) -> list[Ask]:
    """So many requests of a mix, all there from the beginning, in random order."""
    rng = random.Random(f"backlog {seed}")
    kinds = rng.choices(streams, [stream.rate for stream in streams], k=requests)
    return [_ask(stream, 0.0, rng) for stream in kinds]


def _ask(stream: Stream, at: float, rng: random.Random) -> Ask:
    prompt, output = rng.choice(stream.prompt), rng.choice(stream.output)
    return Ask(at, stream.rank, stream.tenant, prompt, output)


def shuffled(asks: Sequence[Ask], seed: int) -> list[Ask]:
    """Requests that are all there from the beginning, in random order."""
    return random.Random(f"shuffle {seed}").sample(asks, len(asks))


def held(asks: Sequence[Ask], interval: float) -> list[Ask]:
    """Requests, in order, as a plain timer lets go of them: all that have come when the first has
    waited for so many seconds."""
    found: list[Ask] = []
    leave = float("-inf")
    for ask in asks:
        if ask.at > leave:
            leave = ask.at + interval
        found.append(replace(ask, held=leave - ask.at))
    return found
