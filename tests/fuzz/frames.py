"""A client that breaks RFC 6455 in every way that it knows, over real sockets.

A case is a connection: a good handshake or a bad one, any number of good steps, then possibly a
breach. What has to come of a case is known: behind good steps a ping is answered and a close frame
echoed; a breach ends the connection with the close code that the RFC gives it. What hub sends is
read by the websockets library, which refuses bad frames. After each case an honest connection
beside it is served.
"""

import asyncio
import itertools
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import Random

import orjson
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.fuzz.goods import CREATES, MESSAGES
from tests.fuzz.mutants import PIECES, cuts, mutate
from tests.fuzz.target import MAX_MESSAGE

DEADLINE = 10.0
"""Seconds for a case. hub needs milliseconds."""

PATH = "/v1/responses"


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x00\x01\x02\x03",
    claimed: int | None = None,
    wide: int = 0,
) -> bytes:
    """A frame, as bad as wished: ``rsv`` are the three reserved bits, ``claimed`` is the length
    that it says to have, ``wide`` takes a longer form of the length than need be (2 or 8 bytes).
    """
    length = len(payload) if claimed is None else claimed
    head = bytes(((0x80 if fin else 0) | rsv << 4 | opcode,))
    masked = 0 if mask is None else 0x80
    if length < 126 and not wide:
        head += bytes((masked | length,))
    elif length < 65536 and wide < 8:
        head += bytes((masked | 126,)) + struct.pack("!H", length)
    else:
        head += bytes((masked | 127,)) + struct.pack("!Q", length)
    if mask is None:
        return head + payload
    return head + mask + bytes(b ^ m for b, m in zip(payload, itertools.cycle(mask), strict=False))


@dataclass
class Case:
    """What to send after the handshake, and what has to come of it."""

    name: str
    data: bytes = b""
    codes: frozenset[int] = frozenset()
    """The close codes that may end it; none if it goes on."""
    pings: list[bytes] = field(default_factory=list)
    """What has to be ponged."""
    unfinished: bool = False
    """A frame is still to be completed."""


# Good steps.


def _text(random: Random) -> bytes:
    """A message: good, bad or no JSON at all, but UTF-8."""
    data = random.choice(MESSAGES)
    if random.random() < 0.7:
        data = mutate(data, random, random.choice(CREATES))
    return data.decode(errors="replace").encode()[: MAX_MESSAGE - 1]


def _mask(random: Random) -> bytes:
    return random.randbytes(4)


def _say(case: Case, random: Random) -> None:
    case.data += frame(1, _text(random), mask=_mask(random), wide=random.choice((0, 0, 0, 2, 8)))


def _say_in_fragments(case: Case, random: Random) -> None:
    """With control frames in between, and empty fragments."""
    pieces = cuts(_text(random), random)[:8]
    for place, piece in enumerate(pieces or [b""]):
        last = place >= len(pieces) - 1
        case.data += frame(0 if place else 1, piece, fin=last, mask=_mask(random))
        if not last and random.random() < 0.5:
            _ping(case, random)
        if not last and random.random() < 0.2:
            case.data += frame(0, b"", fin=False, mask=_mask(random))


def _ping(case: Case, random: Random) -> None:
    payload = random.randbytes(random.choice((0, 1, 20, 125)))
    case.pings.append(payload)
    case.data += frame(9, payload, mask=_mask(random))


def _pong(case: Case, random: Random) -> None:
    """Unasked, as is allowed."""
    case.data += frame(10, random.randbytes(random.choice((0, 5, 125))), mask=_mask(random))


def _binary(case: Case, random: Random) -> None:
    """hub wants text, and says so."""
    case.data += frame(2, random.randbytes(random.choice((0, 1, 200))), mask=_mask(random))


STEPS = (_say, _say, _say_in_fragments, _ping, _pong, _binary)

# Breaches, and the close codes that they end with.

