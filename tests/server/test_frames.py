"""What ``frames.py`` writes is what websockets' client reads."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from hub.server.frames import event_frame, text_frame


def read(data: bytes) -> list[bytes]:
    """The messages in ``data``; all of it is whole text frames of a server."""
    client = ClientProtocol(parse_uri("ws://hub.example/"), state=OPEN, max_size=None)
    client.receive_data(data)
    frames = client.events_received()
    assert client.state is OPEN, "the client saw a protocol error"
    messages: list[bytes] = []
    for frame in frames:
        assert isinstance(frame, Frame)
        assert frame.opcode is Opcode.TEXT
        assert frame.fin
        messages.append(bytes(frame.data))
    return messages


SIZES = [0, 1, 125, 126, 127, 65535, 65536, 65537, 1 << 20]


@pytest.mark.parametrize("size", SIZES)
def test_every_length_of_header(size: int) -> None:
    """Payloads of 7, 16 and 64 bit lengths arrive whole, at the edges of each."""
    assert read(text_frame(b"x" * size)) == [b"x" * size]
    tail = min(size, 3)
    assert read(event_frame(b"x" * (size - tail), b"y" * tail)) == [
        b"x" * (size - tail) + b"y" * tail
    ]


@pytest.mark.parametrize(("size", "header"), [(125, 2), (126, 4), (65535, 4), (65536, 10)])
def test_headers_are_as_short_as_they_can_be(size: int, header: int) -> None:
    """RFC 6455, 5.2: the minimal number of bytes MUST be used to encode the length."""
    assert len(text_frame(bytes(size))) == size + header


@given(st.lists(st.tuples(st.booleans(), st.binary(), st.binary()), max_size=10))
def test_frames_in_a_row_are_read_one_by_one(parts: list[tuple[bool, bytes, bytes]]) -> None:
    """Any frames, joined in one write, arrive as the same messages in the same order."""
    frames = [event_frame(a, b) if event else text_frame(a + b) for event, a, b in parts]
    assert read(b"".join(frames)) == [a + b for _, a, b in parts]


@given(st.text(), st.sampled_from([b"}", b',"stream_id":"a"}']))
def test_an_event_is_closed_by_its_tail(text: str, tail: bytes) -> None:
    """An event's JSON without its brace and what closes it are one JSON object."""
    wire = orjson.dumps({"delta": text})[:-1]
    (message,) = read(event_frame(wire, tail))
    assert orjson.loads(message)["delta"] == text
