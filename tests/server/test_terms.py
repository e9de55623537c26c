"""On what terms a request waits."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from hub.api.chat import parse_chat
from hub.api.infill import parse_infill
from hub.api.keystrokes import parse_asked, typed
from hub.dispatch.terms import Class, Terms
from hub.errors import HubError
from hub.server.terms import MAX_DEADLINE_MS, MAX_LANE, terms_for, terms_of

ranks = st.sampled_from(Class)


def wrong(headers: Mapping[str, str]) -> HubError:
    """What is wrong with some headers."""
    with pytest.raises(HubError) as caught:
        terms_of(headers, Class.CHAT)
    return caught.value


@given(ranks)
def test_without_headers_a_request_has_its_endpoints_terms(rank: Class) -> None:
    """The class of the endpoint; no tenant, no lane, no patience of its own."""
    assert terms_of({}, rank) == Terms(rank, "", "", None)


@given(ranks, ranks, st.sampled_from([str, str.upper, str.title, " {} ".format]))
def test_a_class_is_named_in_any_case(rank: Class, default: Class, spelt: type[str]) -> None:
    """And wins over the endpoint's."""
    assert terms_of({"X-Hub-Class": spelt(rank.label)}, default).rank is rank


def test_lane_and_deadline_are_taken_over() -> None:
    """The deadline in seconds. Headers are found in any case, as HTTP wants it."""
    headers = CIMultiDict({"x-hub-lane": "editor 1", "x-hub-deadline-ms": "1500"})
    assert terms_of(headers, Class.CHAT) == Terms(Class.CHAT, "", "editor 1", 1.5)


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({"X-Hub-Class": ""}, "X-Hub-Class"),
        ({"X-Hub-Class": "vip"}, "X-Hub-Class"),
        ({"X-Hub-Lane": "x" * (MAX_LANE + 1)}, "X-Hub-Lane"),
        ({"X-Hub-Deadline-Ms": ""}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": "0"}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": "-1"}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": "1.5"}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": "1e3"}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": "soon"}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": "\u0661"}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": str(MAX_DEADLINE_MS + 1)}, "X-Hub-Deadline-Ms"),
        ({"X-Hub-Deadline-Ms": "9" * 5000}, "X-Hub-Deadline-Ms"),
    ],
)
def test_a_wrong_header_is_named(headers: dict[str, str], param: str) -> None:
    """As the parameter at fault, in its own spelling, and in the message."""
    error = wrong(headers)
    assert (error.code, error.param) == ("invalid_value", param)
    assert param in error.message


def test_the_classes_are_told() -> None:
    """Who has named a wrong one need not look for the right ones."""
    assert "completion, chat, background" in wrong({"X-Hub-Class": "vip"}).message


def test_the_bounds_are_within_bounds() -> None:
    """The longest lane and the latest deadline are taken."""
    headers = {"X-Hub-Lane": "x" * MAX_LANE, "X-Hub-Deadline-Ms": str(MAX_DEADLINE_MS)}
    assert terms_of(headers, Class.CHAT).patience == 86_400


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "X-Hub-Class": st.text() | st.sampled_from(["chat", "background"]),
            "X-Hub-Lane": st.text(max_size=200),
            "X-Hub-Deadline-Ms": st.text() | st.integers(-9, 10**9).map(str),
            "Authorization": st.text(st.characters()) | st.just("Bearer \udcff"),
        },
    ),
    ranks,
)
def test_any_headers_are_terms_or_an_error(headers: dict[str, str], rank: Class) -> None:
    """Terms that say what the headers say, or an error that names one that was sent."""
    found: Terms | HubError
    try:
        found = terms_of(headers, rank)
    except HubError as error:
        found = error
    if isinstance(found, HubError):
        assert found.code == "invalid_value"
        assert found.param in headers
        return
    terms = found
    assert terms.lane == headers.get("X-Hub-Lane", "")
    assert (terms.patience is None) == ("X-Hub-Deadline-Ms" not in headers)
    assert terms.patience is None or 0 < terms.patience <= MAX_DEADLINE_MS / 1000
    assert "X-Hub-Class" in headers or terms.rank is rank


keys = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), min_size=8)


@given(keys, keys)
def test_tenants_are_told_apart_by_their_keys(one: str, other: str) -> None:
    """Equal keys are one tenant, and the key itself shows nowhere."""
    first, second = (
        terms_of({"Authorization": f"Bearer {key}"}, Class.CHAT) for key in (one, other)
    )
    assert (first.tenant == second.tenant) == (one == other)
    assert re.fullmatch("[0-9a-f]{16}", first.tenant)
    assert one not in repr(first)


def test_all_without_a_key_are_one_tenant() -> None:
    """Hub asks for no keys; an empty header is none."""
    assert terms_of({}, Class.CHAT).tenant == terms_of({"Authorization": ""}, Class.CHAT).tenant


@pytest.mark.parametrize(
    ("tier", "then"),
    [
        (None, Class.COMPLETION),
        ("default", Class.COMPLETION),
        ("priority", Class.COMPLETION),
        ("flex", Class.BACKGROUND),
    ],
)
def test_a_flexible_request_is_background_work(tier: str | None, then: Class) -> None:
    """Whatever the headers say; nothing else changes its terms."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "service_tier": tier}
    terms = Terms(Class.COMPLETION, "tenant", "lane", 3.0)
    assert terms_for(terms, parse_chat(body)) == Terms(then, "tenant", "lane", 3.0)


@pytest.mark.parametrize(
    ("more", "then"),
    [
        ({}, Class.COMPLETION),
        ({"t_max_predict_ms": 1000}, Class.SPECULATIVE),
        ({"n_predict": 0}, Class.SPECULATIVE),
    ],
)
def test_what_is_asked_ahead_of_time_is_of_the_last_class(
    more: dict[str, int], then: Class
) -> None:
    """Over HTTP and on a lane, whatever the headers say; what is typed after that is not."""
    terms = Terms(Class.COMPLETION, "tenant", "lane", 3.0)
    (request,) = parse_infill({"input_prefix": "a", "input_suffix": "", **more}).requests
    assert terms_for(terms, request).rank is then
    kind = "foreground" if then is Class.COMPLETION else "speculative"
    first = parse_asked({"version": 1, "prefix": "a", "kind": kind})
    assert terms_for(terms, first.request).rank is then
    second = typed(first, {"version": 2, "insert": "b"})
    assert terms_for(terms, second.request).rank is Class.COMPLETION