PROTOCOL_ERROR = frozenset({1002})
INVALID_DATA = frozenset({1007})
TOO_BIG = frozenset({1009})
BAD_UTF8 = (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc0\xaf", b"a\xe2\x82")
CLOSE_CODES = (1000, 1001, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4999)
NO_CLOSE_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)

Breach = Callable[[Random], bytes]


def _closes(random: Random) -> tuple[bytes, frozenset[int]]:
    code = random.choice(CLOSE_CODES)
    reason = random.choice(("", "bye", "ä" * 60)).encode()
    return frame(8, struct.pack("!H", code) + reason), frozenset({code})


BREACHES: dict[str, tuple[Breach, frozenset[int]]] = {
    "a reserved bit": (
        lambda r: frame(r.choice((1, 2, 9)), b"x", rsv=r.randrange(1, 8)), PROTOCOL_ERROR),
    "a reserved opcode": (
        lambda r: frame(r.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15)), b"x"), PROTOCOL_ERROR),
    "no mask": (lambda r: frame(r.choice((1, 2, 8, 9, 10)), b"{}", mask=None), PROTOCOL_ERROR),
    "a control frame in fragments": (
        lambda r: frame(r.choice((8, 9, 10)), b"\x03\xe8", fin=False), PROTOCOL_ERROR),
    "a long control frame": (
        lambda r: frame(r.choice((8, 9, 10)), b"\x03\xe8" + b"x" * 124), PROTOCOL_ERROR),
    "a continuation of nothing": (
        lambda r: frame(0, b"x", fin=r.random() < 0.5), PROTOCOL_ERROR),
    "a message inside another": (
        lambda r: frame(1, b"{", fin=False) + frame(r.choice((1, 2)), b"}"), PROTOCOL_ERROR),
    "a close frame inside a message": (
        # RFC 6455 allows it; the websockets library does not.
        lambda r: frame(1, b"{", fin=False) + frame(8, struct.pack("!H", 1000)),
        PROTOCOL_ERROR | {1000}),
    "a close frame of one byte": (lambda r: frame(8, b"\x03"), PROTOCOL_ERROR),
    "a close code that is none": (
        lambda r: frame(8, struct.pack("!H", r.choice(NO_CLOSE_CODES)) + b"x"), PROTOCOL_ERROR),
    "a close reason that is no UTF-8": (
        lambda r: frame(8, struct.pack("!H", 1000) + r.choice(BAD_UTF8)), INVALID_DATA),
    "text that is no UTF-8": (
        lambda r: frame(1, b'{"type":"%b"}' % r.choice(BAD_UTF8)), INVALID_DATA),
    "text that is no UTF-8, in fragments": (
        lambda r: frame(1, b"a" + r.choice(BAD_UTF8), fin=False) + frame(0, b"b"), INVALID_DATA),
    "a message that is too big": (
        lambda r: frame(r.choice((1, 2)), b"x", claimed=MAX_MESSAGE + r.choice((1, 9, 2**30))),
        TOO_BIG),
    "fragments that are too big": (
        lambda r: frame(1, b"x" * MAX_MESSAGE, fin=False) + frame(0, b"xx"), TOO_BIG),
    "a length of 64 bits": (
        lambda r: frame(1, b"x", claimed=r.choice((2**63 - 1, 2**63, 2**64 - 1))),
        PROTOCOL_ERROR | TOO_BIG),
}  # fmt: skip
"""Its name -> what is sent, and the close codes that are right."""


def make_case(random: Random) -> Case:
    """A case: good steps, then a breach, a close frame, half a frame, garbage, or nothing more."""
    case = Case("good")
    for _ in range(random.choice((0, 0, 1, 1, 2, 5))):
        random.choice(STEPS)(case, random)
    match random.randrange(10):
        case 0 | 1 | 2 | 3 | 4 | 5:
            case.name = random.choice([*BREACHES])
            breach, case.codes = BREACHES[case.name]
            case.data += breach(random)
        case 6:
            case.name = "a close frame"
            data, case.codes = _closes(random)
            # What follows a close frame is not looked at.
            case.data += data + random.choice((b"", frame(9, b"late"), random.randbytes(30)))
        case 7:
            case.name = "half a frame"
            whole = frame(1, _text(random), mask=_mask(random))
            case.data += whole[: random.randrange(len(whole))]
            case.unfinished = True
        case 8:
            case.name = "garbage"
            good = frame(1, _text(random)) + frame(9, b"x") + frame(8, b"\x03\xe8")
            garbage = random.randbytes(random.choice((1, 5, 50, 2000)))
            case.data += random.choice((garbage, mutate(good, random, garbage)))
            case.codes = frozenset(range(1000, 5000))
            case.unfinished = True
        case _:
            pass
    return case


