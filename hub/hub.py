"""The Hub: accepts requests, owns the responses that live, ends them.

A response lives from its acceptance to its terminal event; its log may be read for as long as
anyone holds it. Everything here is a plain call except waiting for an end and closing.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from hub.api.items import check_call_ids, to_messages
from hub.api.recorder import Recorder, new_id
from hub.api.requests import Json, Request
from hub.dispatch.dispatcher import Dispatcher
from hub.errors import HubError
from hub.log import ResponseLog


class Live:
    """One accepted response: its log, and how to wait for it or stop it.

    Implements ``dispatch.dispatcher.Job``.
    """

    def __init__(
        self, recorder: Recorder, context: Sequence[Json], now: Callable[[], float]
    ) -> None:
        self.recorder = recorder
        self.sink = recorder
        self.generation = recorder.request.generation
        self._context = context
        self._now = now

    @property
    def id(self) -> str:
        return self.recorder.id

    @property
    def log(self) -> ResponseLog:
        return self.recorder.log

    def history(self) -> list[Json]:
        """The items of the whole chain up to and with this response's output."""
        return [*self._context, *self.recorder.request.items, *self.recorder.output]

    async def until_ended(self) -> None:
        """Wait for the terminal event. Cancelling the wait leaves the response alone."""
        await self._until(lambda: self.log.sealed)

    async def until_news(self, patience: float) -> None:
        """Wait until the model has said something or the response has ended, but not longer than
        ``patience`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._until(lambda: bool(self.recorder.output) or self.log.sealed)

    async def _until(self, holds: Callable[[], bool]) -> None:
        if holds():
            return
        reached = asyncio.get_running_loop().create_future()

        def wake() -> None:
            if not reached.done() and holds():
                reached.set_result(None)

        self.log.subscribe(wake)
        try:
            await reached
        finally:
            self.log.unsubscribe(wake)

    # dispatch.dispatcher.Job

    def started(self) -> None:
        self.recorder.started()

    def completed(self) -> None:
        self.recorder.complete(self._now())

    def failed(self, error: HubError) -> None:
        self.recorder.fail(error)

    def cancelled(self) -> None:
        self.recorder.cancel()


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the hub holds, and what it did since the start."""

    live: int
    accepted: int
    by_status: dict[str, int]


class Hub:
    """See the top of this file."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        default_model: str = "",
        reasoning_events: str = "reasoning_text",
        now: Callable[[], float] = time.time,
    ) -> None:
        """``now`` tells Unix time in seconds. ``default_model`` is what answers say was used where
        the request named no model."""
        self.dispatcher = dispatcher
        self.default_model = default_model
        self._reasoning_events = reasoning_events
        self._now = now
        self._live: dict[str, Live] = {}
        self._accepted = 0
        self._ended: dict[str, int] = {}
        self._closing = False

    def submit(self, request: Request, context: Sequence[Json] = ()) -> Live:
        """Accept a request, or refuse it with a ``HubError`` before anything is promised.

        ``context`` holds the items of the chain before it. Read ``.log`` of what is returned from
        its beginning; it already holds ``response.created``. Whoever stops reading before the end
        calls ``leave``.
        """
        if self._closing:
            raise HubError("shutting_down", "hub is shutting down.", retry_after=1.0)
        recorder = Recorder(
            self._with_messages(request, context),
            id=new_id("resp"),
            model=request.model or self.default_model,
            now=self._now(),
            reasoning_events=self._reasoning_events,
        )
        live = Live(recorder, context, self._now)
        recorder.created()
        if request.generate:
            self.dispatcher.submit(live)
        else:
            self.dispatcher.candidates(request.model)
            recorder.started()
            recorder.complete(self._now())
        self._accepted += 1
        if live.log.sealed:
            self._count(live)
        else:
            self._live[live.id] = live
            live.log.subscribe(lambda: self._watch(live))
        return live

    def get(self, id: str) -> Live:
        """The response of that id, while it runs. Raises ``HubError`` ``response_not_found``."""
        live = self._live.get(id)
        if live is None:
            raise HubError("response_not_found", f"No response '{id[:64]}' is running here.")
        return live

    def cancel(self, live: Live) -> None:
        """Stop a response and its model server's work. No effect if it has ended."""
        self.dispatcher.cancel(live)

    def leave(self, live: Live) -> None:
        """A reader went away before the end. What that means is decided here, not by readers:

        nobody can come back to a response yet, so it is cancelled.
        """
        self.cancel(live)

    async def until_idle(self) -> None:
        """Wait until no response lives."""
        while self._live:
            await next(iter(self._live.values())).until_ended()

    async def close(self, deadline: float) -> None:
        """Accept nothing more, give what lives ``deadline`` seconds to end, cancel the rest."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self.until_idle()
        await self.dispatcher.close()

    def statistics(self) -> Statistics:
        return Statistics(
            live=len(self._live), accepted=self._accepted, by_status=dict(self._ended)
        )

    def _with_messages(self, request: Request, context: Sequence[Json]) -> Request:
        if request.generation.messages:
            return request
        check_call_ids(context, request.items)
        if not request.items and not context and request.generate:
            raise HubError("missing_required_parameter", "'input' is required.", param="input")
        messages = to_messages([*context, *request.items], request.instructions)
        generation = replace(request.generation, messages=messages)
        return replace(request, generation=generation)

    def _watch(self, live: Live) -> None:
        if live.log.sealed:
            del self._live[live.id]
            self._count(live)

    def _count(self, live: Live) -> None:
        status = live.recorder.status
        self._ended[status] = self._ended.get(status, 0) + 1
