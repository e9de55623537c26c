"""Where a request runs: which of the upstreams that serve its model. Pure.

The rules, in the order in which they decide:

1. Only those that may take it: not drained, not broken (``breaker.py``), not one on which it has
   failed before, and with room in their window for its class and its tokens.
2. The one that knows the longest beginning of its prompt, if that is at least three tenths of it:
   it has that in its cache and need not prefill it again. But not if it holds over 64 requests
   more, and over one and a half times as many, as the least loaded. Of several that know as much,
   as all do of a common system prompt, rule 3 decides.
3. The one that holds the least for its window, the first of equals.

Source of rule 2 and its numbers: the cache-aware policy of SGLang's router.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import orjson

from hub.api.requests import Generation
from hub.dispatch.breaker import Breaker
from hub.dispatch.terms import Ticket
from hub.dispatch.window import Window

MATCH = 0.3
UNEVEN = 64
UNEVEN_FACTOR = 1.5
MAX_PREFIXES = 8192
"""Beginnings that are remembered per upstream. A model server's cache holds fewer conversations."""
PIECE = 1024
"""Characters of a raw prompt that are compared as one."""
SINGLE = 256
"""Messages at the front of a prompt that are compared one by one."""
TOGETHER = 32
"""Messages that are compared as one behind those, so that one long prompt costs little, and does
not make an upstream's other beginnings forgotten."""


class Prefixes:
    """The beginnings of prompts that an upstream has seen lately."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def note(self, prefixes: Sequence[tuple[int, float]]) -> None:
        for key, _ in prefixes:
            self._seen[key] = None
            self._seen.move_to_end(key)
        while len(self._seen) > MAX_PREFIXES:
            self._seen.popitem(last=False)

    def match(self, prefixes: Sequence[tuple[int, float]]) -> float:
        """The share of a prompt whose beginning was seen, from 0 to 1."""
        for key, share in reversed(prefixes):
            if key in self._seen:
                return share
        return 0.0


class Candidate(Protocol):
    """An upstream, as the rules see it."""

    @property
    def name(self) -> str: ...
    @property
    def window(self) -> Window: ...
    @property
    def breaker(self) -> Breaker: ...
    @property
    def prefixes(self) -> Prefixes: ...
    @property
    def leaving(self) -> bool:
        """It gets nothing any more."""
        ...

    @property
    def closed(self) -> bool:
        """It runs a batch, and takes nobody else until that is over."""
        ...


C = TypeVar("C", bound=Candidate)


def usable(upstream: Candidate, ticket: Ticket) -> bool:
    """Whether it may be given a request, room apart."""
    return (
        not upstream.leaving
        and upstream.breaker.state != "open"
        and upstream.name not in ticket.avoid
    )


def has_room(upstream: Candidate, ticket: Ticket, share: float, spare: int = 0) -> bool:
    """Whether it can take a request now, for a class that may fill so large a share of it and
    leaves so many places free."""
    most = upstream.breaker.most
    return (
        not upstream.closed
        and upstream.window.room(share, spare) > 0
        and upstream.window.fits(ticket.need)
        and (most is None or upstream.window.in_flight < most)
    )


def pick(
    candidates: Sequence[C],
    ticket: Ticket,
    share: float,
    spare: Callable[[C], int] = lambda one: 0,
) -> tuple[C, float] | None:
    """The upstream for a request, and how much of its prompt is known there; ``None`` if there is
    no place for it now. ``spare`` tells how many places are left free there."""
    able = [
        one
        for one in candidates
        if usable(one, ticket) and has_room(one, ticket, share, spare(one))
    ]
    if not able:
        return None
    if len(able) == 1:
        return able[0], able[0].prefixes.match(ticket.prefixes)
    least = min(able, key=_load)
    matches = [one.prefixes.match(ticket.prefixes) for one in able]
    match = max(matches)
    known = min((one for one, its in zip(able, matches, strict=True) if its == match), key=_load)
    if match >= MATCH and not _uneven(known, least):
        return known, match
    return least, least.prefixes.match(ticket.prefixes)


def _load(upstream: Candidate) -> float:
    return upstream.window.in_flight / upstream.window.size


def _uneven(more: Candidate, less: Candidate) -> bool:
    held, least = more.window.in_flight, less.window.in_flight
    return held - least > UNEVEN and held > UNEVEN_FACTOR * least


def prefixes_of(generation: Generation) -> tuple[tuple[int, float], ...]:
    """The beginnings of a prompt that a later one may share, as ``Ticket.prefixes`` has them."""
    if generation.prompt is not None:
        texts = [generation.prompt, generation.suffix or ""]
        if generation.suffix is not None:
            texts[:0] = [f"{one.name}\n{one.text}" for one in generation.files]
        parts: list[str | bytes] = [
            text[at : at + PIECE] for text in texts for at in range(0, len(text), PIECE)
        ]
    else:
        messages = generation.messages
        parts = [_text(message) for message in messages[:SINGLE]]
        rest = range(SINGLE, len(messages), TOGETHER)
        parts += [orjson.dumps(messages[at : at + TOGETHER]) for at in rest]
    total = sum(map(len, parts)) or 1
    prefixes: list[tuple[int, float]] = []
    key, length = hash(generation.model), 0
    for part in parts:
        key = hash((key, part))
        length += len(part)
        prefixes.append((key, length / total))
    return tuple(prefixes)


def _text(message: object) -> str | bytes:
    if isinstance(message, dict):
        content, role = message.get("content"), message.get("role")
        if isinstance(content, str) and len(message) == 2:
            return f"{role}:{content}"
    return orjson.dumps(message)