# The client.


class Failure(Exception):
    """hub has not done what it had to."""


@dataclass
class Client:
    """One connection: raw bytes out, frames in."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: ClientProtocol
    pongs: list[bytes] = field(default_factory=list)
    texts: list[bytes] = field(default_factory=list)
    _fragments: list[bytes] = field(default_factory=list)

    async def read(self) -> bool:
        """Read what comes next; false at the end. Raises ``Failure`` for a bad frame."""
        try:
            data = await self.reader.read(65536)
        except ConnectionError:
            data = b""
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        for event in self.protocol.events_received():
            if isinstance(event, Response):
                continue
            assert isinstance(event, Frame)
            match event.opcode:
                case Opcode.PONG:
                    self.pongs.append(bytes(event.data))
                case Opcode.TEXT | Opcode.CONT:
                    self._fragments.append(bytes(event.data))
                    if event.fin:
                        self.texts.append(b"".join(self._fragments))
                        self._fragments.clear()
        error = self.protocol.parser_exc
        if error is not None and not isinstance(error, EOFError):
            raise Failure(f"hub sent a bad frame: {error!r}")
        return bool(data)

    @property
    def code(self) -> int | None:
        """The close code that hub has sent."""
        received: Close | None = self.protocol.close_rcvd
        return None if received is None else received.code


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Client]:
    """A connection with a good handshake behind it; its end is abrupt."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}{PATH}"), max_size=None)
        client = Client(reader, writer, protocol)
        protocol.send_request(protocol.connect())
        writer.write(b"".join(protocol.data_to_send()))
        while protocol.state is State.CONNECTING:
            if not await client.read():
                raise Failure(f"no handshake: {protocol.handshake_exc!r}")
        yield client
    finally:
        writer.transport.abort()


async def attempt(port: int, case: Case, random: Random) -> None:
    """Run a case. Raises ``Failure`` if hub does something else than it has to."""
    async with connected(port) as client:
        pieces = [case.data] if random.random() < 0.7 else cuts(case.data, random)
        for piece in pieces:
            client.writer.write(piece)
            if len(pieces) > 1:
                await asyncio.sleep(0)
        if case.unfinished:
            # hub waits for more, or was told something final.
            with suppress(OSError):
                client.writer.write_eof()
        elif not case.codes:
            case.pings.append(b"the end")
            client.writer.write(frame(9, b"the end") + frame(8, struct.pack("!H", 1000)))
            case.codes = frozenset({1000})
        answered = case.unfinished
        while await client.read():
            if client.code is not None and not answered:
                # A handshake of hub's own.
                answered = True
                client.writer.write(frame(8, struct.pack("!H", 1000)))
        _judge(client, case)


def _judge(client: Client, case: Case) -> None:
    for text in client.texts:
        message = orjson.loads(text)
        if message["type"] == "error":
            error = message["error"]
            if message["status"] == 500 or error["code"] == "server_error":
                raise Failure(f"an untyped error: {text!r}")
    if case.unfinished and client.code is None:
        return
    if client.code not in case.codes:
        raise Failure(f"closed with {client.code}, not with one of {sorted(case.codes)}")
    if not case.unfinished:
        missing = [one for one in case.pings if one not in client.pongs]
        # RFC 6455, 5.5.3: of several pings the last one may be answered alone.
        if missing and client.pongs[-1:] != case.pings[-1:]:
            raise Failure(f"{len(missing)} of {len(case.pings)} pings were not answered")


