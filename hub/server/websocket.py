"""One WebSocket: bytes in, messages out of them, and the closing handshake.

websockets' Sans-I/O ``ServerProtocol`` reads the frames and keeps the closing handshake; the
transport is aiohttp's, handed over after the upgrade. Messages go to the session; frames that carry
events are written by the outbox.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import cast

import orjson
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SEND_EOF
from websockets.server import ServerProtocol

from hub.api.requests import Json
from hub.errors import CloseCode, HubError
from hub.hub import Hub
from hub.server.frames import text_frame
from hub.server.outbox import Outbox
from hub.server.session import Session

logger = logging.getLogger("hub.websocket")

CLOSE_TIMEOUT = 5.0
"""Seconds that the other side has to answer a close frame."""
MAX_UNREAD = 256 * 1024
"""Bytes of error frames that may wait for a client that sends bad messages and does not read."""


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
        self._session: Session | None = None
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
        self._session = Session(self._hub, self._outbox, self._send, on_idle=self._close_if_expired)

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
        if self._session is not None:
            self._session.close()
        self._transport = self._outbox = self._session = None
        self._on_lost(self)

    # For the server.

    @property
    def idle(self) -> bool:
        """Whether nothing runs here and nothing waits."""
        return self._session is None or self._session.idle

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
            assert self._session is not None
            self._session.expire(
                f"The connection limit is reached ({round(lifetime / 60)} minutes). "
                "Create a new websocket connection to continue."
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
                if self._session is not None:
                    self._session.refuse(
                        HubError("invalid_type", "A message must be text, but this one is binary.")
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

    def _message(self, data: bytes) -> None:
        if self._session is None or self._protocol.state is not OPEN:
            return
        try:
            self._session.receive(data)
        except UnicodeDecodeError:
            # RFC 6455, 8.1: a text message that is not UTF-8 fails the connection.
            self._protocol.fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")

    def _close_if_expired(self) -> None:
        if self._expired and self.idle:
            self.close(CloseCode.GOING_AWAY, "connection lifetime reached, connect again")
