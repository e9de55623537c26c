"""What a run of typists comes to. Pure: what was typed, asked and shown, held against what the
oracle noted.

*Useful*: after a key, and before the next one, a text stands at the cursor whose first ``USEFUL``
characters are those that will be typed (or all, if it has fewer).
*Fresh*: the oracle was asked for just this state of the text; *reused*: it was not, and the server
answered from what it had; *local*: the client did not even ask.
*Superseded*: what the oracle is saying disagrees with what has been typed and asked about since, so
that nobody can use it. The lag is from then until the oracle's work on it ended. ("Then" is when
the newer request was sent or, if the two part later, when the oracle said where they do.)
*Stale*: text for an older state, though the server knew better: it had answered a newer request of
the lane already, or ``RACE`` seconds had gone by since one was sent.
*Wrong*: text that is not what the oracle said at that place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import isnan

from hub.bench.keys_truth import Record
from hub.bench.keystrokes import Place, alike
from hub.bench.stats import percentile

USEFUL = 3
RACE = 0.050
"""Longer than anything takes on the way between two processes of one machine."""
ANCHOR = 60
"""Characters before a place by which a record is found to belong to it."""


@dataclass(slots=True)
class State:
    """The text of a lane after a key, and what became of it. Times are ``time.monotonic``'s."""

    version: int
    typed: str
    """Since the lane's beginning."""
    at: float
    """When the key went down."""
    asked: float | None = None
    shown: float | None = None
    """When a useful text stood there."""
    answer: str = ""
    """All text that came for it."""
    answered: float | None = None
    """When the first text came."""


@dataclass(slots=True)
class Lane:
    """Somebody types at one place."""

    name: str
    place: Place
    states: list[State] = field(default_factory=list)
    keys: int = 0
    accepted: int = 0
    """Characters that came from completions."""
    stale: int = 0
    errors: int = 0
    left: float | None = None
    """When the typist went somewhere else."""

    def received(self, state: State, text: str, now: float) -> bool:
        """Text came for a state; whether it may be shown, which is: not for an older one."""
        if state.answered is None:
            state.answered = now
        state.answer += text
        current = self.states[-1]
        if state is current:
            return True
        # From the back: what is newer than the state.
        for newer in reversed(self.states):
            if newer is state:
                break
            if newer.answered is not None or (newer.asked is not None and now - newer.asked > RACE):
                self.stale += 1
                break
        return False

    def typed_of(self, record: Record) -> str | None:
        """What had been typed when a record was asked for; ``None``: it is of another lane."""
        if record.behind[:200] != self.place.behind[: min(200, len(record.behind))]:
            return None
        anchor = self.place.before[-ANCHOR:]
        at = record.before.rfind(anchor)
        return None if at < 0 else record.before[at + len(anchor) :]


@dataclass(frozen=True, slots=True)
class Times:
    """How times are spread, in ms; ``nan`` without any."""

    count: int
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Times":
        ordered = sorted(seconds) or [float("nan")]
        count = 0 if isnan(ordered[0]) else len(ordered)
        shares = (percentile(ordered, share) * 1e3 for share in (0.5, 0.95, 0.99, 1.0))
        return cls(count, *shares)


@dataclass(frozen=True, slots=True)
class Score:
    """The figures of one policy. Times are in ms."""

    keys: int
    requests_per_key: float
    cancelled: float
    """The share of the oracle's requests that were cut off."""
    tokens_per_key: float
    useful_per_key: float
    tokens_per_useful: float
    wasted: float
    """The share of tokens of requests of which nothing useful was shown."""
    accepted_per_key: float
    """Characters."""
    accepted_per_ktoken: float
    """Characters per 1,000 tokens that the oracle made."""
    fresh_ms: Times
    """From the key until a useful text stood there."""
    reused_ms: Times
    local: float
    """The share of the useful texts that the client had itself."""
    lag_ms: Times
    stale: int
    wrong: int
    errors: int
    cpu_ms_per_key: float | None = None
    """Of the server between, user and system time."""

    @property
    def flawless(self) -> bool:
        """No answer was stale or wrong, and none failed."""
        return not (self.stale or self.wrong or self.errors)


