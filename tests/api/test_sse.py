"""Server-sent events: the parser's rules by example, then by invariants."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.sse import DONE, PING, SseParser, encode
from hub.errors import HubError


def parse(stream: bytes, *, limit: int = 1 << 20) -> list[bytes]:
    return SseParser(limit).feed(stream)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"data: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b\n\ndata: c\n\n", [b"a", b"b", b"c"]),
        # Line ends.
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\ndata: b\n\r\n", [b"a", b"b"]),
        (b"data: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        # One optional space.
        (b"data:a\n\n", [b"a"]),
        (b"data:  a \n\n", [b" a "]),
        (b"data:\n\n", [b""]),
        (b"data: \n\n", [b""]),
        (b"data\n\n", [b""]),
        # Lines of one event.
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\ndata\n\n", [b"\n"]),
        (b"data: a:b: c\n\n", [b"a:b: c"]),
        # What is no data.
        (b": ping\n\n", []),
        (b":\n\ndata: a\n\n", [b"a"]),
        (b"data: a\n\n: ping\n\ndata: b\n\n", [b"a", b"b"]),
        (b"event: e\nid: 1\nretry: 5\ndata: a\n\n", [b"a"]),
        (b"data: a\nevent: e\n\n", [b"a"]),
        (b"event: e\n\n", []),
        (b"Data: a\n\ndatum: b\n\n data: c\n\n", []),
        # A byte order mark counts at the very start only.
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        # What the end cuts off is no event.
        (b"data: a\n\ndata: b\n", [b"a"]),
        (b"data: a\n\ndata: b", [b"a"]),
    ],
)
def test_events(stream: bytes, events: list[bytes]) -> None:
    assert parse(stream) == events
    # The same, byte by byte.
    parser = SseParser()
    assert [e for i in range(len(stream)) for e in parser.feed(stream[i : i + 1])] == events


@pytest.mark.parametrize(
    ("stream", "unfinished"),
    [
        (b"", False),
        (b"data: a\n\n", False),
        (b"data: a\n\n: ping\n", False),
        (b"data: a\r\n\r", False),
        (b"data: a\n", True),
        (b"data: a", True),
        (b"d", True),
    ],
)
def test_close_tells_of_an_unfinished_event(stream: bytes, unfinished: bool) -> None:
    parser = SseParser()
    parser.feed(stream)
    assert parser.close() is unfinished


def test_a_crlf_cut_in_two_is_one_line_end() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"") == []
    assert parser.feed(b"\ndata: b\r") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\r\n") == [b"a\nb"]


def test_a_cr_is_a_line_end_without_waiting_for_what_follows() -> None:
    assert SseParser().feed(b"data: a\r\r") == [b"a"]


def test_the_fast_way_follows_a_cr() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\r\r") == [b"a"]
    assert parser.feed(b"data: b\n\n") == [b"b"]
    assert parser.feed(b"data: c\n\n") == [b"c"]


@pytest.mark.parametrize(
    "stream",
    [
        b"data: 12345\n\n",  # 11 bytes
        b"data: 123",
        b"data: 1\ndata: 2\n\n",
        b"data\ndata\ndata\ndata\ndata\ndata\ndata\n\n",
    ],
)
def test_an_event_of_the_limit_passes(stream: bytes) -> None:
    parse(stream, limit=11)


@pytest.mark.parametrize(
    "stream",
    [
        b"data: 123456\n\n",
        b"data: 123456",
        b"data: 12345\ndata: 12345\n\n",
        b": 123456789012",
        b"data\ndata\ndata\ndata\ndata\ndata\ndata\ndata\ndata\n\n",
    ],
)
def test_an_event_beyond_the_limit_is_a_typed_error(stream: bytes) -> None:
    with pytest.raises(HubError) as raised:
        parse(stream, limit=11)
    assert raised.value.code == "upstream_protocol_error"


def test_the_limit_is_on_one_event_not_on_a_chunk() -> None:
    assert parse(b"data: 1234\n\n" * 9, limit=11) == [b"1234"] * 9


def test_encode_closes_the_object() -> None:
    block = encode("response.created", b'{"type":"response.created"')
    assert block == b'event: response.created\ndata: {"type":"response.created"}\n\n'
    assert parse(block) == [b'{"type":"response.created"}']


def test_constants() -> None:
    assert parse(DONE + PING) == [b"[DONE]"]


pieces = st.sampled_from(
    [
        *(b"data: ", b"data:", b"data", b"event: x", b": c", b"\xef\xbb\xbf", b'{"a":1}', b" "),
        *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"data: {}\n\n", b"data: a\n\ndata: b\n\n"),
    ]
)
streams = st.lists(pieces | st.binary(max_size=3), max_size=24).map(b"".join)


def outcome(chunks: list[bytes], limit: int) -> tuple[list[bytes], bool] | str:
    """Everything that can be seen of a parser's run: events and ``close``, or the error."""
    parser = SseParser(limit)
    events: list[bytes] = []
    try:
        for chunk in chunks:
            events += parser.feed(chunk)
    except HubError as error:
        return error.code
    return events, parser.close()


@given(stream=streams, cuts=st.lists(st.integers(0, 120)), limit=st.integers(1, 40))
def test_where_chunks_are_cut_makes_no_difference(
    stream: bytes, cuts: list[int], limit: int
) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    assert outcome(chunks, limit) == outcome([stream], limit)


def by_the_book(stream: bytes) -> list[bytes]:
    """The format's rules, written down naively: the parser must agree."""
    lines = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines.split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value[1:] if value[:1] == b" " else value)
        elif not line and data:
            events.append(b"\n".join(data))
            data = []
    return events


@given(stream=streams)
def test_the_parser_agrees_with_the_rules(stream: bytes) -> None:
    assert parse(stream) == by_the_book(stream)


@given(payloads=st.lists(st.binary(max_size=20).filter(lambda p: not {10, 13} & set(p))))
def test_what_is_framed_comes_back(payloads: list[bytes]) -> None:
    assert parse(b"".join(b"data: %b\n\n" % payload for payload in payloads)) == payloads
