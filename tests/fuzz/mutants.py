"""Bytes that are nearly good: what a good example becomes after a few accidents."""

from collections.abc import Sequence
from copy import deepcopy
from random import Random
from typing import Any

import orjson
from hypothesis import strategies as st

from tests.api.anyjson import changed, paths, values

PIECES = (
    *(b"\0", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\n\n", b" ", b"\t", b":", b",", b";", b"/"),
    *(b'"', b"\\", b"\\u0000", b"\\ud800", b"{", b"}", b"[", b"]", b"[" * 70, b'{"a":' * 70),
    *(b"null", b"true", b"false", b"-1", b"0", b"1e999", b"1.0", b"9" * 25, b"-0.0", b"NaN"),
    *(b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\xe2\x80\xa8"),
    *(b"data: ", b"data:", b"event: error\n", b": ping\n\n", b"data: [DONE]\n\n", b"retry: 1\n"),
    *(b"%00", b"%ff", b"%2f", b"..", b"*", b"#", b"@", b"\x7f", b"\x1b", b"a" * 300),
)
"""What accidents leave behind."""


def mutate(good: bytes, random: Random, other: bytes = b"") -> bytes:
    """A good example after one to four accidents; ``other`` is another one, to be mixed in."""
    data = bytearray(good)
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 1, 2, 4, 16, 64)))
        match random.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << random.randrange(8)
            case 1 if at < len(data):
                data[at] = random.randrange(256)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * random.choice((1, 2, 20))
            case 4:
                data[at:end] = random.choice(PIECES)
            case 5:
                data[at:at] = random.choice(PIECES)
            case 6:
                start = random.randrange(len(other) + 1)
                data[at:end] = other[start : start + random.choice((4, 16, 64))]
            case _:
                del data[at:]
    return bytes(data)


def mutants(goods: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Any bytes, good examples, and what becomes of them."""
    one = st.sampled_from(goods)
    return st.binary(max_size=64) | st.builds(mutate, one, st.randoms(), one) | one


@st.composite
def _changed(draw: st.DrawFn, goods: Sequence[Any]) -> bytes:
    body = deepcopy(draw(st.sampled_from(goods)))
    for _ in range(draw(st.integers(0, 3))):
        places = [*paths(body)]
        if places:
            body = changed(body, draw(st.sampled_from(places)), draw(values))
    return orjson.dumps(body)


def json_mutants(goods: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """JSON of any form, good examples with other values in some places, and their mutants."""
    return (
        _changed([orjson.loads(good) for good in goods]) | values.map(orjson.dumps) | mutants(goods)
    )


def cuts(data: bytes, random: Random) -> list[bytes]:
    """The same bytes in pieces, as a network delivers them."""
    pieces = []
    while data:
        size = random.choice((1, 1, 2, 3, 7, 20, 100, len(data)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces
