"""What the hub is told to do with responses, and what it tells of them."""

from dataclasses import dataclass, replace

from hub.api.requests import Request
from hub.errors import HubError


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
    lease: float = 15.0
    """How long a node that is not heard of keeps what it runs."""
    on_store_loss: str = "pause"
    """What running responses do that a shared store should have, and cannot be reached: ``pause``,
    or go on from ``memory``."""
    output_tokens: int | None = None
    """The most tokens of one response."""
    response_bytes: int = 16 << 20
    """How large the log of one response may grow."""
    live_bytes: int = 512 << 20
    """What the logs of all live responses may hold before nothing new is begun."""
    lanes: int = 32
    """Lane names of one connection over its life."""
    active_lanes: int = 16
    """Responses at a time on one connection."""
    waiting: int = 256
    """Requests that wait on one connection."""
    reader_patience: float = 60.0
    """How long a reader may be behind."""
    reader_lag: int = 16 << 20
    """How much of what came since it began to read a reader may be behind by."""

    def within(self, request: Request) -> Request:
        """The request with the most tokens that it may have. Raises ``HubError`` if it asks for
        more itself: it would not get what it asked for."""
        clamped = self.clamp(request)
        asked, param = request.generation.max_tokens, request.asked_by
        if clamped is not request and asked is not None and param:
            why = f"must be at most {self.output_tokens}, but it is {asked}"
            raise HubError("invalid_value", f"'{param}' {why}.", param=param)
        return clamped

    def clamp(self, request: Request) -> Request:
        """The same for a request that was accepted before."""
        asked, most = request.generation.max_tokens, self.output_tokens
        if most is None or (asked is not None and asked <= most):
            return request
        return replace(request, generation=replace(request.generation, max_tokens=most))


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the hub holds, and what it did since the start."""

    live: int
    remembered: int
    accepted: int
    by_status: dict[str, int]