# Handshakes.

_HANDSHAKE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
_POST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Hub-Lane: a\r\n"
    b"Content-Length: 65\r\n\r\n"
    b'{"messages": [{"role": "user", "content": "Hello"}],"max_tokens":1}'[:65]
)
_GET = b"GET /v1/responses/resp_1?stream=true&starting_after=3 HTTP/1.1\r\nHost: hub\r\n\r\n"
_ENDS = b"GET /v1/nowhere HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n"
"""A request that is answered at once, so that nobody waits for what was sent before it."""


def make_request(random: Random) -> bytes:
    """A bad request, half a handshake, or several requests."""
    good = random.choice((_HANDSHAKE, _HANDSHAKE, _POST, _GET))
    sent = mutate(good, random, random.choice(PIECES) * 20)
    return sent + random.choice((b"", _ENDS, b"\r\n"))


async def attempt_http(port: int, sent: bytes, random: Random) -> None:
    """Send something like HTTP: what comes is HTTP with typed errors. Raises ``Failure``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in [sent] if random.random() < 0.7 else cuts(sent, random):
            writer.write(piece)
        # Half a request waits for its other half; the end of the connection is none.
        with suppress(OSError):
            writer.write_eof()
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
    finally:
        writer.transport.abort()
    judge_http(answer)


def judge_http(answer: bytes) -> None:
    """The answers on a connection are HTTP, and errors among them typed."""
    while answer:
        head, found, rest = answer.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        if not found or not line.startswith(b"HTTP/"):
            raise Failure(f"no HTTP: {answer[:100]!r}")
        status = int(line.split()[1])
        if status in (100, 101):
            answer = b"" if status == 101 else rest
            continue
        if status == 500:
            raise Failure("500")
        fields = dict(one.lower().split(b": ", 1) for one in lines)
        if b"content-length" not in fields:
            return  # a stream, until its reader went away
        length = int(fields[b"content-length"])
        body, answer = rest[:length], rest[length:]
        if status >= 400 and body:
            error = orjson.loads(body)["error"]
            if set(error) != {"message", "type", "param", "code"}:
                raise Failure(f"an untyped error: {body!r}")


class Honest:
    """A connection beside the attack, which has to be served all the while."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._turns = 0

    async def turn(self) -> None:
        """Ask for a response that says nothing, and every tenth time for one that does."""
        self._turns += 1
        create: dict[str, object] = {"type": "response.create", "input": "Hello", "store": False}
        if self._turns % 10:
            create["generate"] = False
        client = self._client
        client.writer.write(frame(1, orjson.dumps(create), mask=os.urandom(4)))
        while True:
            while client.texts:
                kind = orjson.loads(client.texts.pop(0))["type"]
                if kind == "response.completed":
                    return
                if kind in ("error", "response.failed", "response.incomplete"):
                    raise Failure(f"an honest request ended with {kind}")
            if not await client.read():
                raise Failure("an honest connection was closed")


async def attack(
    port: int, cases: int, seed: int, *, http: float = 0.2, found: Callable[[str], None]
) -> dict[str, int]:
    """Run so many cases, a part of them (``http``) before or instead of a handshake, one after the
    other. ``found`` is told of each that failed. Gives how many of each kind were tried."""
    random = Random(seed)
    tried: dict[str, int] = {}
    async with connected(port) as client:
        honest = Honest(client)
        for number in range(cases):
            name = what = ""
            try:
                async with asyncio.timeout(DEADLINE):
                    if random.random() < http:
                        sent = make_request(random)
                        name, what = "a bad request", repr(sent)
                        await attempt_http(port, sent, random)
                    else:
                        case = make_case(random)
                        name, what = case.name, repr(case)
                        await attempt(port, case, random)
                    await honest.turn()
            except (Failure, TimeoutError, ValueError, KeyError, OSError) as error:
                found(f"seed {seed}, case {number}: {error!r}: {what[:2000]}")
            tried[name] = tried.get(name, 0) + 1
    return tried
