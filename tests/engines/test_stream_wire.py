"""What both dialects of model servers' streams have in common, in the smaller one."""

from typing import Any

import orjson
import pytest

from hub.api.requests import Generation, Json, Usage
from hub.engines.base import Sink, Unnoted, notes_of
from hub.engines.stream_wire import MAX_TOKENS, StreamReader, common_body, decode
from hub.engines.text_wire import TextReader
from hub.errors import HubError
from tests.engines.recording import RecordingSink

DONE = b"[DONE]"
STOP = orjson.dumps({"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})


def run(*payloads: bytes) -> list[tuple[Any, ...]]:
    """The sink's calls for a whole stream."""
    sink = RecordingSink()
    reader = TextReader(sink)
    for payload in payloads:
        reader.feed(payload)
    reader.end()
    return sink.calls


def code_of(*payloads: bytes) -> str:
    with pytest.raises(HubError) as raised:
        run(*payloads)
    return raised.value.code


def test_what_a_request_has_in_either_dialect() -> None:
    assert common_body(Generation("ignored", ()), "m") == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    extra: Json = {"temperature": 0.5, "stream": False, "model": "other", "max_tokens": 9}
    generation = Generation("", (), max_tokens=0, stop=("\n",), extra=extra)
    assert common_body(generation, "m") == {
        "temperature": 0.5,
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 0,
        "stop": ["\n"],
    }


def test_a_chunk() -> None:
    assert decode(b'{"a":1}') == {"a": 1}


@pytest.mark.parametrize("payload", [b"null", b"", b" ", b"{}"])
def test_events_that_say_nothing(payload: bytes) -> None:
    assert decode(payload) == {}


@pytest.mark.parametrize("payload", [b"[DONE]", b" [DONE] "])
def test_the_end(payload: bytes) -> None:
    assert decode(payload) is None


@pytest.mark.parametrize(
    "payload", [b"{", b"[DONE", b"\xff", b'"text"', b"[]", b"7", b"true", b"[" * 2000]
)
def test_events_that_are_no_chunks(payload: bytes) -> None:
    with pytest.raises(HubError) as raised:
        decode(payload)
    assert raised.value.code == "upstream_protocol_error"


def test_the_last_usage_counts() -> None:
    first = orjson.dumps({"choices": [], "usage": {"prompt_tokens": 5}})
    last = orjson.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}})
    null = orjson.dumps({"choices": [], "usage": None})
    assert run(STOP, first, last, null) == [("usage", Usage(1, 2)), ("finish", "stop")]


ODD: list[Any] = [None, 7, "x", {}]
ODD += [{"cache_n": odd} for odd in ("4", True, -1, 1.5, MAX_TOKENS)]


@pytest.mark.parametrize(
    ("details", "timings", "cached"),
    [
        (None, {"cache_n": 4, "prompt_n": 5}, 4),
        ({"cached_tokens": 3}, {"cache_n": 4}, 3),
        # What one server calls so may be anything for another.
        *((None, odd, 0) for odd in ODD),
    ],
)
def test_what_was_cached(details: Json | None, timings: Any, cached: int) -> None:
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": details}
    chunk = orjson.dumps({"choices": [], "usage": usage, "timings": timings})
    assert run(STOP, chunk)[0] == ("usage", Usage(9, 1, cached))


@pytest.mark.parametrize(
    "usage",
    [
        *(7, [], {"prompt_tokens": "1"}, {"prompt_tokens": -1}, {"prompt_tokens": 1.5}),
        *({"completion_tokens": True}, {"completion_tokens": MAX_TOKENS}),
        *({"prompt_tokens_details": 7}, {"prompt_tokens_details": {"cached_tokens": "1"}}),
    ],
)
def test_counts_that_are_none(usage: Any) -> None:
    assert code_of(STOP, orjson.dumps({"choices": [], "usage": usage})) == "upstream_protocol_error"


def test_error_events() -> None:
    assert code_of(b'{"error":{"message":"boom","code":500}}') == "upstream_error"
    assert code_of(b'{"object":"error","message":"boom"}') == "upstream_error"
    assert code_of(b'{"error":"slow down","choices":[{}]}') == "upstream_error"


def test_only_choice_0_counts() -> None:
    assert code_of(b'{"choices":[{"index":1,"finish_reason":"stop"}]}') == (
        "upstream_incomplete_stream"
    )
    assert code_of(b'{"choices":[{"index":"0"}]}') == "upstream_protocol_error"


def test_nothing_follows_the_end() -> None:
    reader = TextReader(RecordingSink())
    assert (reader.done, reader.finished) == (False, False)
    reader.feed(STOP)
    assert (reader.done, reader.finished) == (False, True)
    reader.feed(DONE)
    assert (reader.done, reader.finished) == (True, True)
    reader.feed(b"whatever")


def test_a_reader_needs_a_dialect() -> None:
    sink: Sink = RecordingSink()
    with pytest.raises(NotImplementedError):
        StreamReader(sink).feed(STOP)


class Timed(Unnoted):
    """Takes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def mark(self, name: str) -> None:
        self.told.append(("mark", name))

    def pause(self, seconds: float) -> None:
        self.told.append(("pause", seconds))

    def timings(self, prompt: float, predicted: float) -> None:
        self.told.append(("timings", prompt, predicted))


class NotingSink(RecordingSink):
    """A sink that wants to know."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = Timed()


@pytest.mark.parametrize(
    ("timings", "told"),
    [
        ({"prompt_ms": 12, "predicted_ms": 34.5}, [("timings", 12.0, 34.5)]),
        ({"prompt_ms": 12}, []),
        ({"prompt_ms": "12", "predicted_ms": 1}, []),
        ([], []),
        (None, []),
    ],
)
def test_what_a_server_says_of_its_time(timings: object, told: list[object]) -> None:
    """llama.cpp's words. Whatever else goes by this name is nobody's fault."""
    sink = NotingSink()
    reader = TextReader(sink)
    reader.feed(STOP)
    reader.feed(orjson.dumps({"choices": [], "usage": {"prompt_tokens": 1}, "timings": timings}))
    reader.end()
    assert sink.notes.told == told
    assert sink.calls[-1] == ("finish", "stop")


def test_what_is_told_of_an_arrays_answer_holds_for_all() -> None:
    """Those that do not want to know are left out."""
    sinks = [NotingSink(), RecordingSink(), NotingSink()]
    notes = notes_of(*sinks)
    notes.mark("connected")
    notes.pause(1.0)
    notes.timings(2.0, 3.0)
    for sink in (sinks[0], sinks[2]):
        assert isinstance(sink, NotingSink)
        assert sink.notes.told == [("mark", "connected"), ("pause", 1.0), ("timings", 2.0, 3.0)]
