"""What an answer's status, kind and bytes mean, however they are cut."""

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.engines.chat_wire import ChunkReader
from hub.engines.relay import ERROR_BODY_TIMEOUT, MAX_BODY, MAX_ERROR_BODY, USAGE_GRACE, Relay
from hub.errors import HubError
from tests.engines.recording import RecordingSink
from tests.engines.scripted import event

SSE = {"content-type": "text/event-stream; charset=utf-8"}
JSON = {"content-type": "application/json"}
STREAM = event({"content": "Hel"}) + event({"content": "lo"}) + event({}, "stop")
WHOLE = orjson.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]})


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


@given(st.lists(st.integers(0, 1000)), st.sampled_from([(SSE, STREAM), (JSON, WHOLE)]))
def test_a_stream_and_a_whole_message_say_the_same(
    places: list[int], answer: tuple[dict[str, str], bytes]
) -> None:
    """A server that ignores "stream" is understood, too."""
    headers, body = answer
    sink = RecordingSink()
    reader = ChunkReader(sink)
    relay = Relay(reader)
    assert relay.head(200, headers) is None
    limits = [relay.feed(piece) for piece in cut(body, places)]
    relay.end()
    reader.end()
    assert sink.said == "Hello"
    assert sink.calls[-1] == ("finish", "stop")
    assert limits[-1] == (USAGE_GRACE if headers is SSE else None)


def test_done_is_enough() -> None:
    """After ``[DONE]`` nothing more is of interest."""
    relay = Relay(ChunkReader(RecordingSink()))
    relay.head(200, SSE)
    relay.feed(STREAM)
    assert not relay.done
    relay.feed(b"data: [DONE]\n\n")
    assert relay.done


@given(st.lists(st.integers(0, 100)))
def test_a_refusal_is_what_its_status_and_body_mean(places: list[int]) -> None:
    """Its body is collected, for a while."""
    relay = Relay(ChunkReader(RecordingSink()))
    assert relay.head(429, {**JSON, "retry-after": "7"}) == ERROR_BODY_TIMEOUT
    for piece in cut(b'{"error": {"message": "too many"}}', places):
        relay.feed(piece)
    with pytest.raises(HubError, match="overloaded") as caught:
        relay.end()
    assert (caught.value.code, caught.value.retry_after) == ("upstream_overloaded", 7.0)


@pytest.mark.parametrize(
    ("status", "most", "code"),
    [(500, MAX_ERROR_BODY, "upstream_error"), (200, MAX_BODY, "upstream_protocol_error")],
)
def test_no_more_is_collected_than_its_bound(status: int, most: int, code: str) -> None:
    """Whoever sends more than that is not read to the end."""
    relay = Relay(ChunkReader(RecordingSink()))
    relay.head(status, JSON)
    relay.feed(b" " * most)
    assert not relay.done
    relay.feed(b" " * 1000)
    assert relay.done
    with pytest.raises(HubError) as caught:
        relay.end()
    assert caught.value.code == code


def test_a_web_page_is_no_answer() -> None:
    with pytest.raises(HubError, match="web page"):
        Relay(ChunkReader(RecordingSink())).head(200, {"content-type": "Text/HTML; a=b"})
