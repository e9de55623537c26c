"""Code completions over hub's WebSocket, from Python.

    async with CompletionClient("ws://127.0.0.1:8765/v1/responses") as client:
        completion = client.complete("main.py", "def add(a, b):\\n    ", "\\n", max_tokens=64)
        text = await completion.done()

The rules of its world:

- A lane is one place where somebody types: a name of your choice. Its newest completion is the only
  one: a newer ``complete`` ends the older at once. Nothing is queued, and nothing is sent twice.
- What goes over the wire is what was typed (``completion.type``) where only the end of the prefix
  has changed since the lane's last message; everything (``completion.create``) where not, and on a
  new connection.
- A completion is worthless late. What runs when the connection is lost ends as ``lost``. What is
  asked for while it is made again waits for that, once; after a failed attempt it is ``lost`` at
  once, until the next attempt. There is none while nobody asks.

hub knows a bounded number of lane names per connection, so the names on the wire are a pool. Plain
calls decide (``_next``, ``_receive``, ``_lose``); the tasks only wait, read and write.
"""

import asyncio
import logging
import math
import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import Any, Self

import orjson
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from hub.completion import Completion, Place
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
from hub.run import ClientError, Error, typed

__all__ = ["ClientError", "Completion", "CompletionClient"]

logger = logging.getLogger("hub.completion_client")

LANES = 16
"""Lanes that are known at a time; a further one takes the place of the one not used for longest,
and ends what runs there. hub runs as many at once on a connection."""
MAX_ACCEPTED = 64
"""Reports of acceptance that wait to be sent; the oldest are dropped."""


