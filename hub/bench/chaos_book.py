"""What a chaos run counts and notes: one line of JSON for everything that may explain a mistake.

No asyncio and no decisions: whoever finds something says so here.
"""

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import orjson

LOST = "accepted responses lost"
RESULTS = "different results of one response"
WRONG_RESULT = "results wrong"
MISSING = "characters lost"
REPEATED = "characters repeated"
DISORDER = "characters out of order"
NUMBERS = "sequence numbers wrong"
TWICE = "repeated creates run twice"
FAILED = "stored responses failed"
BROKEN = "unstored responses broken without a reason"
NONSENSE = "answers that make no sense"
UNENDED = "clients that were not done in time"
STRAY = "processes that ended by themselves"
WRONG = (
    LOST, RESULTS, WRONG_RESULT, MISSING, REPEATED, DISORDER, NUMBERS, TWICE, FAILED, BROKEN,
    NONSENSE, UNENDED, STRAY,
)  # fmt: skip
"""What must not happen."""

TRAIL = 40
"""Steps of a reader that are remembered, for when it finds a mistake."""
EXAMPLES = 20


@dataclass(eq=False)
class Asked:
    """One response that was asked for, and what is known of it."""

    seed: int
    tokens: int
    kind: str
    expected: str = field(repr=False)
    id: str = ""
    """Set once its ``response.created`` was seen, or its id told."""
    furthest: int = 0
    """Characters that any reader has had."""
    news_at: float = 0.0
    """When ``furthest`` was reached."""
    places: dict[int, int] = field(default_factory=dict, repr=False)
    """Sequence number -> characters up to and with that event, as the first reader had it."""
    owner: int | None = None
    """The node that has asked the model server for its text last."""
    owners: list[tuple[float, int, int]] = field(default_factory=list)
    """When which node has asked for it, after how many characters."""
    hit: tuple[float, str] | None = None
    """When and by what its owner was hit."""
    moved: tuple[float, str, int] | None = None
    """Since when it stood still, why, and after how many characters another node goes on."""
    ends: set[str] = field(default_factory=set)
    """What readers have seen of its end: status and error code."""

    def brief(self) -> dict[str, Any]:
        """For the history."""
        return {
            "seed": self.seed,
            "kind": self.kind,
            "id": self.id,
            "characters": len(self.expected),
            "furthest": self.furthest,
            "owners": [[round(at, 3), node, said] for at, node, said in self.owners],
            "ends": sorted(self.ends),
        }


class Book:
    """The counts and the history of a run."""

    def __init__(self, seed: int, history: BinaryIO | None) -> None:
        self.seed = seed
        self.begun = time.monotonic()
        self.seconds = 0.0
        self.wrong: Counter[str] = Counter(dict.fromkeys(WRONG, 0))
        self.examples: list[str] = []
        self.faults: Counter[str] = Counter()
        """By kind."""
        self.accepted: Counter[str] = Counter()
        """Responses by kind."""
        self.ended: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """By kind, by end."""
        self.connects: Counter[str] = Counter()
        """By what was read over them."""
        self.refused: Counter[str] = Counter()
        """Requests that were to be sent again, to another node: by the reason."""
        self.readers = 0
        self.characters = 0
        self.continued = 0
        """Times that another node went on with a text."""
        self.takeovers: defaultdict[str, list[float]] = defaultdict(list)
        """By the fault: seconds until new text was read."""
        self.asked_again: list[float] = []
        """Seconds from the same moment until another node asked the model server."""
        self.resumes: list[float] = []
        """Seconds from asking another node, in calm weather, to the first news."""
        self.creates: list[float] = []
        """Seconds from asking to the id, in calm weather."""
        self._history = history

    @property
    def flawless(self) -> bool:
        return not any(self.wrong.values())

    def now(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begun

    def note(self, what: str, **more: Any) -> None:
        """Write a line of the history."""
        if self._history is not None:
            line = {"t": round(self.now(), 3), "what": what, **more}
            self._history.write(orjson.dumps(line, repr, orjson.OPT_NON_STR_KEYS) + b"\n")

    def blame(self, what: str, asked: Asked | None, amount: int = 1, /, **more: Any) -> None:
        """Something of ``WRONG`` has happened."""
        self.wrong[what] += amount
        told = {} if asked is None else asked.brief()
        self.note(f"WRONG: {what}", amount=amount, response=told, **more)
        if self._history is not None:
            self._history.flush()
        if len(self.examples) < EXAMPLES:
            short = {key: value for key, value in more.items() if key != "trail"}
            self.examples.append(f"{self.now():.1f} s, {what}: {asked} {short}")


class Trail:
    """The last steps of one reader."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._steps: deque[tuple[float, str]] = deque(maxlen=TRAIL)

    def step(self, text: str) -> None:
        self._steps.append((round(self._book.now(), 3), text))

    def told(self) -> list[tuple[float, str]]:
        return [*self._steps]
