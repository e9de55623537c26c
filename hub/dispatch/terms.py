"""What the dispatcher's policy knows of a request, and what it is told about each class. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import inf
from typing import Any

from hub.errors import HubError


class Class(IntEnum):
    """How urgent a request is; the lower goes first."""

    COMPLETION = 0
    """Somebody types: worthless when late, and short."""
    CHAT = 1
    """Somebody waits for an answer."""
    BACKGROUND = 2
    """Nobody looks."""
    SPECULATIVE = 3
    """Nobody has asked yet."""

    @property
    def label(self) -> str:
        """The name that clients, settings and statistics use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a request waits."""

    rank: Class = Class.CHAT
    tenant: str = ""
    """Who shares with others: the owner of the request, for the dispatcher's purposes."""
    lane: str = ""
    """Requests of one lane leave in the order of their arrival; without a name each is its own."""
    patience: float | None = None
    """Seconds that it may wait to be dispatched; ``None`` for what its class allows."""
    key: str = ""
    """The id of the API key that it came with."""


DEFAULT = Terms()
PROMISED = Terms(rank=Class.BACKGROUND, patience=inf)
"""What was promised on disk waits as long as it takes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for a class."""

    batch_size: int = 8
    """Most requests that leave together."""
    flush_interval: float = 0.0
    """Seconds that a request may wait for company while there is room. 0: nobody waits."""
    queue_size: int = 1024
    """Most requests that wait."""
    tenant_queue: int = 768
    """Most requests of one tenant that wait."""
    ceiling: float = 1.0
    """The share of a window that the class may fill while a better class is about: below 1 it
    leaves at least one place."""
    patience: float = inf
    """Seconds that a request may wait to be dispatched, unless it says otherwise."""
    age: float = inf
    """Seconds of waiting after which the class is served now and then, whoever else waits."""


RULES: Mapping[Class, Rules] = {
    Class.COMPLETION: Rules(patience=5.0),
    Class.CHAT: Rules(ceiling=0.99, patience=120.0, age=2.0),
    Class.BACKGROUND: Rules(ceiling=0.8, patience=600.0, age=10.0),
    # On idle capacity, at once or not at all.
    Class.SPECULATIVE: Rules(ceiling=0.5, queue_size=16, tenant_queue=16, patience=1.0),
}
"""What holds if nobody says otherwise. Simulated on 64 slots, a ceiling of 0.9 cost chat a third of
its time to first token near and over the capacity, and gained completions next to nothing: a place
gets free often enough there. On a few slots it does not, so one place is kept."""


def rules_with(**changes: Any) -> dict[Class, Rules]:
    """``RULES``, with the same changes for every class."""
    return {rank: replace(rules, **changes) for rank, rules in RULES.items()}


INPUT_WEIGHT = 1.0
OUTPUT_WEIGHT = 2.0
"""What tokens count in a tenant's service: decoding one takes longer than prefilling one (Sheng et
al., Fairness in Serving Large Language Models, OSDI 2024)."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request's place in the queue, and what it costs."""

    terms: Terms
    model: str
    prompt_tokens: int
    """An estimate."""
    need: int
    """Tokens of KV cache that it may come to hold: prompt and output."""
    since: float = 0.0
    """When it arrived."""
    number: int = 0
    """Its place in the order of arrival."""
    deadline: float = inf
    """When it must have been dispatched."""
    prefixes: tuple[tuple[int, float], ...] = ()
    """Beginnings of its prompt, shortest first: a key, and the share of the prompt that it is."""
    avoid: set[str] = field(default_factory=set)
    """Upstreams on which it has failed."""
    error: HubError | None = None
    """What its last attempt died of."""
    charged: float = 0.0
    """What its tenant was charged for it so far, in weighted tokens."""
    attempts: int = 0

    def service(self, output_tokens: int) -> float:
        """What it has cost by now, in weighted tokens."""
        return INPUT_WEIGHT * self.prompt_tokens + OUTPUT_WEIGHT * output_tokens
