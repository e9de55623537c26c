"""One WebSocket: bytes in, lanes, news of their responses out.

websockets' Sans-I/O ``ServerProtocol`` reads the frames and keeps the closing handshake; the
transport is aiohttp's, handed over after the upgrade. Frames that carry events are made in
``frames.py`` and written by the outbox. What a message asks for and what may start is decided in
``lanes.py``; what happens here is the meeting of the three.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import cast

import orjson
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SEND_EOF
from websockets.server import ServerProtocol

from hub.api.requests import Json
from hub.api.responses import parse_create
from hub.errors import CloseCode, HubError
from hub.hub import Hub, Live
from hub.log import Event
from hub.server.cache import ResponseCache
from hub.server.frames import event_frame, text_frame
from hub.server.lanes import Cancel, Create, LaneError, Lanes, Steer, decode
from hub.server.outbox import Outbox, Subscription

logger = logging.getLogger("hub.websocket")

CLOSE_TIMEOUT = 5.0
"""Seconds that the other side has to answer a close frame."""
MAX_UNREAD = 256 * 1024
"""Bytes of error frames that may wait for a client that sends bad messages and does not read."""


class _Turn:
    """A response that runs on a lane."""

    __slots__ = ("create", "live", "parent", "subscription")

    def __init__(self, create: Create, live: Live, parent: str | None) -> None:
        self.create = create
        self.live = live
        self.parent = parent
        self.subscription: Subscription | None = None


class Connection(asyncio.Protocol):
    """One open WebSocket. ``on_lost`` is called when it is gone and has released everything."""

    def __init__(
        self,
        hub: Hub,
        protocol: ServerProtocol,
        *,
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self._hub = hub
        self._protocol = protocol
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._lanes = Lanes()
        self._cache = ResponseCache()
        self._turns: dict[str | None, _Turn] = {}
        self._fragments: list[bytes] = []
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox | None = None
        self._close_timer: asyncio.TimerHandle | None = None
        self._heard = True
        self._expired = False
        self._opened = self._loop.time()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of ``asyncio.Transport`` without being one.
        self._transport = cast(asyncio.Transport, transport)
        self._outbox = Outbox(self._transport.write, self._loop)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._protocol.receive_data(data)
        self._frames_received()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._frames_received()

    def pause_writing(self) -> None:
        assert self._outbox is not None
        self._outbox.pause()

    def resume_writing(self) -> None:
        assert self._outbox is not None
        self._outbox.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self._outbox is not None:
            self._outbox.close()
        turns, self._turns = self._turns, {}
        for turn in turns.values():
            self._hub.leave(turn.live)
        self._transport = self._outbox = None
        self._on_lost(self)

    # For the server.

    @property
    def idle(self) -> bool:
        """Whether nothing runs here and nothing waits."""
        return self._lanes.idle

    def close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake, if the connection is open. Nothing is sent after it."""
        if self._protocol.state is not OPEN or self._transport is None:
            return
        self._protocol.send_close(code, reason)
        self._send_pending()

    def keep_alive(self, lifetime: float) -> None:
        """Called at regular intervals: give up a dead peer, ping a live one, end an old one.

        ``lifetime`` is in seconds.
        """
        if self._transport is None or self._protocol.state is not OPEN:
            return
        if not self._heard:
            # Nothing since the last ping, not even its pong.
            self._transport.abort()
            return
        self._heard = False
        self._protocol.send_ping(b"")
        self._send_pending()
        if self._loop.time() - self._opened >= lifetime and not self._expired:
            self._expired = True
            minutes = round(lifetime / 60)
            self._send_error(
                HubError(
                    "websocket_connection_limit_reached",
                    f"The connection limit is reached ({minutes} minutes). "
                    "Create a new websocket connection to continue.",
                ),
                None,
            )
        self._close_if_expired()

    # Frames.

    def _frames_received(self) -> None:
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame), "the handshake is over"
            opcode = frame.opcode
            if opcode is Opcode.TEXT:
                self._fragments = [bytes(frame.data)]
            elif opcode is Opcode.CONT and self._fragments:
                self._fragments.append(bytes(frame.data))
            elif opcode is Opcode.BINARY:
                self._fragments = []
                self._send_error(
                    HubError("invalid_type", "A message must be a text frame, this one is binary."),
                    None,
                )
                continue
            else:
                # Control frames are answered by the protocol; so is the rest of a binary message.
                continue
            if frame.fin:
                fragments, self._fragments = self._fragments, []
                self._message(fragments[0] if len(fragments) == 1 else b"".join(fragments))
        self._send_pending()

    def _send_pending(self) -> None:
        transport = self._transport
        if transport is None:
            return
        for data in self._protocol.data_to_send():
            if data is SEND_EOF:
                # The closing handshake is over, or the peer broke the protocol.
                transport.close()
            else:
                transport.write(data)
        if self._protocol.close_expected() and self._close_timer is None:
            self._close_timer = self._loop.call_later(CLOSE_TIMEOUT, transport.abort)

    def _send(self, message: Json) -> None:
        transport = self._transport
        if transport is None or self._protocol.state is not OPEN:
            return
        if transport.get_write_buffer_size() > MAX_UNREAD:
            self.close(CloseCode.POLICY_VIOLATION, "too many bad messages, and none is read")
            return
        transport.write(text_frame(orjson.dumps(message)))

    def _send_error(self, error: HubError, lane: str | None) -> None:
        frame: Json = {"type": "error", "status": error.status, "error": error.body()}
        if error.retry_after is not None:
            frame["headers"] = {"retry-after": str(error.retry_after)}
        if lane is not None:
            frame["stream_id"] = lane
        self._send(frame)

    # Messages.

    def _message(self, data: bytes) -> None:
        if self._protocol.state is not OPEN:
            return
        try:
            command = decode(data)
            match command:
                case Create():
                    self._run(self._lanes.add(self._admit(command)))
                case Cancel():
                    self._cancel(command)
                case Steer():
                    self._refuse_steer(command)
        except LaneError as refusal:
            if refusal.error.code == "invalid_json" and not _is_utf8(data):
                # RFC 6455, 8.1: a text message that is not UTF-8 fails the connection.
                self._protocol.fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")
                return
            self._send_error(refusal.error, refusal.lane)

    def _admit(self, create: Create) -> Create:
        if self._expired:
            raise LaneError(
                HubError(
                    "websocket_connection_limit_reached",
                    "This connection takes no new requests. Create a new websocket connection.",
                ),
                create.lane,
            )
        return create

    def _run(self, create: Create | None) -> None:
        """Start a create, and while starting fails, whatever may start in its place."""
        while create is not None:
            parent = create.body.get("previous_response_id")
            try:
                self._start(create)
                return
            except HubError as error:
                self._send_error(error, create.lane)
                if error.status != 429 and isinstance(parent, str):
                    self._cache.failed(parent, create.lane)
                create = self._lanes.finish(create.lane)
        self._close_if_expired()

    def _start(self, create: Create) -> None:
        assert self._outbox is not None
        if create.body.get("background"):
            raise HubError(
                "unsupported_value",
                "'background' is not available on a WebSocket.",
                param="background",
            )
        request = parse_create(create.body)
        parent = request.previous_response_id
        context: Sequence[Json] = ()
        if parent is not None:
            cached = self._cache.get(parent)
            if cached is None:
                raise HubError(
                    "previous_response_not_found",
                    f"Previous response with id '{parent[:64]}' not found.",
                    param="previous_response_id",
                )
            context = cached
        live = self._hub.submit(request, context)
        turn = _Turn(create, live, parent)
        self._turns[create.lane] = turn
        turn.subscription = self._outbox.subscribe(
            live.log, _renderer(create.lane), on_end=lambda: self._ended(turn)
        )

    def _ended(self, turn: _Turn) -> None:
        """The terminal event of a lane's response was written."""
        lane, live = turn.create.lane, turn.live
        del self._turns[lane]
        if live.recorder.status == "failed":
            if turn.parent is not None:
                self._cache.failed(turn.parent, lane)
        else:
            self._cache.put(live.id, lane, live.history(), turn.create.size + live.log.size)
        self._run(self._lanes.finish(lane))

    def _cancel(self, cancel: Cancel) -> None:
        if cancel.response_id is None:
            # A cancel that meets the end of the response has nothing left to do.
            turn = self._turns.get(cancel.lane)
            if turn is not None:
                self._hub.cancel(turn.live)
            return
        for turn in self._turns.values():
            if turn.live.id == cancel.response_id:
                self._hub.cancel(turn.live)
                return
        error = HubError(
            "response_not_found",
            f"No response '{cancel.response_id[:64]}' is running on this connection.",
            param="response_id",
        )
        raise LaneError(error, cancel.lane)

    def _refuse_steer(self, steer: Steer) -> None:
        answer: Json = {
            "type": "response.steer.failed",
            "sequence_number": 0,
            "steer": {"input": steer.input, "previous_response_id": steer.previous_response_id},
            "error": {
                "type": "invalid_request_error",
                "code": "steering_not_supported",
                "message": "hub does not support steering a running response.",
            },
        }
        for lane, turn in self._turns.items():
            if turn.live.id == steer.previous_response_id:
                answer["sequence_number"] = turn.live.log.last
                if lane is not None:
                    answer["stream_id"] = lane
        self._send(answer)

    def _close_if_expired(self) -> None:
        if self._expired and self._lanes.idle:
            self.close(CloseCode.GOING_AWAY, "connection lifetime reached, connect again")


def _renderer(lane: str | None) -> Callable[[Event], bytes]:
    tail = b"}" if lane is None else b',"stream_id":' + orjson.dumps(lane) + b"}"

    def render(event: Event) -> bytes:
        return event_frame(event.wire, tail)

    return render


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
