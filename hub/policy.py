"""What the hub is told to do with responses, and what it tells of them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """Times are in seconds, sizes in bytes."""

    default_model: str = ""
    """What answers say was used where the request named no model."""
    reasoning_events: str = "reasoning_text"
    grace: float = 60.0
    """How long a stored foreground response goes on without a reader."""
    retention: float = 30 * 86400.0
    """How long stored responses are kept."""
    store_bytes: int = 1 << 30
    """What the store may hold; the oldest responses go first."""
    remembered: int = 64 << 20
    """Bytes of ended responses that are kept in memory, too."""
    jobs: int = 16
    """Background responses that run or wait for a model server here."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the hub holds, and what it did since the start."""

    live: int
    remembered: int
    accepted: int
    by_status: dict[str, int]
