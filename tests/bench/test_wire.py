"""The readers of HTTP and WebSocket, with the bytes cut anywhere."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from hub.bench import wire
from hub.bench.wire import FrameReader, HttpReader, RequestReader, WireError


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The pieces of some bytes, cut at these places."""
    ends = sorted({place % (len(data) + 1) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(ends)]


places = st.lists(st.integers(0, 10**6), max_size=30)
bodies = st.lists(st.binary(min_size=1, max_size=400), max_size=12)


def chunked(pieces: Sequence[bytes], *, extension: bytes = b"") -> bytes:
    coded = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return coded + b"0\r\n\r\n"


def read(reader: HttpReader, pieces: Sequence[bytes]) -> bytes:
    return b"".join([reader.feed(piece) for piece in pieces])


@given(bodies, places, st.sampled_from([b"", b";name=value"]))
def test_a_chunked_body_is_read_however_it_is_cut(
    pieces: list[bytes], places: list[int], extension: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nX: y\r\n\r\n"
    data = head + chunked(pieces, extension=extension)
    reader = HttpReader()
    assert read(reader, cut(data, places)) == b"".join(pieces)
    assert reader.done
    assert reader.status == 200
    assert reader.headers[b"x"] == b"y"
    assert reader.keeps_alive


@given(st.binary(max_size=500), places)
def test_a_body_with_a_length_is_read_however_it_is_cut(body: bytes, places: list[int]) -> None:
    data = b"POST /v1 HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    reader = RequestReader()
    assert read(reader, cut(data, places)) == body
    assert reader.done
    assert (reader.method, reader.path) == (b"POST", b"/v1")
    reader.reset()
    reader.feed(b"GET /")
    assert not reader.headed


@given(st.binary(max_size=500), places)
def test_a_body_without_a_length_ends_with_the_connection(body: bytes, places: list[int]) -> None:
    reader = HttpReader()
    assert read(reader, cut(b"HTTP/1.1 200 OK\r\n\r\n" + body, places)) == body
    assert not reader.done
    assert not reader.keeps_alive
    reader.feed_eof()
    assert reader.done


def test_a_reader_reads_one_message_after_the_other() -> None:
    reader = HttpReader()
    for number in range(3):
        assert reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
        assert reader.done
        reader.reset()
    continued = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert reader.feed(continued + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") == b""
    assert reader.done
    assert reader.status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 70_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 2,
        b"nonsense\r\n\r\n",
    ],
)
@given(places=places)
def test_what_is_no_http_is_refused(data: bytes, places: list[int]) -> None:
    with pytest.raises(WireError):  # noqa: PT012 - whichever piece it is
        read(HttpReader(), cut(data, places))
        raise AssertionError("it was read")


def test_an_end_in_the_middle_of_a_message_is_an_error() -> None:
    for data in (
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
    ):
        reader = HttpReader()
        reader.feed(data)
        with pytest.raises(WireError):
            reader.feed_eof()


def server_frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    """A frame as the websockets library writes it."""
    return Frame(opcode, data, fin=fin).serialize(mask=False)


texts = st.one_of(
    st.text(max_size=80), st.integers(60_000, 70_000).map("é".__mul__), st.just("x" * 126)
)


@given(
    st.lists(st.tuples(texts, st.integers(1, 4), st.booleans()), max_size=8),
    places,
)
def test_frames_are_read_however_they_are_cut(
    messages: list[tuple[str, int, bool]], places: list[int]
) -> None:
    data, expected = b"", []
    for text, fragments, pinged in messages:
        payload = text.encode()
        size = len(payload) // fragments + 1
        pieces = [payload[at : at + size] for at in range(0, max(1, len(payload)), size)]
        for number, piece in enumerate(pieces):
            opcode = Opcode.CONT if number else Opcode.TEXT
            data += server_frame(opcode, piece, fin=number == len(pieces) - 1)
            if pinged and number < len(pieces) - 1:
                data += server_frame(Opcode.PING, b"between")
                expected.append((wire.PING, b"between"))
        expected.append((wire.TEXT, payload))
    data += server_frame(Opcode.PONG, b"") + server_frame(Opcode.CLOSE, b"\x03\xe8bye")
    expected += [(wire.PONG, b""), (wire.CLOSE, b"\x03\xe8bye")]
    reader = FrameReader()
    assert [one for piece in cut(data, places) for one in reader.feed(piece)] == expected


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x81mask" + bytes([ord("x") ^ ord("m")]),
        Frame(Opcode.BINARY, b"x").serialize(mask=False),
        Frame(Opcode.CONT, b"x").serialize(mask=False),
        b"\xc1\x01x",
        Frame(Opcode.TEXT, b"x", fin=False).serialize(mask=False) * 2,
        b"\x09\x00",
        b"\x89\x7e\x01\x00" + b"x" * 256,
        b"\x81\x7f" + (1 << 40).to_bytes(8),
    ],
)
def test_frames_that_no_server_may_send_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        FrameReader().feed(data)


def test_a_text_in_endless_fragments_is_refused() -> None:
    reader = FrameReader()
    reader.feed(server_frame(Opcode.TEXT, b"x" * (40 << 20), fin=False))
    with pytest.raises(WireError, match="without an end"):
        reader.feed(server_frame(Opcode.CONT, b"x" * (40 << 20), fin=False))


@given(st.one_of(st.binary(max_size=300), st.integers(65_530, 65_545).map(bytes)))
def test_client_frames_are_masked_and_read_back(payload: bytes) -> None:
    data = bytearray(wire.client_frame(wire.TEXT, payload))
    assert data[1] & 0x80
    # The mask of zeros taken out, it is a server's frame.
    del data[-len(payload) - 4 : len(data) - len(payload)]
    data[1] &= 0x7F
    assert FrameReader().feed(bytes(data)) == [(wire.TEXT, payload)]


SWITCHING = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


def test_the_handshake_is_checked() -> None:
    asked = wire.upgrade("h:1", "/p", "secret")
    assert asked.startswith(b"GET /p HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer secret\r\n")
    for answer, says in (
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
        (SWITCHING + b"Sec-WebSocket-Accept: x\r\n\r\n", "did not understand"),
    ):
        reader = HttpReader()
        reader.feed(answer)
        with pytest.raises(WireError, match=says):
            wire.check_upgrade(reader)


def test_what_follows_the_answer_that_opens_a_websocket_is_kept() -> None:
    reader = HttpReader()
    assert reader.feed(SWITCHING + b"\r\n\x81\x01x") == b""
    assert reader.done
    assert reader.rest == b"\x81\x01x"


def test_a_get_has_no_body() -> None:
    reader = RequestReader()
    assert reader.feed(wire.get("h:1", "/p", "secret")) == b""
    assert (reader.done, reader.method, reader.path) == (True, b"GET", b"/p")
    assert reader.headers[b"authorization"] == b"Bearer secret"


def test_a_post_says_how_long_its_body_is() -> None:
    reader = RequestReader()
    assert reader.feed(wire.post("h:1", "/p", b"{}", "secret")) == b"{}"
    assert reader.done
    assert reader.headers[b"authorization"] == b"Bearer secret"
