"""Filling in the middle on the wire: what servers are asked, what their streams tell the sink."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.fim import BREAK, FAMILIES
from hub.api.requests import ContextFile, Generation, Json, Usage
from hub.api.sse import SseParser
from hub.engines.infill_wire import (
    FilledReader,
    InfillReader,
    infill_body,
    native_body,
    rendered_body,
)
from hub.errors import HubError
from tests.engines.recording import RecordingSink

GAP = Generation(
    "ignored",
    (),
    prompt="import os\n\ndef add(a, b):\n    return ",
    suffix="\n\n\ndef mul",
    files=(ContextFile("a.py", "A = 1\n"),),
    max_tokens=128,
    stop=("\n\n",),
    extra={
        "temperature": 0.1,
        "top_k": 40,
        "n_indent": 4,
        "samplers": ["top_k", "top_p", "infill"],
        "t_max_predict_ms": 250,
        "id_slot": 0,
        "n_cmpl": 3,
        "response_fields": ["timings/prompt_n"],
        "cache_prompt": False,
        "stream": False,
    },
)


def test_what_llama_cpp_is_asked() -> None:
    """Everything that the user wrote goes where markers are mere text; llama.cpp's own parameters
    go through, but what hub needs to be so is so, and nobody chooses a slot."""
    assert infill_body(GAP, "m") == {
        "model": "m",
        "input_prefix": "import os\n\ndef add(a, b):\n    return ",
        "prompt": "",
        "input_suffix": "\n\n\ndef mul",
        "input_extra": [{"filename": "a.py", "text": "A = 1\n"}],
        "n_predict": 128,
        "stop": ["\n\n"],
        "temperature": 0.1,
        "top_k": 40,
        "n_indent": 4,
        "samplers": ["top_k", "top_p", "infill"],
        "t_max_predict_ms": 250,
        "cache_prompt": True,
        "response_fields": [
            *("content", "stop", "stop_type", "stopped_limit", "tokens_predicted"),
            *("tokens_evaluated", "timings"),
        ],
        "stream": True,
    }


def test_no_limit_is_llama_cpps_to_choose() -> None:
    """Whatever else the client has said."""
    body = infill_body(Generation("", (), prompt="", suffix="", extra={"n_predict": 7}), "m")
    assert body.keys() & {"n_predict", "max_tokens"} == set()
    assert (body["input_prefix"], body["input_suffix"], body["stop"]) == ("", "", [])


def test_what_a_server_without_suffix_is_asked() -> None:
    """A prompt with the family's markers; its stop strings after the client's, four in all; no
    parameters that only llama.cpp's own endpoint knows."""
    assert rendered_body(GAP, "m", FAMILIES["qwen-coder"]) == {
        "model": "m",
        "prompt": "<|repo_name|>myproject\n<|file_sep|>a.py\nA = 1\n<|file_sep|>filename\n"
        "<|fim_prefix|>import os\n\ndef add(a, b):\n    return <|fim_suffix|>\n\n\ndef mul"
        "<|fim_middle|>",
        "max_tokens": 128,
        "stop": ["\n\n", "<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>"],
        "temperature": 0.1,
        "top_k": 40,
        "cache_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_markers_of_the_users_are_text() -> None:
    """Rendering breaks them; llama.cpp's own endpoint needs them as they are."""
    generation = Generation("", (), prompt="<fim_middle>", suffix="")
    prompt = rendered_body(generation, "m", FAMILIES["starcoder"])["prompt"]
    assert prompt == f"<fim_prefix><{BREAK}fim_middle><fim_suffix><fim_middle>"
    assert infill_body(generation, "m")["input_prefix"] == "<fim_middle>"


def test_what_a_server_that_takes_suffix_is_asked() -> None:
    assert native_body(GAP, "m") == {
        "model": "m",
        "prompt": "import os\n\ndef add(a, b):\n    return ",
        "suffix": "\n\n\ndef mul",
        "max_tokens": 128,
        "stop": ["\n\n"],
        "temperature": 0.1,
        "top_k": 40,
        "cache_prompt": False,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


# The answer to a prompt with markers.


class Noting(RecordingSink):
    """A sink that wants to know the server's own times."""

    def __init__(self) -> None:
        super().__init__()
        self.notes = self
        self.times: list[tuple[float, float]] = []

    def mark(self, name: str) -> None: ...
    def pause(self, seconds: float) -> None: ...
    def timings(self, prompt: float, predicted: float) -> None:
        self.times.append((prompt, predicted))


def chunk(text: str, finish: str | None = None, **more: Any) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish}], **more})


