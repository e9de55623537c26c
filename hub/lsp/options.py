"""What an editor can set: the ``initializationOptions`` of ``hub lsp``. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_TOKENS = 128
"""What a completion has at most, unless the editor says otherwise."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to complete. What is ``None`` hub decides."""

    url: str | None = None
    """``url``: hub's address, instead of that of the command line."""
    model: str | None = None
    """``model``"""
    max_tokens: int | None = MAX_TOKENS
    """``maxTokens``"""
    budget_ms: int | None = None
    """``budgetMs``: after so many milliseconds of text the next line end ends it."""
    debounce: float = 0.0
    """``debounceMs``, here in seconds: how long no newer request may come before hub is asked.
    hub stops what is not wanted any more by itself, so that waiting only costs time."""


def parse(given: Any) -> tuple[Options, list[str]]:
    """The options, and what is wrong with those that were left out, in sentences."""
    if given is None:
        return Options(), []
    if not isinstance(given, Mapping):
        return Options(), ["initializationOptions is not an object."]
    fields: dict[str, Any] = {}
    wrong = []
    for key, value in given.items():
        match key, value:
            case _, None:
                pass
            case (("url" | "model"), str()):
                fields[key] = value or None
            case (("maxTokens" | "budgetMs" | "debounceMs"), bool()):
                wrong.append(f"{key} is not a number.")
            case "maxTokens", int() if value > 0:
                fields["max_tokens"] = value
            case "budgetMs", int() if value > 0:
                fields["budget_ms"] = value
            case "debounceMs", (int() | float()) if 0 <= value <= 10_000:
                fields["debounce"] = value / 1000
            case (("url" | "model"), _):
                wrong.append(f"{key} is not a text.")
            case (("maxTokens" | "budgetMs" | "debounceMs"), _):
                wrong.append(f"{key} is not a number that makes sense: {value!r}.")
            case _:
                wrong.append(f"There is no option {key}.")
    return Options(**fields), wrong
