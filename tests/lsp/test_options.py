"""What an editor can set."""

from typing import Any

import pytest

from hub.lsp.options import MAX_TOKENS, Options, parse


@pytest.mark.parametrize("given", [None, {}, {"url": None, "model": ""}])
def test_nothing_has_to_be_set(given: Any) -> None:
    assert parse(given) == (Options(max_tokens=MAX_TOKENS), [])


def test_all_that_can_be_set() -> None:
    given = {
        "url": "ws://h",
        "model": "m",
        "maxTokens": 9,
        "budgetMs": 250,
        "debounceMs": 75,
    }
    assert parse(given) == (Options("ws://h", "m", 9, 250, 0.075), [])


@pytest.mark.parametrize(
    "given",
    [
        [],
        {"url": 1},
        {"model": []},
        {"maxTokens": 0},
        {"maxTokens": True},
        {"maxTokens": "9"},
        {"budgetMs": -1},
        {"debounceMs": -1},
        {"debounceMs": 1e9},
        {"debounce": 1},
    ],
)
def test_what_is_wrong_is_told_and_left_out(given: Any) -> None:
    options, wrong = parse(given)
    assert (options, len(wrong)) == (Options(), 1)
    assert all(key in wrong[0] for key in given)