@given(st.data())
def test_no_answer_holds_a_marker(data: st.DataObject) -> None:
    """It ends before the first, however the text is cut, and nothing is read after that; one
    without markers is passed on whole."""
    family = FAMILIES["qwen-coder"]
    parts = st.sampled_from([*family.markers, "x", "<|", "<|file", "\n", "a + b"])
    text = "".join(data.draw(st.lists(parts, max_size=6)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    sink = RecordingSink()
    reader = FilledReader(sink, family)
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        reader.feed(chunk(text[start:end]))
    reader.feed(chunk("", "length", usage={"prompt_tokens": 1}))
    marks = [at for marker in family.markers if (at := text.find(marker)) >= 0]
    assert reader.done is bool(marks)
    reader.end()
    assert sink.said == (text[: min(marks)] if marks else text)
    assert ("finish", "stop" if marks else "length") in sink.calls
    assert (("usage", Usage(1)) in sink.calls) is not bool(marks)


def test_its_servers_times_are_told() -> None:
    """They go to the ledger of the one who asked."""
    sink = Noting()
    reader = FilledReader(sink, FAMILIES["glm"])
    timings = {"prompt_ms": 1.5, "predicted_ms": 2.5}
    reader.feed(chunk("x", "stop", usage={"prompt_tokens": 1}, timings=timings))
    reader.end()
    assert sink.times == [(1.5, 2.5)]


# The stream, as llama-server sends it.

PIECES = (
    b'{"index":0,"content":" a","tokens":[496],"stop":false,"id_slot":-1,"tokens_predicted":1,'
    b'"tokens_evaluated":3}',
    b'{"index":0,"content":" time","tokens":[990],"stop":false,"id_slot":-1,"tokens_predicted":2,'
    b'"tokens_evaluated":3}',
)
LAST = (
    b'{"content":"","stop":true,"stop_type":"limit","tokens_predicted":2,"tokens_evaluated":3,'
    b'"timings":{"cache_n":1,"prompt_n":2,"prompt_ms":43.844,"prompt_per_token_ms":14.6,'
    b'"predicted_n":2,"predicted_ms":36.844}}'
)
CALLS = [("text", " a"), ("text", " time"), ("usage", Usage(3, 2, 1)), ("finish", "length")]


def run(*payloads: bytes) -> list[tuple[Any, ...]]:
    """The sink's calls for a whole stream."""
    sink = RecordingSink()
    reader = InfillReader(sink)
    for payload in payloads:
        reader.feed(payload)
    reader.end()
    return sink.calls


def code_of(*payloads: bytes) -> str:
    with pytest.raises(HubError) as raised:
        run(*payloads)
    return raised.value.code


def test_llama_servers_stream() -> None:
    """No [DONE] follows the last event, which has the counts, what was cached and the times."""
    assert run(*PIECES, LAST) == CALLS
    sink = Noting()
    reader = InfillReader(sink)
    reader.feed(LAST)
    assert (reader.done, reader.finished) == (True, True)
    reader.feed(PIECES[0])
    reader.end()
    assert sink.times == [(43.844, 36.844)]
    assert sink.said == ""


def last(**fields: Any) -> bytes:
    return orjson.dumps({"content": "", "stop": True, **fields})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"stop_type": "eos"}, "stop"),
        ({"stop_type": "word", "stopping_word": "\n"}, "stop"),
        ({"stop_type": "none"}, "stop"),
        ({"stop_type": "limit"}, "length"),
        ({"stopped_eos": True, "stopped_limit": False}, "stop"),
        ({"stopped_limit": True}, "length"),
        ({}, "stop"),
    ],
)
def test_why_it_stopped(fields: Json, reason: str) -> None:
    """In the words of llama.cpp now, and of its earlier versions."""
    assert run(last(**fields)) == [("usage", Usage()), ("finish", reason)]


def test_a_server_that_ignores_stream() -> None:
    assert run(orjson.dumps({"content": "x", "stop": True, "tokens_predicted": 1})) == [
        ("text", "x"),
        ("usage", Usage(0, 1)),
        ("finish", "stop"),
    ]


@pytest.mark.parametrize("payload", [b"null", b"", b"{}", b'{"content":null}', b'{"content":""}'])
def test_what_says_nothing(payload: bytes) -> None:
    assert run(payload, PIECES[0], payload, last()) == [
        ("text", " a"),
        ("usage", Usage()),
        ("finish", "stop"),
    ]


def test_ends_that_are_none() -> None:
    """A connection that just ends is no end, with text or without."""
    assert code_of() == "upstream_incomplete_stream"
    assert code_of(*PIECES) == "upstream_incomplete_stream"


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b'{"error":{"code":500,"message":"boom","type":"server_error"}}', "upstream_error"),
        (b'{"content":7}', "upstream_protocol_error"),
        (b'{"content":["x"]}', "upstream_protocol_error"),
        (b'{"stop":true,"tokens_predicted":-1}', "upstream_protocol_error"),
        (b'{"stop":true,"tokens_evaluated":"3"}', "upstream_protocol_error"),
        (b"[]", "upstream_protocol_error"),
        (b"{", "upstream_protocol_error"),
    ],
)
def test_errors_and_lies_are_typed(payload: bytes, code: str) -> None:
    assert code_of(PIECES[0], payload, last()) == code


STREAM = b"".join(b"data: " + payload + b"\n\n" for payload in (*PIECES, LAST))


@settings(max_examples=50)
@given(st.lists(st.integers(0, len(STREAM)), max_size=6).map(sorted))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    """The calls are the same."""
    sink, parser = RecordingSink(), SseParser()
    reader = InfillReader(sink)
    for start, end in zip([0, *cuts], [*cuts, len(STREAM)], strict=True):
        for payload in parser.feed(STREAM[start:end]):
            reader.feed(payload)
    reader.end()
    assert sink.calls == CALLS


values = st.none() | st.booleans() | st.integers(-2, 2**53) | st.text(max_size=3) | st.just([7])
events = st.dictionaries(
    st.sampled_from(
        [
            *("content", "stop", "stop_type", "stopped_limit", "tokens_predicted"),
            *("tokens_evaluated", "timings", "error"),
        ]
    ),
    values,
).map(orjson.dumps)


@given(st.lists(events | st.binary(max_size=8) | st.just(LAST), max_size=5))
def test_any_stream_gives_calls_or_a_typed_error(stream: list[bytes]) -> None:
    sink = RecordingSink()
    reader = InfillReader(sink)
    failed = False
    try:
        for payload in stream:
            reader.feed(payload)
        reader.end()
    except HubError:
        failed = True
    assert failed is not sink.ended
