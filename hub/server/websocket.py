"""One WebSocket: bytes in, messages out of them, and the closing handshake.

websockets' Sans-I/O ``ServerProtocol`` reads the frames and keeps the closing handshake; the
transport is aiohttp's, handed over after the upgrade. Messages go to the session; frames that carry
events are written by the outbox.

A large message is understood in the parser's thread. Until that is done nothing more is read, and
what was read already waits, so that messages keep their order.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import cast

import orjson
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SEND_EOF
from websockets.server import ServerProtocol

from hub.api.requests import Json
from hub.completer import Completer
from hub.dispatch.terms import Terms
from hub.errors import CloseCode, HubError
from hub.hub import Hub
from hub.server.auth import Gate
from hub.server.frames import text_frame
from hub.server.lanes import Command
from hub.server.outbox import Outbox, bound_buffers
from hub.server.parser import LARGE, Parser
from hub.server.session import Session, understand, understand_all

logger = logging.getLogger("hub.websocket")

CLOSE_TIMEOUT = 5.0
"""Seconds that the other side has to answer a close frame."""
MAX_UNREAD = 256 * 1024
"""Bytes of error frames that may wait for a client that sends bad messages and does not read."""
MAX_EMPTY = 1000
"""Frames that say nothing (pings, pongs, empty fragments) from one look at it to the next: each
costs as much as one that does, and a client has use for one in some seconds."""
LEAST = 16 * 1024
"""Bytes that must come of a message that is not whole, from one look at it to the next."""
_PONG = 0x8A
"""How a pong begins."""


class Connection(asyncio.Protocol):
    """One open WebSocket, whose requests have these terms.

    ``on_lost`` is called when it is gone and has released everything.
    """

    def __init__(
        self,
        hub: Hub,
        protocol: ServerProtocol,
        *,
        parser: Parser,
        completer: Completer,
        gate: Gate,
        tenant: str,
        terms: Terms,
        on_lost: Callable[["Connection"], None],
    ) -> None:
        self._hub = hub
        self._protocol = protocol
        self._parser = parser
        self._completer = completer
        self._gate = gate
        self._tenant = tenant
        self._terms = terms
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._fragments: bytearray | None = None
        self._empty = 0
        """Frames without content since the last look."""
        self._pong = b""
        """The last one that found the buffer full."""
        self._came = 0
        """Bytes since the last look."""
        self._unfinished = False
        """A message was not whole at the last look, and still is not."""
        self._parsing: asyncio.Future[Command] | None = None
        # Bounded by what one read can bring: nothing is read while messages wait.
        self._unread: deque[bytes | HubError] = deque()
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
        bound_buffers(self._transport)
        self._outbox = Outbox(
            self._transport.write,
            self._loop,
            patience=self._hub.policy.reader_patience,
            max_lag=self._hub.policy.reader_lag,
            on_slow=self._too_slow,
        )
        self._session = Session(
            self._hub,
            self._outbox,
            self._send,
            parser=self._parser,
            completer=self._completer,
            gate=self._gate,
            tenant=self._tenant,
            terms=self._terms,
            on_idle=self._close_if_expired,
        )

    def data_received(self, data: bytes) -> None:
        self._heard = True
        self._came += len(data)
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
        if self._pong and self._transport is not None and self._protocol.state is OPEN:
            self._transport.write(self._pong)
        self._pong = b""
        self._outbox.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._close_timer is not None:
            self._close_timer.cancel()
        if self._outbox is not None:
            self._outbox.close()
        if self._session is not None:
            self._session.close()
        self._unread.clear()
        if self._parsing is not None:
            self._parsing.cancel()
        self._transport = self._outbox = self._session = None
        self._on_lost(self)

    # For the server.

    @property
    def idle(self) -> bool:
        """Whether nothing runs here and nothing waits."""
        return self._session is None or (self._session.idle and self._parsing is None)

    @property
    def lanes(self) -> tuple[int, int]:
        """How many lanes run a response, and how many creates wait for their turn."""
        return (0, 0) if self._session is None else self._session.lanes

    def close(self, code: CloseCode, reason: str) -> None:
        """Start the closing handshake, if the connection is open. Nothing is sent after it."""
        if self._protocol.state is not OPEN or self._transport is None:
            return
        self._protocol.send_close(code, reason)
        self._send_pending()

    def leave(self) -> None:
        """This node stops: have the client come back, to another one. Not all at once."""
        pause = random.randint(50, 500)
        self.close(CloseCode.SERVICE_RESTART, f"hub is shutting down; retry in {pause} ms")

    def revoke(self) -> None:
        """The key that it was opened with is not valid any more: let go of what it reads, and close
        it."""
        if self._transport is not None and self._protocol.state is OPEN:
            self._let_go()
            self.close(CloseCode.POLICY_VIOLATION, "the API key is not valid")

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
        if self._parsing is None:
            # What has come of it may be a megabyte, which waits as long as its rest does.
            unfinished = self._fragments is not None or bool(self._protocol.reader.buffer)
            if unfinished and self._unfinished and self._came < LEAST:
                self.close(CloseCode.POLICY_VIOLATION, "a message that comes too slowly")
                return
            self._unfinished, self._came = unfinished, 0
        self._heard = False
        self._empty = 0
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
        # Pongs first: what a message is answered with does not overtake them.
        self._send_pending()
        for frame in self._protocol.events_received():
            assert isinstance(frame, Frame), "the handshake is over"
            opcode = frame.opcode
            if opcode is Opcode.TEXT:
                if frame.fin:
                    self._message(bytes(frame.data))
                else:
                    self._fragments = bytearray(frame.data)
            elif opcode is Opcode.CONT:
                self._continued(frame)
            elif opcode is Opcode.BINARY:
                self._fragments = None
                self._message(
                    HubError("invalid_type", "A message must be text, but this one is binary.")
                )
            else:
                # Control frames are answered by the protocol.
                self._empty += 1
        self._send_pending()
        if self._empty > MAX_EMPTY:
            self.close(CloseCode.POLICY_VIOLATION, "too many frames that say nothing")

    def _continued(self, frame: Frame) -> None:
        """A fragment came, perhaps of a binary message, which was answered already."""
        if not frame.data:
            self._empty += 1
        if self._fragments is None:
            return
        # Together they are no longer than a message may be: the protocol sees to that. One object,
        # since each of a list of small ones takes more than what it holds.
        self._fragments += frame.data
        if frame.fin:
            message, self._fragments = bytes(self._fragments), None
            self._message(message)

    def _send_pending(self) -> None:
        transport = self._transport
        if transport is None:
            return
        for data in self._protocol.data_to_send():
            if data is SEND_EOF:
                # The closing handshake is over, or the peer broke the protocol.
                self._hang_up(transport)
            elif data[0] == _PONG and transport.get_write_buffer_size() > MAX_UNREAD:
                # RFC 6455, 5.5.3: of several pings only the last must be answered.
                self._pong = data
            else:
                transport.write(data)
        if self._protocol.close_expected() and self._close_timer is None:
            self._close_timer = self._loop.call_later(CLOSE_TIMEOUT, transport.abort)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """Nothing more is sent. The peer may still be sending: what is not read of that would make
        the kernel answer with a reset, which can cost the peer the close frame. So it is read until
        the peer hangs up, too, or its time is over."""
        self._let_go()
        if transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def _let_go(self) -> None:
        """Leave all that runs here; nothing of it is sent any more."""
        assert self._outbox is not None
        assert self._session is not None
        self._outbox.close()
        self._session.close()

    def _send(self, message: Json) -> None:
        transport = self._transport
        if transport is None or self._protocol.state is not OPEN:
            return
        if transport.get_write_buffer_size() > MAX_UNREAD:
            self.close(CloseCode.POLICY_VIOLATION, "too many bad messages, and none is read")
            return
        transport.write(text_frame(orjson.dumps(message)))

    def _message(self, message: bytes | HubError) -> None:
        """Take a text message, or what is wrong with one that is none, when its turn comes."""
        self._unfinished = False
        if self._session is None or self._protocol.state is not OPEN:
            return
        if self._parsing is not None:
            self._unread.append(message)
        elif isinstance(message, HubError):
            self._session.refuse(message)
        elif len(message) <= LARGE:
            self._receive(partial(understand, message))
        else:
            assert self._transport is not None
            self._transport.pause_reading()
            self._parsing = self._parser.start(partial(understand_all, message))
            self._parsing.add_done_callback(self._parsed)

    def _parsed(self, parsing: asyncio.Future[Command]) -> None:
        """A large message was understood: go on with it, and with what came after it."""
        self._parsing = None
        if parsing.cancelled():
            return
        if self._transport is None:
            # Looked at, so that asyncio does not report it as forgotten.
            parsing.exception()
            return
        try:
            if self._protocol.state is OPEN:
                self._receive(parsing.result)
            while self._unread and self._parsing is None:
                self._message(self._unread.popleft())
        except Exception:
            # The boundary of one connection, as the transport is while it reads.
            logger.exception("a message could not be taken")
            self._transport.abort()
            return
        self._send_pending()
        self._close_if_expired()
        if self._parsing is None and self._transport is not None:
            self._transport.resume_reading()

    def _receive(self, command: Callable[[], Command]) -> None:
        assert self._session is not None
        try:
            self._session.receive(command)
        except UnicodeDecodeError:
            # RFC 6455, 8.1: a text message that is not UTF-8 fails the connection.
            self._protocol.fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")

    def _too_slow(self) -> None:
        """The client does not read, or not fast enough: let go of what it reads, and say so behind
        what it has not read yet."""
        self._hub.bounds.reader_closed()
        self._let_go()
        self.close(CloseCode.TRY_AGAIN_LATER, "too slow a reader, connect again and resume")

    def _close_if_expired(self) -> None:
        if self._expired and self.idle:
            self.close(CloseCode.GOING_AWAY, "connection lifetime reached, connect again")
        elif self._session is not None and self._session.handed_over and self.idle:
            self.leave()