class CompletionClient:
    """A connection that comes back, and the lanes on it. Use it with ``async with``, or call
    ``open`` and ``close``."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_message: int = 1 << 20,
        first_delay: float = 0.25,
        max_delay: float = 5.0,
        on_connection: Callable[[Error | None], None] | None = None,
    ) -> None:
        """``url`` may be ``ws(s)`` or ``http(s)``; without a path it is hub's. Raises
        ``ValueError`` if it is neither.

        ``max_message`` is the server's bound, in bytes. A lost connection is tried again after a
        random part of ``first_delay`` (seconds), of twice as much, … up to ``max_delay``.
        ``on_connection`` is told once that hub cannot be reached, and why, and once (with ``None``)
        that it can be again.
        """
        self.url = websocket_url(url)
        self._headers = dict(headers or {})
        self._max_message = max_message
        self._delays = first_delay, max_delay
        self._on_connection = on_connection
        # Another client's lanes are never meant, whatever the server makes of the names.
        self._token = secrets.token_hex(4)
        self._places: OrderedDict[str, Place] = OrderedDict()
        self._by_name: dict[str, Place] = {}
        self._accepted: deque[bytes] = deque(maxlen=MAX_ACCEPTED)
        self._version = 0
        self._todo = asyncio.Event()
        self._opened = math.inf
        self._reason = ""
        """Why the last connection ended, as the server says."""
        self._retired = False
        self._resting = False
        self._told = False
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Connect, in the background; failing is told to ``on_connection``."""
        assert self._task is None, "a client is opened once"
        self._task = asyncio.create_task(self._work(), name="hub completion client")

    async def close(self) -> None:
        """Disconnect; whatever runs ends as ``lost``."""
        assert self._task is not None, "the client was opened"
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def __aenter__(self) -> Self:
        self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def complete(
        self, lane: str, prefix: str, suffix: str = "", *, after: float = 0.0, **options: Any
    ) -> Completion:
        """Ask for what comes between ``prefix`` and ``suffix``; ends what runs on the lane.

        It is sent if for ``after`` seconds nothing newer is asked for on the lane.
        ``options`` are those of ``completion.create`` (``model``, ``max_tokens``, ``single_line``,
        …); ``None`` is the same as none. Raises ``TypeError`` if one is not JSON.
        """
        if self._task is None or self._task.done():
            raise RuntimeError("the client is not open")
        given = {key: value for key, value in options.items() if value is not None}
        completion = Completion(lane, {"prefix": prefix, "suffix": suffix, **given}, self.cancel)
        place = self._place(lane)
        place.stop = place.end("superseded") or place.stop
        size = len(completion._body)
        if size + 128 > self._max_message:
            text = f"The request has {size} bytes; {self._max_message} are allowed."
            completion._end("failed", error=HubError("message_too_large", text))
        elif self._resting:
            completion._end("lost")
        else:
            place.pending = completion
            place.due = self._clock() + after
        if after > 0:
            asyncio.get_running_loop().call_later(after, self._todo.set)
        else:
            self._todo.set()
        return completion

    def cancel(self, lane: str) -> None:
        """Stop what runs on the lane, and the model server's work for it."""
        place = self._places.get(lane)
        if place is not None:
            place.stop = place.end("cancelled") or place.stop
            self._todo.set()

    def accepted(self, lane: str, version: int, characters: int) -> None:
        """Tell that so much of a completion was taken over; it counts in hub's metrics. Told while
        there is no connection it is forgotten."""
        place = self._places.get(lane)
        if place is not None and self._opened < math.inf:
            event = {"type": "completion.accepted", "stream_id": place.name}
            self._accepted.append(
                orjson.dumps({**event, "version": version, "characters": characters})
            )
            self._todo.set()

    def _place(self, lane: str) -> Place:
        place = self._places.get(lane)
        if place is None:
            if len(self._places) < LANES:
                place = Place(f"{self._token}-{len(self._places)}")
            else:
                _, oldest = self._places.popitem(last=False)
                place = Place(oldest.name)
                place.stop = oldest.end("superseded") or oldest.stop
            self._places[lane] = self._by_name[place.name] = place
        self._places.move_to_end(lane)
        return place

    # The connection.

    async def _work(self) -> None:
        attempt = 0
        try:
            while True:
                error = await self._connection()
                lived = self._clock() - self._opened >= STABLE
                attempt = 0 if lived else attempt + 1
                self._lose()
                if error is None and attempt <= 1:
                    await asyncio.sleep(0.0 if self._retired else self._delay(attempt))
                else:
                    await self._rest(error, attempt)
        finally:
            self._lose(pending=True)

    async def _connection(self) -> Error | None:
        """A connection, from its begin to its end. ``None``: come back, it had only ended."""
        self._retired, self._reason = False, ""
        try:
            socket = await dial(self.url, self._headers)
            self._opened = self._clock()
            code, self._reason = await self._serve(socket)
        except (HubError, ClientError) as error:
            return error
        except Exception:
            # The boundary of the client: it goes on with a new connection.
            logger.exception("the client failed")
            return ClientError("client_failed", "The client failed; see its log.")
        if code in COME_BACK or self._retired:
            return None
        text = f"The server closed the connection ({code}): {self._reason or 'no reason'}."
        return ClientError("connection_closed", text)

    async def _rest(self, error: Error | None, attempt: int) -> None:
        """Leave the server alone for a while, and then until somebody asks."""
        self._lose(pending=True)
        self._tell(error or ClientError("connection_lost", "The connection does not last."))
        hopeless = error is not None and not retryable(error)
        self._todo.clear()
        self._resting = True
        await asyncio.sleep(self._delays[1] if hopeless else self._delay(attempt))
        self._resting = False
        await self._todo.wait()

    def _tell(self, error: Error | None) -> None:
        if self._told != (error is not None):
            self._told = error is not None
            if self._on_connection is not None:
                self._on_connection(error)

    def _lose(self, *, pending: bool = False) -> None:
        """The connection is gone: nothing is known on the other side. What is ``pending`` waits
        for the next one, or ends, too."""
        self._opened = math.inf
        self._accepted.clear()
        for place in self._places.values():
            waiting = place.pending
            if not pending:
                place.pending = None
            place.end("lost")
            place.pending = None if pending else waiting
            place.base, place.stop = None, False

    def _delay(self, attempt: int) -> float:
        return delay(attempt, *self._delays, self._reason)

    def _clock(self) -> float:
        return asyncio.get_running_loop().time()

    async def _serve(self, socket: ClientConnection) -> tuple[int, str]:
        """Read and write until the connection ends: why it did."""
        self._todo.set()
        try:
            self._tell(None)
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
            return CloseCode.PROTOCOL_ERROR, "it sent what is not an event"

    def _next(self) -> bytes | None:
        """The next message to send."""
        if self._retired:
            return None
        now = self._clock()
        for place in self._places.values():
            if place.pending is not None:
                if place.due <= now:
                    self._version += 1
                    return place.ask(self._version)
            elif place.stop:
                place.stop = False
                return b'{"type":"completion.cancel","stream_id":"' + place.name.encode() + b'"}'
        return self._accepted.popleft() if self._accepted else None

    def _may_move(self) -> bool:
        """Whether this connection takes nothing new, and nothing is gained by staying."""
        places = self._places.values()
        waits = any(place.pending is not None for place in places)
        return self._retired and (waits or all(place.running is None for place in places))

    def _receive(self, data: bytes) -> None:
        event = orjson.loads(data)
        place = self._by_name.get(event.get("stream_id"))
        running = None if place is None else place.running
        if running is not None and event.get("version", running.version) != running.version:
            running = None
        if event["type"] == "error":
            self._refused(place, running, typed(event["error"], event.get("headers")))
        elif running is None or place is None:
            # An older version, or nothing of ours.
            return
        elif event["type"] == "completion.delta":
            running._take(event["delta"])
        elif event["type"] == "completion.done":
            place.running = None
            running.reused = event.get("reused") is True
            running.usage = event.get("usage")
            running._end(str(event["reason"]))
            self._todo.set()

    def _refused(self, place: Place | None, running: Completion | None, error: Error) -> None:
        """An error ends its completion, unless another try may help."""
        self._todo.set()
        retired = error.code in (RETIRED, DRAINING)
        self._retired |= retired
        if place is None or running is None:
            if not retired and place is None:
                logger.warning("the server complains: %s (%s)", error.message, error.code)
            return
        # The server may have forgotten what the lane's text was.
        forgotten = (
            place.typed
            and isinstance(error, HubError)
            and (error.code, error.param) == ("invalid_value", "stream_id")
        )
        place.running = place.base = None
        if retired or forgotten:
            place.pending = running
        else:
            running._end("failed", error=error)
