"""Arrays of prompts: whose event it is, whose end it is, and whose fault."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.requests import Generation, Usage
from hub.engines.arrays import ArrayReader, array_body
from hub.errors import HubError
from tests.engines.members import RecordingMember, asking
from tests.engines.test_text_wire import json_values, mostly

DONE = b"[DONE]"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def chunk(index: Any, text: Any = "", finish: Any = None, **more: Any) -> bytes:
    choice = {"index": index, "text": text, "finish_reason": finish}
    return orjson.dumps({"choices": [choice], **more})


def failed(**more: Any) -> bytes:
    return orjson.dumps({"error": {"message": "boom", "code": 500}, **more})


def run(members: list[RecordingMember], *payloads: bytes) -> list[str]:
    """How the members ended, for a stream that ended after this."""
    feed(members, *payloads)
    return [member.outcome for member in members]


def feed(members: list[RecordingMember], *payloads: bytes) -> ArrayReader:
    reader = ArrayReader(members)
    try:
        for payload in payloads:
            reader.feed(payload)
        reader.end()
    except HubError as error:
        reader.fail(error)
    assert reader.finished
    assert reader.done
    return reader


def said(members: list[RecordingMember]) -> list[str]:
    return [member.sink.said for member in members]


def test_the_request() -> None:
    members = [
        RecordingMember(Generation("ignored", (), prompt=prompt, max_tokens=5, stop=("x",)))
        for prompt in ("a", "", "a")
    ]
    assert array_body(members, "m") == {
        "model": "m",
        "prompt": ["a", "", "a"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "stop": ["x"],
    }


def test_llama_cpps_stream() -> None:
    """Null events first, one choice per chunk, each one's usage in its last chunk, in any order."""
    members = asking("a", "b", "c")
    assert run(
        members,
        *(b"null", b"null"),
        *(chunk(2, "C"), chunk(1, "B"), chunk(0, "A")),
        chunk(2, "", "length", usage=USAGE, timings={"cache_n": 1}),
        *(chunk(1, "b"), chunk(0, "a")),
        chunk(0, "", "stop", usage={"prompt_tokens": 7, "completion_tokens": 8}),
        chunk(1, "", "stop"),
        DONE,
    ) == ["stop", "stop", "length"]
    assert said(members) == ["Aa", "Bb", "C"]
    assert members[2].sink.calls[-2:] == [("usage", Usage(3, 2, 1)), ("finish", "length")]
    assert members[0].sink.calls[-2:] == [("usage", Usage(7, 8)), ("finish", "stop")]
    assert members[1].sink.calls[-2:] == [("text", "b"), ("finish", "stop")]


def test_a_sum_for_all_is_nobodys() -> None:
    """vLLM's usage chunk, and the one of a server that ignores ``stream``."""
    members = asking("a", "b")
    total = orjson.dumps({"choices": [], "usage": USAGE})
    assert run(members, chunk(0, "A", "stop"), chunk(1, "B", "stop"), total, DONE) == ["stop"] * 2
    whole = {
        "choices": [
            {"index": index, "text": text, "finish_reason": "length"}
            for index, text in enumerate("AB")
        ],
        "usage": USAGE,
    }
    others = asking("a", "b")
    assert run(others, orjson.dumps(whole)) == ["length"] * 2
    for member in [*members, *others]:
        assert [call[0] for call in member.sink.calls] == ["text", "finish"]


def test_each_ends_when_it_has_ended() -> None:
    members = asking("a", "b")
    reader = ArrayReader(members)
    reader.feed(chunk(1, "B", "stop"))
    assert ([len(member.ends) for member in members], reader.done) == ([0, 1], False)
    reader.feed(chunk(1, "more"))
    reader.feed(chunk(0, "A", "stop"))
    assert (reader.done, reader.finished) == (True, True)
    reader.feed(b"whatever")
    reader.end()
    assert said(members) == ["A", "B"]


@pytest.mark.parametrize("end", [[], [DONE], [DONE, chunk(0, "", "stop")]])
def test_an_end_without_a_reason_is_none(end: list[bytes]) -> None:
    """Who has its own reason is not touched by it."""
    members = asking("a", "b")
    assert run(members, chunk(0, "A"), chunk(1, "B", "stop"), *end) == [
        "upstream_incomplete_stream",
        "stop",
    ]


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_an_error_with_an_index_is_one_members(where: str) -> None:
    error: Any = {"message": "boom", "code": 500}
    event = {"error": {**error, "index": 1}} if where == "inside" else {"error": error, "index": 1}
    members = asking("a", "b", "c")
    assert run(
        members,
        chunk(1, "B"),
        *(orjson.dumps(event), orjson.dumps(event), chunk(1, "more")),
        *(chunk(0, "A", "stop"), chunk(2, "C", "stop")),
    ) == ["stop", "upstream_error", "stop"]
    assert said(members) == ["A", "B", "C"]


@pytest.mark.parametrize(
    "event",
    [
        failed(),
        *(failed(index=index) for index in (2, -1, True, "0", 0.0)),
        orjson.dumps({"error": "boom"}),
        orjson.dumps({"object": "error", "message": "boom"}),
    ],
)
def test_an_error_without_an_index_is_everybodys(event: bytes) -> None:
    members = asking("a", "b")
    assert run(members, chunk(0, "A", "stop"), chunk(1, "B"), event, chunk(1, "more")) == [
        "stop",
        "upstream_error",
    ]
    assert said(members) == ["A", "B"]


