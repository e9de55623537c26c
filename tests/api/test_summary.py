"""The content of a compaction item."""

import base64
import re

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.api.summary import content_summary, summary_content


def encoded(value: object) -> str:
    """Any JSON in the encoding of a summary."""
    return "hub1." + base64.urlsafe_b64encode(orjson.dumps(value)).decode()


def spoilt(content: str, place: int, insert: str, remove: int) -> str:
    """A content with something else at one place."""
    place %= len(content) + 1
    return content[:place] + insert + content[place + remove :]


def decoded(content: str) -> str | ValueError:
    """What is made of a content."""
    try:
        return content_summary(content)
    except ValueError as error:
        return error


contents = st.text(max_size=30).map(summary_content)
strings = st.one_of(
    st.text(),
    st.text().map("hub1.".__add__),
    st.builds(spoilt, contents, st.integers(0, 200), st.text(max_size=3), st.integers(0, 3)),
    st.recursive(
        st.none() | st.integers(0, 9) | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["summary", "x"]), inner, max_size=2)
        ),
        max_leaves=4,
    ).map(encoded),
)


@given(st.text())
@example("\x00 \U0001f600 \u2028 \\ \"'")
def test_any_summary_is_given_back_exactly(summary: str) -> None:
    """What was encoded is decoded as it was, and its encoding needs no escaping anywhere."""
    content = summary_content(summary)
    assert content_summary(content) == summary
    assert re.fullmatch(r"hub1\.[A-Za-z0-9_=-]*", content)


@given(strings)
@example("")
@example("hub1.")
@example("hub1.ä")
@example("hub1.\ud800")
@example(summary_content("a") + "\n")
@example(summary_content("a").rstrip("="))
@example(encoded({"summary": 1}))
@example(encoded({"summary": "a", "more": 1}))
@example("hub1." + base64.urlsafe_b64encode(b'{"summary":"\xff"}').decode())
@example("hub1." + base64.urlsafe_b64encode(b"[" * 2000).decode())
def test_any_other_string_is_an_error(content: str) -> None:
    """A string either is the encoding of a summary, or a ``ValueError`` that says what it is."""
    match decoded(content):
        case ValueError() as error:
            assert str(error) in ("another server's compaction", "a damaged compaction")
        case summary:
            assert content == summary_content(summary)


def test_what_another_server_made_is_told_apart() -> None:
    """Who mixes servers up is told so."""
    with pytest.raises(ValueError, match="another server"):
        content_summary("gAAAAABpM0Yj-")
    with pytest.raises(ValueError, match="damaged"):
        content_summary("hub1.gAAAAABpM0Yj-")
