"""What a run of the load generator asks for: which requests, when, how many. Pure.

*Closed loop*: so many streams at a time; each asks for the next response when one has ended. It
finds the throughput, but a slow server is asked less. *Open loop*: requests arrive by a Poisson
process of a given rate, whatever the server does, as from independent users; then a response's
times count from when it was due, so that waiting for a free stream counts, too.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import orjson

from hub.bench.text import prompt

Mode = Literal["lanes", "sse", "chat", "sync", "background"]
"""Responses over WebSocket lanes, or over SSE; Chat Completions over SSE; Responses as one JSON
answer, or in the background, polled."""
MODES: tuple[Mode, ...] = get_args(Mode)

MAX_LANES = 16
"""Responses that one WebSocket of hub's runs at a time, unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run. Times are in seconds."""

    mode: Mode
    connections: int = 16
    lanes: int = 16
    """Of each connection. One lane is the default lane. Only with mode "lanes"."""
    seconds: float | None = None
    """How long to measure, or ..."""
    requests: int | None = None
    """... how many responses; no more begin then."""
    rate: float | None = None
    """Responses per second that arrive, in open loop; ``None``: closed loop."""
    warmup: float = 1.0
    """What starts in this time is checked and not measured."""
    drain: float = 30.0
    """How long what runs at the end may take to end. Then it is cut off, which is no failure."""
    timeout: float = 30.0
    """A response that is silent for so long has failed, if the run ends or waits for it then."""
    max_tokens: int = 256
    prompt_tokens: int = 16
    seed: int = 0
    """Of the arrivals, the lengths and the texts."""
    model: str = "bench"
    """Empty: the server's own choice."""
    store: bool = False
    """Let the server keep the responses. It keeps those in the background anyway."""
    poll: float = 0.25
    """Seconds from one poll's answer to the next poll. Only with mode "background"."""
    any_text: bool = False
    """The server says what it likes: what it streams is compared with what it tells at the end."""
    goodput: Mapping[str, float] | None = None
    """Limits in ms (``record.LIMITS``): count the responses that meet them all."""

    def __post_init__(self) -> None:
        assert (self.seconds is None) != (self.requests is None), "seconds or requests"

    @property
    def streams(self) -> int:
        """Streams at a time, in closed loop."""
        return self.connections * (self.lanes if self.mode == "lanes" else 1)

    @property
    def streamed(self) -> bool:
        """Whether tokens come as they are made."""
        return self.mode not in ("sync", "background")

    @property
    def checked(self) -> bool:
        """Whether there is a text to compare with what comes."""
        return not (self.any_text and self.mode == "chat")


def lanes_for(streams: int) -> tuple[int, int]:
    """The fewest connections, and lanes of each, that make exactly so many streams."""
    connections = -(-streams // MAX_LANES)
    while streams % connections:
        connections += 1
    return connections, streams // connections


def arrivals(rate: float, seed: int) -> Iterator[float]:
    """The times at which the requests of a Poisson process arrive, from 0 on, without end."""
    rng = random.Random(f"arrivals {seed}")
    now = 0.0
    while True:
        now += rng.expovariate(rate)
        yield now


def tokens_of(load: Load, number: int) -> int:
    """The length of the run's response of this number, from 0.

    In closed loop the first of every stream is cut to a random length, so that from the beginning
    responses end and start all the time and not all at once.
    """
    if load.rate is not None or number >= load.streams:
        return load.max_tokens
    return random.Random(f"length {load.seed} {number}").randint(1, load.max_tokens)


def seed_of(load: Load, number: int) -> int:
    """The seed of the text of the run's response of this number."""
    return load.seed * 1_000_000_007 + number


def request(load: Load, seed: int, tokens: int, lane: str | None = None) -> bytes:
    """The body of a request, or the message on a WebSocket, for the answer to a seed."""
    asked = prompt(seed, load.prompt_tokens)
    if load.any_text:
        # A model that reads it must have something to say.
        asked = f"Write a long story with these words. {asked}"
    body: dict[str, object] = {"model": load.model} if load.model else {}
    if load.mode == "chat":
        body |= {"messages": [{"role": "user", "content": asked}], "max_tokens": tokens}
        if load.any_text:
            body["stream_options"] = {"include_usage": True}
        return orjson.dumps({**body, "stream": True})
    body |= {"input": asked, "max_output_tokens": tokens, "store": load.store}
    match load.mode:
        case "sse":
            return orjson.dumps({**body, "stream": True})
        case "sync":
            return orjson.dumps(body)
        case "background":
            return orjson.dumps({**body, "store": True, "background": True})
    message = {"type": "response.create", **body}
    return orjson.dumps(message if lane is None else {**message, "stream_id": lane})
