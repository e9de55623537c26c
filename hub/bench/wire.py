"""HTTP/1.1 and WebSocket as a load generator needs them: bytes in, bodies and messages out. Pure.

Client libraries cost a load generator more per token than the server that it measures. These
readers do what both ends of a benchmark send, and refuse everything else with ``WireError``.
Sources: RFC 9112 (HTTP/1.1), RFC 6455 (WebSocket).
"""

from base64 import b64encode
from hashlib import sha1

import httptools

MAX_HEAD = 64 * 1024
"""Bytes of a message's head."""
CONTINUE = 100
"""The status of an answer that another one follows."""
MAX_MESSAGE = 64 << 20
"""Bytes of a WebSocket message."""

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
"""Opcodes of the frames that come or go."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_WS_KEY = b64encode(b"hub bench is 16B")


class WireError(Exception):
    """The other side broke the protocol. The connection is of no more use."""


class HttpReader:
    """Reads one response. httptools (the parser of Node.js) takes it apart.

    Call ``feed`` with what arrives, until ``done``; ``feed_eof`` if the connection ends before.
    Then ``reset`` reads the connection's next message. ``headers`` and ``status`` stand once it is
    ``headed``.
    """

    def __init__(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        """By lower-case names; the last one of a name counts."""
        # Called for every chunk: nothing but a list's own method, since Python would cost more.
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self.reset()

    def reset(self) -> None:
        self.headed = False
        self.done = False
        self.status = 0
        self.keeps_alive = False
        """Whether the connection takes another request when this message is done."""
        self.rest = b""
        """What came after the answer that opens a WebSocket."""
        self.headers.clear()
        self._pieces.clear()
        self._head = 0
        self._parse()

    def feed(self, data: bytes) -> bytes:
        """What ``data`` adds to the body. Raises ``WireError``."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            raise WireError(str(error)) from None
        if not self.headed:
            self._head += len(data)
            if self._head > MAX_HEAD:
                raise WireError("a head without an end")
        pieces = self._pieces
        if len(pieces) == 1:
            return pieces.pop()
        body = b"".join(pieces)
        pieces.clear()
        return body

    def feed_eof(self) -> None:
        """The connection has ended. Raises ``WireError`` if that cuts off the message."""
        framed = {b"content-length", b"transfer-encoding"} & self.headers.keys()
        if self.headed and not framed:
            self.done = True
        if not self.done:
            raise WireError("the connection ended inside a message")

    def _parse(self) -> None:
        """Begin with a parser of the message's kind."""
        self._response = httptools.HttpResponseParser(self)
        self._parser: httptools.HttpResponseParser | httptools.HttpRequestParser = self._response

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self.done:
            raise WireError("a message that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._response.get_status_code()
        self.headed = self.status != CONTINUE

    def on_message_complete(self) -> None:
        if self.headed:
            self.done = True
            self.keeps_alive = self._parser.should_keep_alive()
        else:
            self.headers.clear()


class RequestReader(HttpReader):
    """Reads one request: ``method`` and ``path`` stand once it is ``headed``."""

    def reset(self) -> None:
        self.method = self.path = b""
        super().reset()

    def _parse(self) -> None:
        self._parser = self._request = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_headers_complete(self) -> None:
        self.method = self._request.get_method()
        self.headed = True


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
        raise WireError(f"no WebSocket here: status {answer.status}")
    expected = b64encode(sha1(_WS_KEY + _GUID).digest())
    if answer.headers.get(b"sec-websocket-accept") != expected:
        raise WireError("the server did not understand the handshake")
    if b"sec-websocket-extensions" in answer.headers:
        raise WireError("the server uses an extension that it was not offered")


def post(host: str, path: str, body: bytes, key: str | None = None) -> bytes:
    """A request with a JSON body."""
    return (
        b"POST %b HTTP/1.1\r\nHost: %b\r\n%bContent-Type: application/json\r\n"
        b"Accept: */*\r\nContent-Length: %d\r\n\r\n%b"
        % (path.encode(), host.encode(), _authorization(key), len(body), body)
    )


def get(host: str, path: str, key: str | None = None) -> bytes:
    """A request without a body."""
    return b"GET %b HTTP/1.1\r\nHost: %b\r\n%bAccept: */*\r\n\r\n" % (
        path.encode(),
        host.encode(),
        _authorization(key),
    )


def _authorization(key: str | None) -> bytes:
    return b"" if key is None else b"Authorization: Bearer %b\r\n" % key.encode()
