"""What is kept of one response, and which responses are good enough. Pure.

Goodput is the number of responses per second that meet every limit (vLLM's ``--goodput``, whose
names these are; AIPerf's is the same): a throughput that counts only what its users could use. A
response that failed, or was cut off, meets none; one that has no TPOT or ITL, because there was
no second token or its mode shows none, meets those (vLLM's counts them as 0).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hub.bench.answer import Answer

LIMITS = {"ttft": "ttft_ms", "tpot": "tpot_ms", "itl": "itl_ms", "e2el": "e2e_ms"}
"""What can be limited, in milliseconds, and which figure of a record that is."""

Limits = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One response that was measured. Times as ``answer.py`` defines them; ``None``: there is no
    such time."""

    id: str | None
    begun_s: float
    """Since the run began."""
    ttft_ms: float | None
    e2e_ms: float | None
    tpot_ms: float | None
    itl_ms: float | None
    """The mean gap between its frames."""
    gap_ms: float | None
    """The longest one."""
    tokens: int | None
    frames: int
    polls: int
    error: str | None
    """The code of what made it fail; "cut" if it was cut off at the end of the run."""
    ledger_ms: dict[str, float] | None
    """hub's own times of it, in ms since it was received (``hub.ledger``)."""

    @classmethod
    def of(cls, answer: Answer, zero: float) -> "Record":
        """``zero`` is when the run began."""
        return cls(
            id=answer.id,
            begun_s=round(answer.begun - zero, 6) if answer.begun else 0.0,
            ttft_ms=_ms(answer.ttft),
            e2e_ms=_ms(answer.e2e),
            tpot_ms=_ms(answer.tpot),
            itl_ms=_ms(answer.itl),
            gap_ms=_ms(answer.gap),
            tokens=answer.tokens,
            frames=answer.frames,
            polls=answer.polls,
            error=answer.error if answer.ended is not None else "cut",
            ledger_ms=answer.ledger_ms,
        )

    def meets(self, limits: Limits) -> bool:
        """Whether it is within every limit."""
        if self.error is not None:
            return False
        values = ((getattr(self, LIMITS[name]), limit) for name, limit in limits.items())
        return all(value is None or value <= limit for value, limit in values)

    def json(self) -> dict[str, Any]:
        return asdict(self)


def parse_limits(text: str) -> dict[str, float]:
    """Limits from ``ttft:200,e2el:5000``. Raises ``ValueError`` with what is wrong."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, colon, value = part.strip().partition(":")
        if name not in LIMITS or not colon:
            raise ValueError(f"'{part.strip()}' is not one of {', '.join(LIMITS)}, ':' and ms.")
        try:
            limits[name] = float(value)
        except ValueError:
            raise ValueError(f"'{value}' is no number of ms.") from None
        if not limits[name] > 0:
            raise ValueError(f"A limit of {value} ms cannot be met.")
    return limits


def met(records: Sequence[Record], limits: Limits) -> int:
    """How many responses meet all limits."""
    return sum(record.meets(limits) for record in records)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 4)
