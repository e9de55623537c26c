"""One request on its way: from the reservation of its place to its end at one upstream."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from hub.api.requests import Generation, Json
from hub.dispatch.terms import Terms, Ticket
from hub.dispatch.upstream import Upstream
from hub.engines.base import UNNOTED, Notes, Sink
from hub.errors import HubError
from hub.ledger import Ledger


class Job(Protocol):
    """One request, as the dispatcher sees it.

    ``started`` is called at most once; then exactly one of the others. Without ``started`` it can
    only be ``cancelled``, or ``failed`` because it has waited too long. None of them may raise.

    It may have a ``ledger``, in which what happens to it is noted.
    """

    @property
    def generation(self) -> Generation: ...
    @property
    def terms(self) -> Terms: ...
    @property
    def sink(self) -> Sink: ...
    @property
    def ledger(self) -> Ledger:
        """Where its times are noted."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens that it has so far, as well as anybody knows."""
        ...

    def started(self) -> None: ...
    def completed(self) -> None: ...
    def failed(self, error: HubError) -> None: ...
    def cancelled(self) -> None: ...


class Watch:
    """A sink that notes when the first thing is said, and then gets out of the way: from then on
    each call goes to the job's own sink directly, but for ``finish``, of which there is one."""

    _SAYING = ("text", "reasoning", "refusal", "tool_call")

    def __init__(
        self,
        sink: Sink,
        on_first: Callable[[], None],
        notes: Notes = UNNOTED,
    ) -> None:
        """``notes`` are those of a ledger."""
        self._sink = sink
        self._on_first = on_first
        self._said = False
        self.notes = notes
        self.usage = sink.usage

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self._token().text(delta, logprobs)

    def reasoning(self, delta: str) -> None:
        self._token().reasoning(delta)

    def refusal(self, delta: str) -> None:
        self._token().refusal(delta)

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        self._token().tool_call(index, call_id, name, arguments)

    def finish(self, reason: str) -> None:
        # An empty answer has neither a first token nor a last.
        if self._said:
            self.notes.mark("last_token")
        else:
            self._first()
        self._sink.finish(reason)

    def _token(self) -> Sink:
        self.notes.mark("first_token")
        return self._first()

    def _first(self) -> Sink:
        self._said = True
        self._on_first()
        for name in self._SAYING:
            setattr(self, name, getattr(self._sink, name))
        return self._sink


class Flight:
    """A job at one upstream. Implements ``engines.base.Member``."""

    def __init__(
        self,
        job: Job,
        ticket: Ticket,
        upstream: Upstream,
        *,
        on_first: Callable[["Flight"], None],
        on_done: Callable[["Flight", HubError | None], None],
    ) -> None:
        """``on_done`` is called when it has ended as a member of an array."""
        self.job = job
        self.ledger = job.ledger
        self.ticket = ticket
        self.upstream = upstream
        self.sent_at = 0.0
        self.first_at: float | None = None
        """When the first token came."""
        self.crowd = 0.0
        """The upstream's crowd then."""
        self.left = False
        """It was cancelled, and is only waited for."""
        self.over = False
        """Its place was given back."""
        self.task: asyncio.Task[None] | None = None
        """What runs it; ``None`` while a batch is gathered."""
        self.group: Sequence[Flight] = ()
        """Those that the same task runs."""
        self._on_first = on_first
        self._on_done = on_done
        self.sink: Sink = Watch(job.sink, self._said, self.ledger)

    @property
    def generation(self) -> Generation:
        return self.job.generation

    @property
    def said(self) -> bool:
        """Whether anything was said: it cannot begin again elsewhere then."""
        return self.first_at is not None

    def let_go(self) -> None:
        """It is over: drop what refers back to it, so that its memory is free at once and not
        only when the collector has found the circle."""
        self.task, self.group, self.sink = None, (), self.job.sink

    def done(self, error: HubError | None) -> None:
        self._on_done(self, error)

    def _said(self) -> None:
        # Once, also if an engine goes on calling what it has got hold of before the first call.
        if not self.said:
            self._on_first(self)