def score(lanes: Sequence[Lane], records: Sequence[Record], cpu: float | None = None) -> Score:
    """``cpu``: the server's CPU time, in seconds."""
    keys = sum(lane.keys for lane in lanes) or 1
    fresh: list[float] = []
    reused: list[float] = []
    lags: list[float] = []
    local = wrong = useful_tokens = 0
    tokens = sum(len(record.said) for record in records)
    by_lane = _by_lane(lanes, records)
    for lane in lanes:
        own = by_lane[lane.name]
        texts = {typed for typed, _ in own}
        used: set[int] = set()
        for state in lane.states:
            wrong += bool(state.answer) and not _said(state, own)
            if state.shown is None:
                continue
            waited = state.shown - state.at
            if state.asked is None:
                local += 1
            else:
                (fresh if state.typed in texts else reused).append(waited)
            holding = (n for n in range(len(own) - 1, -1, -1) if _holds(*own[n], state))
            used.update(islice(holding, 1))
        useful_tokens += sum(len(own[number][1].said) for number in used)
        lags += [lag for typed, record in own if (lag := _lag(lane, typed, record)) is not None]
    shown = local + len(fresh) + len(reused)
    accepted = sum(lane.accepted for lane in lanes)
    return Score(
        keys=keys,
        requests_per_key=len(records) / keys,
        cancelled=sum(record.cut for record in records) / (len(records) or 1),
        tokens_per_key=tokens / keys,
        useful_per_key=shown / keys,
        tokens_per_useful=tokens / (shown or 1),
        wasted=1 - useful_tokens / (tokens or 1),
        accepted_per_key=accepted / keys,
        accepted_per_ktoken=1000 * accepted / (tokens or 1),
        fresh_ms=Times.of(fresh),
        reused_ms=Times.of(reused),
        local=local / (shown or 1),
        lag_ms=Times.of(lags),
        stale=sum(lane.stale for lane in lanes),
        wrong=wrong,
        errors=sum(lane.errors for lane in lanes),
        cpu_ms_per_key=None if cpu is None else cpu * 1e3 / keys,
    )


def _by_lane(
    lanes: Iterable[Lane], records: Iterable[Record]
) -> dict[str, list[tuple[str, Record]]]:
    found: dict[str, list[tuple[str, Record]]] = {lane.name: [] for lane in lanes}
    heads: dict[str, list[Lane]] = {}
    for lane in lanes:
        heads.setdefault(lane.place.behind[:ANCHOR], []).append(lane)
    for record in records:
        for lane in heads.get(record.behind[:ANCHOR], ()):
            typed = lane.typed_of(record)
            if typed is not None:
                found[lane.name].append((typed, record))
                break
    return found


def _said(state: State, own: Iterable[tuple[str, Record]]) -> bool:
    """Whether an answer is what the oracle said for this lane."""
    return any(
        f"{typed}{record.text}".startswith(state.typed + state.answer)
        for typed, record in own
        if len(typed) <= len(state.typed)
    )


def _holds(typed: str, record: Record, state: State) -> bool:
    """Whether a record may be where a state's useful text came from."""
    return (
        len(typed) <= len(state.typed)
        and record.arrived <= (state.shown or 0)
        and len(typed) + len(record.text) > len(state.typed)
        and f"{typed}{record.text}".startswith(state.typed)
    )


def _lag(lane: Lane, typed: str, record: Record) -> float | None:
    """How long the oracle worked on after a record was superseded; ``None``: it never was."""
    asked = [state for state in lane.states if state.asked is not None]
    first = next(
        (
            number
            for number in range(len(asked) - 1, -1, -1)
            if asked[number].typed == typed and (asked[number].asked or 0) <= record.arrived
        ),
        None,
    )
    if first is None or record.ended is None:
        return None
    whole = typed + record.text
    obsolete = [
        when
        for state in asked[first + 1 :]
        if (when := _parts(record, whole, len(typed), state)) is not None
    ]
    if not obsolete or min(obsolete) >= record.ended:
        return None
    return record.ended - min(obsolete)


def _parts(record: Record, whole: str, begins: int, state: State) -> float | None:
    """When it was clear that what a record says parts from a newer state; ``None``: it does not."""
    assert state.asked is not None
    if len(state.typed) < begins:
        return state.asked
    common = alike(whole, state.typed)
    if common in (len(whole), len(state.typed)):
        return None
    length = begins
    for token, said in zip(record.tokens, record.said, strict=False):
        length += len(token)
        if length > common:
            return max(state.asked, said)
    return None


HEAD = (
    "| policy | requests/key | cut off | tokens/key | useful/key | tokens/useful | wasted | "
    "accepted chars/1k tokens | fresh p50/p95, ms | reused p50/p95, ms | lag p50/p99, ms | stale | "
    "CPU ms/key |\n| --- |" + " ---: |" * 12
)


def row(title: str, score: Score) -> str:
    """A row of the table that begins with ``HEAD``."""
    cpu = "" if score.cpu_ms_per_key is None else f"{score.cpu_ms_per_key:.2f}"
    lag = score.lag_ms
    cells = [
        title,
        f"{score.requests_per_key:.2f}",
        f"{score.cancelled:.2f}",
        f"{score.tokens_per_key:.1f}",
        f"{score.useful_per_key:.2f}",
        f"{score.tokens_per_useful:.1f}",
        f"{score.wasted:.2f}",
        f"{score.accepted_per_ktoken:.0f}",
        _two(score.fresh_ms),
        _two(score.reused_ms),
        f"{lag.p50:.1f} / {lag.p99:.1f}" if lag.count else "",
        f"{score.stale}",
        cpu,
    ]
    return f"| {' | '.join(cells)} |"


def _two(times: Times) -> str:
    return f"{times.p50:.0f} / {times.p95:.0f}" if times.count else ""
