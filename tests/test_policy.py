"""What the policy makes of requests."""

from collections.abc import Callable
from typing import Any

import pytest

from hub.api.chat import parse_chat
from hub.api.completions import parse_completions
from hub.api.infill import parse_infill
from hub.api.keystrokes import parse_asked
from hub.api.requests import Request
from hub.api.responses import parse_create
from hub.errors import HubError
from hub.policy import Policy

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}]}
INFILL: dict[str, Any] = {"input_prefix": "a", "input_suffix": "b"}
LANE: dict[str, Any] = {"stream_id": "a", "version": 1, "prefix": "a"}


def _infill(body: Any) -> Request:
    return parse_infill(body).requests[0]


def _raw(body: Any) -> Request:
    return parse_completions(body)[0]


def _lane(body: Any) -> Request:
    return parse_asked(body).request


NAMES: list[tuple[Callable[[Any], Request], dict[str, Any], str]] = [
    (parse_create, {"input": "Hi"}, "max_output_tokens"),
    (parse_chat, CHAT, "max_tokens"),
    (parse_chat, CHAT, "max_completion_tokens"),
    (_raw, {"prompt": "Hi"}, "max_tokens"),
    (_infill, INFILL, "n_predict"),
    (_infill, INFILL, "max_tokens"),
    (_lane, LANE, "max_tokens"),
]


@pytest.mark.parametrize(("parse", "body", "name"), NAMES)
def test_who_asks_for_more_tokens_than_there_may_be_is_refused_by_the_parameters_name(
    parse: Callable[[Any], Request], body: dict[str, Any], name: str
) -> None:
    policy = Policy(output_tokens=64)
    exact = parse({**body, name: 64})
    assert policy.within(exact) is exact
    with pytest.raises(HubError, match="at most 64, but it is 65") as caught:
        policy.within(parse({**body, name: 65}))
    assert (caught.value.code, caught.value.param) == ("invalid_value", name)


@pytest.mark.parametrize(("parse", "body", "name"), NAMES)
def test_who_names_no_number_gets_the_most_there_may_be(
    parse: Callable[[Any], Request], body: dict[str, Any], name: str
) -> None:
    assert Policy(output_tokens=64).within(parse(body)).generation.max_tokens == 64


def test_what_was_accepted_before_is_clamped_and_never_refused() -> None:
    """It may come from the store, and the setting may have changed."""
    before = parse_create({"input": "Hi", "max_output_tokens": 100})
    assert Policy(output_tokens=64).clamp(before).generation.max_tokens == 64


def test_without_a_limit_requests_are_left_alone() -> None:
    request = parse_create({"input": "Hi", "max_output_tokens": 10**9})
    assert Policy().within(request) is request
