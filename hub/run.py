"""The reading of one response by a client: its text, its end, its timings.

A run keeps its text and nothing else. Whoever iterates holds a position in that text, so readers
may be slow, late, many or none. ``Client`` (``client.py``) feeds it; the calls with an underscore
are for it alone.
"""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson

from hub.errors import TABLE, HubError

Json = dict[str, Any]

TERMINAL = {"response.completed", "response.failed", "response.incomplete"}

_NOT_RUNNING = {*TERMINAL, "response.created", "response.queued"}
_TEXT = {"response.output_text.delta", "response.refusal.delta"}


class ClientError(Exception):
    """What went wrong on this side of the connection, or has a code that hub does not know.

    Of this module: ``outcome_unknown`` (the connection was lost before the request was
    acknowledged: it may have run or not), ``connection_lost``, ``connection_refused``,
    ``connection_closed`` (the server says not to come back), ``protocol_error``,
    ``too_many_waiting``, ``client_closed``, ``client_failed`` (a defect of this module).
    ``retryable`` says whether the same request may succeed later.
    """

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable


Error = HubError | ClientError


def typed(error: Json, headers: Mapping[str, str] | None = None) -> Error:
    """The error that the server's error object tells of."""
    code = error.get("code") or error.get("type") or "error"
    message = error.get("message") or "The server gives no reason."
    if code not in TABLE:
        return ClientError(str(code), str(message))
    after: float | None = None
    with suppress(KeyError, TypeError, ValueError):
        # It may also be a date, or missing.
        after = float((headers or {})["retry-after"])
    return HubError(code, message, param=error.get("param"), retry_after=after)


@dataclass(frozen=True, slots=True)
class Timings:
    """What the reader saw, in seconds of a monotonic clock. What is not defined (yet) is ``None``.

    A run that reads another's response did not see the beginning: no ``ttft``, no ``total``.
    """

    ttft: float | None
    """From ``create`` to the first visible text; lifecycle events and reasoning are none."""
    total: float | None
    """From ``create`` to the terminal event, or to now."""
    tokens: int | None
    """Of visible output, by the server's count; the number of its deltas where it has none."""
    tokens_per_second: float | None
    """Those after the first, over the time from the first to the last text. ``None`` if it was
    resumed: what was missed came all at once."""
    resumed: bool
    """The connection was lost meanwhile; that is part of ``ttft`` and ``total``."""


class Run:
    """The reading of one response. Made by ``Client.create`` and ``Client.resume``."""

    def __init__(
        self, lane: str | None, body: bytes, stop: Callable[["Run"], None], *, kept: bool = True
    ) -> None:
        """``body`` is the message that asks for it, ``stop`` has it stopped; ``kept``: the server
        has it still when the connection was lost."""
        self._stop = stop
        self._clock = asyncio.get_running_loop().time
        self._started: float | None = self._clock()
        self._body = body
        self._kept = kept
        self._heard = False
        self._resumed = False
        self._refusals = 0
        """How often it was refused since it was heard of last."""
        self._refused_at = 0.0
        """When it was for the first time."""
        self._resting = False
        """It is not asked for now."""
        self._text = io.StringIO()
        self._deltas = 0
        self._first: float | None = None
        self._last: float | None = None
        self._ended: float | None = None
        self._news: asyncio.Event | None = None
        self.lane = lane
        self.id: str | None = None
        self.sequence_number = -1
        """The cursor: the number of the last event that was had."""
        self.state = "waiting"
        """``waiting`` (here), ``queued`` (in hub), ``running``, ``resuming`` or ``done``."""
        self.cancelled = False
        """``cancel`` was called."""
        self.response: Json | None = None
        """The final response object, also of a response that failed."""
        self.error: Error | None = None
        """Why it failed, once it has."""

    @property
    def text(self) -> str:
        """The text so far, refusals included."""
        return self._text.getvalue()

    async def pieces(self, after: int = 0) -> AsyncGenerator[str, None]:
        """The text from its character ``after`` on, as it comes; what waited is one piece.

        At the end of a run that failed it raises the error, as ``done`` does.
        """
        while True:
            self._text.seek(after)
            if piece := self._text.read():
                after += len(piece)
                yield piece
            elif self._ended is None:
                await self.changed()
            elif self.error is not None:
                raise self.error
            else:
                return

    def __aiter__(self) -> AsyncIterator[str]:
        return self.pieces()

    async def done(self) -> Json:
        """The final response: completed, incomplete or cancelled, see its ``status``.

        Raises ``HubError`` or ``ClientError`` if it failed, was refused or cannot be read.
        """
        while self._ended is None:
            await self.changed()
        if self.error is not None:
            raise self.error
        assert self.response is not None, "a run ends with a response or an error"
        return self.response

    async def changed(self) -> None:
        """Wait for the next event, the next state or the end; forever, after the end."""
        if self._news is None:
            self._news = asyncio.Event()
        await self._news.wait()

    def cancel(self) -> None:
        """Stop the response, for all its readers. ``done`` gives what there is, with the status
        ``cancelled``. No effect on a run that has ended."""
        if self._ended is None and not self.cancelled:
            self.cancelled = True
            self._stop(self)

    @property
    def timings(self) -> Timings:
        """See ``Timings``."""
        usage = (self.response or {}).get("usage") or {}
        details = usage.get("output_tokens_details") or {}
        hidden = details.get("reasoning_tokens") or 0
        tokens = (usage.get("output_tokens") or 0) - hidden
        tokens = tokens if tokens > 0 else self._deltas
        started, first = self._started, self._first
        streamed = 0.0 if self._last is None or first is None else self._last - first
        rated = tokens > 1 and streamed > 0 and not self._resumed
        end = self._clock() if self._ended is None else self._ended
        return Timings(
            ttft=None if started is None or first is None else first - started,
            total=None if started is None else end - started,
            tokens=tokens or None,
            tokens_per_second=(tokens - 1) / streamed if rated else None,
            resumed=self._resumed,
        )

    def _become(self, state: str) -> None:
        self.state = state
        self._tell()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def _frame(self, name: str) -> bytes:
        """The message that asks for it, or for the rest of it."""
        self._heard = False
        if self.id is None:
            self._become("queued")
        body = self._body
        if self.id is not None:
            resume = {"type": "response.resume", "response_id": self.id}
            body = orjson.dumps({**resume, "starting_after": self.sequence_number})
        return body[:-1] + b',"stream_id":"' + name.encode() + b'"}'

    def _take(self, event: Json) -> None:
        behind = event["sequence_number"] - self.sequence_number
        self.sequence_number += behind
        self._heard = True
        self._refusals = 0
        type = event["type"]
        if "response" in event:
            self.id = event["response"]["id"]
            self._body = b""
        if type not in _NOT_RUNNING:
            self.state = "running"
        if type in _TEXT and event["delta"]:
            self._last = self._clock()
            self._first = self._last if self._first is None else self._first
            # hub merges the deltas for a reader that is behind.
            self._deltas += behind
            self._text.seek(0, io.SEEK_END)
            self._text.write(event["delta"])
        self._tell()

    def _end(self, *, response: Json | None = None, error: Error | None = None) -> None:
        assert self._ended is None, "a run ends once"
        self._ended, self.state, self._body = self._clock(), "done", b""
        self.response, self.error = response, error
        self._tell()
