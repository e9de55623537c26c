"""HTTP/1.1 and WebSocket as a load generator needs them: bytes in, bodies and messages out. Pure.

Libraries cost a load generator more per token than the server that it measures. These readers do
what both ends of a benchmark send, exactly, and refuse everything else with ``WireError``.
Sources: RFC 9112 (HTTP/1.1), RFC 6455 (WebSocket).
"""

from base64 import b64encode
from collections.abc import Callable
from hashlib import sha1

MAX_HEAD = 64 * 1024
"""Bytes of a message's head, or of the line that begins a chunk."""
MAX_MESSAGE = 64 << 20
"""Bytes of a WebSocket message."""

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
"""Opcodes of the frames that come or go."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WS_KEY = b64encode(b"hub bench is 16B")


class WireError(Exception):
    """The other side broke the protocol. The connection is of no more use."""


class HttpReader:
    """Reads one message, a request's or a response's.

    Call ``feed`` with what arrives, until ``done``; ``feed_eof`` if the connection ends before.
    Then ``reset`` reads the connection's next message. ``start``, ``headers`` and ``status`` stand
    once ``start`` is not empty.
    """

    __slots__ = ("_buffer", "_chunked", "_left", "_state", "done", "headers", "rest", "start")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.start = b""
        """The request line or status line."""
        self.headers: dict[bytes, bytes] = {}
        """By lower-case names; the last one of a name counts."""
        self.done = False
        self.rest = b""
        """What came after the message's end."""
        self._buffer = b""
        self._chunked = False
        self._left: int | None = None
        """Bytes of the body, or of the chunk with its CRLF, that are to come; ``None``: unknown."""
        self._state: Callable[[list[bytes]], bool] = self._head

    @property
    def status(self) -> int:
        """A response's status."""
        try:
            return int(self.start.split(b" ", 2)[1])
        except (IndexError, ValueError):
            raise WireError(f"no status line: {self.start[:80]!r}") from None

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection takes another request when this message is done."""
        framed = self._chunked or b"content-length" in self.headers
        return framed and b"close" not in self.headers.get(b"connection", b"").lower()

    def feed(self, data: bytes) -> bytes:
        """What ``data`` adds to the body. Raises ``WireError``."""
        # Nearly every read is one whole chunk. 0.4 of what the general way costs.
        if self._chunked and self._left == 0 and not self._buffer:
            line = data.find(b"\r\n")
            if 0 < line < 8:
                size = _size(data[:line])
                if size and len(data) == line + size + 4 and data.endswith(b"\r\n"):
                    return data[line + 2 : -2]
        self._buffer = self._buffer + data if self._buffer else data
        pieces: list[bytes] = []
        while not self.done and self._state(pieces):
            pass
        if self.done:
            self.rest, self._buffer = self._buffer, b""
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed_eof(self) -> None:
        """The connection has ended. Raises ``WireError`` if that cuts off the message."""
        if self.start and not self._chunked and self._left is None:
            self.done = True
        if not self.done:
            raise WireError("the connection ended inside a message")

    # The states: each takes from the buffer, and says whether it is worth going on.

    def _head(self, pieces: list[bytes]) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise WireError("a head without an end")
            return False
        start, *lines = self._buffer[:end].split(b"\r\n")
        self._buffer = self._buffer[end + 4 :]
        if start.startswith(b"HTTP/1.1 100 "):
            return True
        self.start = start
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon:
                raise WireError(f"a header without a colon: {line[:80]!r}")
            self.headers[name.lower()] = value.strip()
        self._chunked = b"chunked" in self.headers.get(b"transfer-encoding", b"").lower()
        length = self.headers.get(b"content-length")
        if self._chunked:
            self._left = 0
            self._state = self._chunk
        elif length is not None:
            if not length.isdigit():
                raise WireError(f"a length that is none: {length[:80]!r}")
            self._left = int(length)
            self._state = self._body
        else:
            self._left = None if start.startswith(b"HTTP/") and self.status != 101 else 0
            self._state = self._body
        return True

    def _body(self, pieces: list[bytes]) -> bool:
        left = self._left
        piece = self._buffer if left is None else self._buffer[:left]
        self._buffer = self._buffer[len(piece) :]
        if piece:
            pieces.append(piece)
        if left is not None:
            self._left = left - len(piece)
            self.done = not self._left
        return False

    def _chunk(self, pieces: list[bytes]) -> bool:
        # All chunks that are there in one go: cutting the buffer after each would be quadratic.
        data, at = self._buffer, 0
        while not self.done:
            if self._left:
                piece = data[at : at + self._left]
                at += len(piece)
                if self._left > 2:
                    pieces.append(piece[: self._left - 2])
                if len(piece) > self._left - 2:
                    self._check_end(piece)
                self._left -= len(piece)
                if self._left:
                    break
                continue
            line = data.find(b"\r\n", at)
            if line < 0:
                if len(data) - at > MAX_HEAD:
                    raise WireError("a chunk's size without an end")
                break
            size = _size(data[at:line])
            if not size:
                # The last chunk, and a trailer that nobody here sends but the grammar allows.
                end = data.find(b"\r\n\r\n", line)
                if end < 0:
                    if len(data) - at > MAX_HEAD:
                        raise WireError("a trailer without an end")
                    break
                at = end + 4
                self.done = True
            else:
                at = line + 2
                self._left = size + 2
        self._buffer = data[at:]
        return False

    def _check_end(self, piece: bytes) -> None:
        """A chunk's data is followed by CRLF, of which ``piece`` holds a part or all."""
        assert self._left is not None
        after = self._left - len(piece)
        if piece[max(0, self._left - 2) :] != b"\r\n"[max(0, 2 - self._left) : 2 - after]:
            raise WireError("a chunk longer than its size")


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    # int() would take signs and underscores.
    if not digits.isalnum():
        raise WireError(f"a chunk without a size: {line[:80]!r}")
    try:
        return int(digits, 16)
    except ValueError:
        raise WireError(f"a chunk without a size: {line[:80]!r}") from None


