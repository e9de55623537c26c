"""Many streamed responses over one WebSocket, from Python.

    async with Client("ws://127.0.0.1:8765/v1/responses") as client:
        run = client.create(input="Hello")
        async for piece in run:
            print(piece, end="")
        response = await run.done()

The rules of its world, which are those of the page's ``hub.js``:

- A ``Run`` reads one response. It holds a lane (a ``stream_id``) from its request to the terminal
  event. The server runs 16 responses of a connection at once and knows 32 names in its life, so the
  names are a pool of 16: a run waits here for one, never behind another run inside one.
- A lost connection is made again by itself, and each run goes on from its cursor, the number of the
  last event that it had: no text is lost and none comes twice. Two kinds of runs end instead, since
  nothing is sent twice that may have run: one whose request was not acknowledged
  (``outcome_unknown``), and one with ``store=False``, which the server stops (``connection_lost``).
- The close code says whether to come back, and its reason may say when. The 60 minutes of a
  connection end with an error, and so does the life of a server; what that error refuses has not
  run, and is sent on the next connection.
- hub may be many nodes, behind one address or several: any of them has every response. One that
  cannot say now, or does not know yet, what the run has read is asked again, within bounds.

Plain calls decide (``_next``, ``_receive``, ``_sort``); the tasks only wait, read and write.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Self

import orjson
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from hub.dial import (
    COME_BACK,
    DRAINING,
    RETIRED,
    STABLE,
    delay,
    dial,
    retryable,
    websocket_url,
    why,
    write,
)
from hub.errors import CloseCode, HubError
from hub.run import TERMINAL, ClientError, Error, Json, Run, Timings, typed

__all__ = ["Client", "ClientError", "Run", "Timings", "websocket_url"]

logger = logging.getLogger("hub.client")

LANES = tuple(f"lane-{number}" for number in range(1, 17))
MAX_WAITING = 256
"""Runs that wait for a lane or for the connection; further ones end with ``too_many_waiting``."""
BEHIND = 2.0
"""Seconds for which a response that the run has read from may be unknown to another node."""


class Client:
    """A connection that comes back, and the lanes on it. Use it with ``async with``."""

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        headers: Mapping[str, str] | None = None,
        max_message: int = 1 << 20,
        first_delay: float = 0.5,
        max_delay: float = 15.0,
        patience: float = 60.0,
    ) -> None:
        """``url`` may be ``ws(s)`` or ``http(s)``; without a path it is hub's. Raises
        ``ValueError`` if it is neither. If there are several, those of nodes that share a store,
        the first that answers is used, until the connection is lost: then the next one is.

        ``max_message`` is the server's bound, in bytes. A lost connection is tried again after a
        random part of ``first_delay`` (seconds), of twice as much, … up to ``max_delay``. When
        that has failed for ``patience``, every run ends, and the next ``create`` tries again.
        """
        self.urls = [websocket_url(one) for one in ([url] if isinstance(url, str) else url)]
        if not self.urls:
            raise ValueError("a client needs an address")
        self._headers = dict(headers or {})
        self._max_message = max_message
        self._delays = first_delay, max_delay
        self._patience = patience
        self._lanes: dict[str, Run | None] = {}
        self._waiting: deque[Run] = deque()
        self._stops: dict[str, None] = {}
        self._todo = asyncio.Event()
        self._retiring = False
        self._draining = False
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The address that is used, or tried next."""
        return self.urls[0]

    async def __aenter__(self) -> Self:
        """Connect. Raises ``ClientError`` or ``HubError`` if that fails."""
        assert self._task is None, "a client is entered once"
        socket = await self._connect()
        self._task = asyncio.create_task(self._work(socket), name="hub client")
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Disconnect; whatever runs ends with ``client_closed``."""
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait((self._task,))

    def create(
        self,
        input: Any = None,
        *,
        previous_response_id: str | None = None,
        lane: str | None = None,
        **fields: Any,
    ) -> Run:
        """Ask for a response. ``fields`` are those of ``response.create`` (``model``, …).

        Runs with the same ``lane`` run one after the other. It is a name of your choice, and there
        may be any number of them. Raises ``TypeError`` if a field is not JSON.
        """
        named = {"input": input, "previous_response_id": previous_response_id}
        given = {key: value for key, value in named.items() if value is not None}
        body = orjson.dumps({**fields, **given, "type": "response.create"})
        run = Run(lane, body, self._cancel, kept=fields.get("store") is not False)
        if len(body) + 64 > self._max_message:
            text = f"The request has {len(body)} bytes; {self._max_message} are allowed."
            run._end(error=HubError("message_too_large", text))
            return run
        return self._add(run)

    def resume(self, response_id: str, *, starting_after: int = -1) -> Run:
        """Read a response that runs or is stored, whoever asked for it, after that event."""
        run = Run(None, b"", self._cancel)
        run.id, run.sequence_number, run.state = response_id, starting_after, "resuming"
        run._started = None
        return self._add(run)

    def _add(self, run: Run) -> Run:
        if self._task is None or self._task.done():
            raise RuntimeError("the client is not connected: use it inside 'async with'")
        if len(self._waiting) >= MAX_WAITING:
            text = f"{MAX_WAITING} requests wait on this connection already."
            run._end(error=ClientError("too_many_waiting", text, retryable=True))
        else:
            self._waiting.append(run)
            self._todo.set()
        return run

    def _cancel(self, run: Run) -> None:
        for name, one in self._lanes.items():
            if one is run:
                # By the lane, not by the id: so the server never answers that it is too late.
                self._stops[name] = None
                self._todo.set()
                return
        if run.id is None:
            self._waiting.remove(run)
            run._end(response=_never_ran())
        # One that was interrupted is stopped when it is resumed.

    # The connection.

    async def _work(self, socket: ClientConnection) -> None:
        error = ClientError("client_closed", "The client was closed.")
        try:
            attempt = 0
            while True:
                opened = self._clock()
                code, reason = await self._serve(socket)
                lived = self._clock() - opened >= STABLE
                attempt = 0 if lived else attempt + 1
                now = self._retiring and lived
                stop = code not in COME_BACK and not self._retiring
                self._sort()
                if not now or self._draining:
                    self._turn()
                if stop:
                    text = f"The server closed the connection ({code}): {reason or 'no reason'}."
                    await self._give_up(ClientError("connection_closed", text))
                now = now and code != CloseCode.SERVICE_RESTART
                wait = 0.0 if now or stop else delay(attempt, *self._delays, reason)
                socket = await self._again(wait, attempt)
        except Exception:
            # The boundary of the client: its user's program goes on, and hears of it by the runs.
            logger.exception("the client failed")
            error = ClientError("client_failed", "The client failed; see its log.")
        finally:
            self._sort(error)

    async def _again(self, wait: float, attempt: int) -> ClientConnection:
        """A new connection, after ``wait``."""
        since = self._clock()
        while True:
            await asyncio.sleep(wait)
            try:
                return await self._connect()
            except (HubError, ClientError) as error:
                attempt += 1
                wait = delay(attempt, *self._delays)
                if not retryable(error) or self._clock() - since > self._patience:
                    await self._give_up(error)
                    since, wait = self._clock(), 0.0

    async def _give_up(self, error: Error) -> None:
        """End every run, and wait until somebody asks for another one."""
        self._sort(error)
        self._todo.clear()
        await self._todo.wait()

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def _connect(self) -> ClientConnection:
        """To the first of the addresses that answers. What will not do better elsewhere is an
        answer, too."""
        for left in reversed(range(len(self.urls))):
            try:
                return await dial(self.url, self._headers)
            except (HubError, ClientError) as error:
                if not left or not retryable(error):
                    raise
                self._turn()
        raise AssertionError("there is an address")

    def _turn(self) -> None:
        """The next address is the one to try."""
        self.urls.append(self.urls.pop(0))

    async def _serve(self, socket: ClientConnection) -> tuple[int, str]:
        """Read and write until the connection ends: why it did."""
        self._lanes = dict.fromkeys(LANES)
        self._stops.clear()
        self._retiring = self._draining = False
        self._todo.set()
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(write(socket, self._todo, self._next, self._may_move))
                ended = await self._read(socket)
                writer.cancel()
            return ended
        finally:
            await socket.close()

    async def _read(self, socket: ClientConnection) -> tuple[int, str]:
        try:
            while True:
                self._receive(await socket.recv(decode=False))
        except ConnectionClosed as closed:
            return why(closed)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Not an event of this protocol: nothing that comes after it could be trusted.
            logger.warning("the server sent what is not an event: %r", error)
            self._sort(ClientError("protocol_error", "The server sent what is not an event."))
            return CloseCode.PROTOCOL_ERROR, "it sent what is not an event"

    def _next(self) -> bytes | None:
        """The next message to send; a run whose message it is has a lane from here on."""
        if self._stops:
            name, _ = self._stops.popitem()
            return b'{"type":"response.cancel","stream_id":"' + name.encode() + b'"}'
        free = next((name for name, run in self._lanes.items() if run is None), None)
        if free is None or self._retiring:
            return None
        taken = {run.lane for run in self._lanes.values() if run is not None}
        for run in self._waiting:
            if run._resting:
                taken.add(run.lane)
            elif run.lane is None or run.lane not in taken:
                self._waiting.remove(run)
                self._lanes[free] = run
                if run.cancelled:
                    self._stops[free] = None
                return run._frame(free)
        return None

    def _may_move(self) -> bool:
        """Whether this connection takes nothing new, and leaving it now loses nothing."""
        busy = [run for run in self._lanes.values() if run is not None]
        if self._draining and busy:
            # The server ends the connection when it has handed over, or ended, what runs.
            return False
        kept = all(run.id is not None and run._kept for run in busy)
        return self._retiring and (not busy or (kept and bool(self._waiting)))

    def _receive(self, data: bytes) -> None:
        event = orjson.loads(data)
        name = event.get("stream_id")
        run = self._lanes.get(name)
        if event["type"] == "error":
            self._refused(name, run, typed(event["error"], event.get("headers")))
        elif run is not None and event.get("sequence_number", -1) > run.sequence_number:
            if run.cancelled and not run._heard:
                # What had not begun could not be stopped.
                self._stops[name] = None
                self._todo.set()
            run._take(event)
            if event["type"] in TERMINAL:
                response = event["response"]
                failed = response["status"] == "failed"
                self._release(name)
                run._end(
                    response=response, error=typed(response.get("error") or {}) if failed else None
                )

    def _refused(self, name: str, run: Run | None, error: Error) -> None:
        """An error ends its request, unless it says that this connection takes no more, or what was
        asked for may be read later."""
        self._draining |= error.code == DRAINING
        moves = error.code in (RETIRED, DRAINING)
        self._retiring |= moves
        self._todo.set()
        if run is None:
            if not moves:
                logger.warning("the server complains: %s (%s)", error.message, error.code)
            return
        self._release(name)
        if run.cancelled and run.id is None:
            run._end(response=_never_ran())
        elif not run._heard and (error.code == RETIRED or self._may_ask_again(run, error)):
            run._become("waiting" if run.id is None else "resuming")
            self._waiting.appendleft(run)
        else:
            run._end(error=error)

    def _may_ask_again(self, run: Run, error: Error) -> bool:
        """Whether this, or another, node may soon say something else; then the run has to wait."""
        now = self._clock()
        if not run._refusals:
            run._refused_at = now
        run._refusals += 1
        if error.code == "response_not_found":
            patience = BEHIND if run._resumed else 0.0
        elif error.code == DRAINING or (run.id is not None and retryable(error)):
            patience = self._patience
        else:
            patience = 0.0
        again = now - run._refused_at < patience
        if again and error.code != DRAINING:
            first, most = self._delays
            asked = error.retry_after if isinstance(error, HubError) else None
            wait = delay(run._refusals, first, most) if asked is None else min(asked, most)
            run._resting = True
            asyncio.get_running_loop().call_later(wait, self._rested, run)
        return again

    def _rested(self, run: Run) -> None:
        run._resting = False
        self._todo.set()

    def _release(self, name: str) -> None:
        self._lanes[name] = None
        self._stops.pop(name, None)
        self._todo.set()

    def _sort(self, error: Error | None = None) -> None:
        """The connection is gone. What can be resumed waits for the next one, before what was not
        sent; the rest ends. With an ``error`` all of it ends."""
        back: list[Run] = []
        for run in self._lanes.values():
            if run is None:
                continue
            if error is not None:
                run._end(error=error)
            elif run.id is None:
                text = "The connection was lost before the request was acknowledged."
                run._end(error=ClientError("outcome_unknown", f"{text} It may have run or not."))
            elif not run._kept:
                text = "The connection was lost in mid-answer, and the answer is not stored."
                run._end(error=ClientError("connection_lost", text))
            else:
                run._resumed = True
                run._become("resuming")
                back.append(run)
        self._lanes = {}
        self._waiting.extendleft(reversed(back))
        while error is not None and self._waiting:
            self._waiting.popleft()._end(error=error)


def _never_ran() -> Json:
    return {"status": "cancelled", "output": []}
