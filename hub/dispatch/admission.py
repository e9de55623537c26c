"""Who is refused at the door, and what is told to come back when. Pure.

A request is refused before anything is promised, and for these reasons only: every upstream that
could take it is broken (*upstream_unavailable*), its class or its tenant has as many waiting as it
may (*queue_full*, *tenant_full*), or it would wait longer than it may (*too_late*), as far as can
be estimated.
"""

from collections.abc import Sequence
from typing import Literal

from hub.dispatch.estimate import drain_time, retry_after
from hub.dispatch.queue import Queue
from hub.dispatch.route import usable
from hub.dispatch.terms import Ticket
from hub.dispatch.upstream import Upstream
from hub.errors import HubError

Why = Literal["upstream_unavailable", "queue_full", "tenant_full", "too_late"]


def refusal(
    ticket: Ticket, candidates: Sequence[Upstream], queue: Queue, now: float
) -> tuple[Why, HubError] | None:
    """Why a request that would arrive now has no chance, and what its client is told."""
    able = [one for one in candidates if usable(one, ticket)]
    if not able:
        failure = candidates[0].failure
        words = failure.message if failure else "The model server cannot be reached."
        back = min(one.breaker.until for one in candidates) - now
        code = failure.code if failure else "upstream_unavailable"
        return "upstream_unavailable", HubError(code, words, retry_after=retry_after(back))
    rank, tenant = ticket.terms.rank, ticket.terms.tenant
    places = [(one.window.size, one.service.mean) for one in able]
    wait = drain_time(queue.ahead(rank, tenant), places)
    if why := queue.full(rank, tenant):
        whose = "of yours " if why == "tenant_full" else ""
        words = f"Too many requests {whose}are waiting already. Try again later."
        return why, HubError("rate_limit_exceeded", words, retry_after=retry_after(wait))
    room = any(one.window.room() for one in able)
    patience = ticket.deadline - now
    if wait is not None and wait > patience and not room:
        words = f"It would wait for about {wait:.1f} s here, which is longer than it may."
        back = wait - patience
        return "too_late", HubError("rate_limit_exceeded", words, retry_after=retry_after(back))
    return None