class FrameReader:
    """Reads a server's WebSocket frames. ``feed`` gives the messages and control frames that the
    bytes complete, as opcode and payload; fragments of a text are joined."""

    __slots__ = ("_buffer", "_fragments")

    def __init__(self) -> None:
        self._buffer = b""
        self._fragments: list[bytes] = []

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Raises ``WireError`` for a frame that no server may send, or that is not text."""
        if self._buffer:
            data = self._buffer + data
        found: list[tuple[int, bytes]] = []
        at, end = 0, len(data)
        while end - at >= 2:
            first, size = data[at], data[at + 1]
            body = at + 2
            if size > 125:
                if size > 127:
                    raise WireError("a masked frame")
                body += 2 if size == 126 else 8
                if body > end:
                    break
                size = int.from_bytes(data[at + 2 : body])
                if size > MAX_MESSAGE:
                    raise WireError(f"a frame of {size} bytes")
            if body + size > end:
                break
            at = body + size
            payload = data[body:at]
            if first == 0x81 and not self._fragments:
                found.append((TEXT, payload))
            else:
                self._other(first, payload, found)
        self._buffer = data[at:]
        return found

    def _other(self, first: int, payload: bytes, found: list[tuple[int, bytes]]) -> None:
        final, opcode = first & 0x80, first & 0x7F
        if opcode in (CLOSE, PING, PONG):
            if not final or len(payload) > 125:
                raise WireError("a control frame in fragments, or too long")
            found.append((opcode, payload))
        elif opcode == (0 if self._fragments else TEXT):
            self._fragments.append(payload)
            if final:
                found.append((TEXT, b"".join(self._fragments)))
                self._fragments.clear()
            elif sum(map(len, self._fragments)) > MAX_MESSAGE:
                raise WireError("a message without an end")
        else:
            raise WireError(f"a frame that begins with {first:#x}")


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One final frame from a client, masked with zeros.

    Masks must be unforeseeable only where scripts from the web choose the payload (RFC 6455, 10.3);
    here nobody does, and a mask of zeros is none to compute.
    """
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0xFE)) + size.to_bytes(2)
    else:
        head = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8)
    return b"%b\0\0\0\0%b" % (head, payload)


def upgrade(host: str, path: str, key: str | None = None) -> bytes:
    """The request that opens a WebSocket."""
    return (
        b"GET %b HTTP/1.1\r\nHost: %b\r\n%bUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
        % (path.encode(), host.encode(), _authorization(key), _WS_KEY)
    )


def check_upgrade(answer: HttpReader) -> None:
    """Raises ``WireError`` if the answer to ``upgrade`` opens no WebSocket."""
    if answer.status != 101:
        raise WireError(f"no WebSocket here: {answer.start.decode(errors='replace')}")
    expected = b64encode(sha1(_WS_KEY + _GUID).digest())
    if answer.headers.get(b"sec-websocket-accept") != expected:
        raise WireError("the server did not understand the handshake")
    if b"sec-websocket-extensions" in answer.headers:
        raise WireError("the server uses an extension that it was not offered")


def post(host: str, path: str, body: bytes, key: str | None = None) -> bytes:
    """A request with a JSON body."""
    return (
        b"POST %b HTTP/1.1\r\nHost: %b\r\n%bContent-Type: application/json\r\n"
        b"Accept: text/event-stream\r\nContent-Length: %d\r\n\r\n%b"
        % (path.encode(), host.encode(), _authorization(key), len(body), body)
    )


def _authorization(key: str | None) -> bytes:
    return b"" if key is None else b"Authorization: Bearer %b\r\n" % key.encode()