def test_everybody_gets_an_error_of_its_own() -> None:
    members = asking("a", "b")
    reader = ArrayReader(members)
    reader.fail(HubError("upstream_overloaded", "Full.", param="p", retry_after=3.0))
    first, second = (member.ends[0] for member in members)
    assert first is not None
    assert second is not None
    assert first is not second
    for error in (first, second):
        assert (error.code, error.message) == ("upstream_overloaded", "Full.")
        assert (error.param, error.retry_after) == ("p", 3.0)


def test_what_is_wrong_with_one_changes_nothing_for_the_others() -> None:
    members = asking("a", "b", "c", "d")
    assert run(
        members,
        *(chunk(0, 7), chunk(1, "", "abort"), chunk(3, "D", "stop", usage=7)),
        *(chunk(2, "C"), chunk(0, "A"), chunk(2, "c", "stop")),
    ) == [
        "upstream_protocol_error",
        "upstream_incomplete_stream",
        "stop",
        "upstream_protocol_error",
    ]
    assert said(members) == ["", "", "Cc", "D"]


@pytest.mark.parametrize(
    "payload",
    [
        *(chunk(index, "x") for index in (None, 2, -1, "0", True, 0.0)),
        b'{"choices":[{"text":"x"}]}',
        *(b"{", b"[]", b"7", b'{"choices":{"a":1}}', b'{"choices":[7]}'),
    ],
)
def test_what_nobody_can_be_sure_of_fails_all(payload: bytes) -> None:
    members = asking("a", "b")
    assert (
        run(members, chunk(0, "A"), payload, chunk(1, "B", "stop"))
        == ["upstream_protocol_error"] * 2
    )
    assert said(members) == ["A", ""]


def test_what_is_said_for_one_that_has_left_is_dropped() -> None:
    members = asking("a", "b")
    reader = ArrayReader(members)
    reader.feed(chunk(0, "A"))
    members[0].left = True
    reader.feed(chunk(0, "a"))
    assert not members[0].ends
    reader.feed(chunk(0, "", "stop", usage=USAGE))
    assert (members[0].outcome, members[0].sink.said) == ("left", "A")
    reader.feed(chunk(1, "B", "stop"))
    assert members[1].outcome == "stop"


def test_nothing_is_left_to_read_when_all_have_left() -> None:
    members = asking("a", "b", "c")
    reader = ArrayReader(members)
    reader.feed(chunk(2, "C", "stop"))
    members[0].left = True
    reader.feed(chunk(0, "A"))
    assert not reader.done
    members[1].left = True
    reader.feed(chunk(0, "a"))
    assert (reader.done, reader.finished) == (True, False)
    reader.end()
    assert [member.outcome for member in members] == ["left", "left", "stop"]


def test_one_that_leaves_at_its_last_words_hears_no_more() -> None:
    member = RecordingMember(Generation("m", (), prompt="a"), leaves_after=1)
    assert run([member], chunk(0, "A", "stop", usage=USAGE)) == ["left"]


def test_who_has_left_did_not_fail() -> None:
    members = asking("a", "b")
    members[0].left = True
    assert run(members, failed()) == ["left", "upstream_error"]


# Any stream.

indices = mostly(0, 1, 2)
choices = st.fixed_dictionaries(
    {},
    optional={
        "index": indices,
        "text": mostly("x", "y", "", None),
        "finish_reason": mostly("stop", "abort", None, None),
    },
)
events = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(choices | json_values, max_size=3) | json_values,
        "usage": mostly(USAGE, {"completion_tokens": -1}, None),
        "error": mostly(None, None, None, {"message": "boom", "index": 1}),
        "index": indices,
        "object": mostly("text_completion", "error"),
    },
)
payloads = events.map(orjson.dumps) | json_values.map(orjson.dumps) | st.just(DONE)


@given(
    st.lists(payloads | st.binary(max_size=8), max_size=8),
    st.lists(st.none() | st.integers(0, 8), min_size=3, max_size=3),
)
def test_any_stream_ends_every_member_once(stream: list[bytes], leaving: list[int | None]) -> None:
    """The members check that nothing is said to them after their end, or after they have left."""
    members = asking("a", "b", "c")
    reader = ArrayReader(members)
    try:
        for turn, payload in enumerate(stream):
            for member, at in zip(members, leaving, strict=True):
                member.left = member.left or at == turn
            reader.feed(payload)
        reader.end()
    except HubError as error:
        reader.fail(error)
    for member in members:
        (end,) = member.ends
        assert member.left or member.sink.ended is (end is None)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[list[tuple[int, str]], list[str]]:
    """Pieces of three texts in any order, and the texts."""
    pieces = draw(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=3)), max_size=30))
    return pieces, ["".join(text for at, text in pieces if at == index) for index in range(3)]


@given(interleaved(), st.integers(1, 4))
def test_each_gets_its_own_text_in_order(
    said_to: tuple[list[tuple[int, str]], list[str]], size: int
) -> None:
    """However the server interleaves them, and however many go into one event."""
    pieces, texts = said_to
    choices = [{"index": index, "text": text} for index, text in pieces]
    choices += [{"index": index, "text": "", "finish_reason": "stop"} for index in (1, 2, 0)]
    members = asking("a", "b", "c")
    groups = [choices[at : at + size] for at in range(0, len(choices), size)]
    assert run(members, *(orjson.dumps({"choices": group}) for group in groups)) == ["stop"] * 3
    assert said(members) == texts
