"""The small languages inside some settings: an upstream with its particulars, a class's rule, how
a model fills in the middle. Pure.

http://gpu1:8000/v1#name=big&window=8&tokens=100000&gather=50&arrays&continues
background.flush_interval=50
my-finetune-*=qwen-coder
"""

import re
from dataclasses import dataclass
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

from hub.api.fim import Way, parse_way
from hub.dispatch.terms import Class


@dataclass(frozen=True, slots=True)
class UpstreamSpec:
    """One upstream and what is particular to it."""

    url: str
    window: int | None = None
    """The most requests that it holds; a batch's size with ``gather``."""
    tokens: int | None = None
    """The most tokens that its requests may come to hold."""
    gather: float | None = None
    """Seconds; it cannot batch by itself: what goes there is gathered first."""
    arrays: bool = False
    """Equal raw completions of the background class go there as one request."""
    continues: bool = False
    """It can go on with an assistant's unfinished text."""
    name: str | None = None
    """What clients know it by: its address is none of their business."""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGITS = re.compile(r"[0-9]{1,15}")


def parse_upstream(text: str) -> UpstreamSpec:
    """Raises ``ValueError`` that says what is wrong."""
    url, _, options = text.partition("#")
    _check_url(url)
    found: dict[str, Any] = {}
    for option in filter(None, options.split("&")):
        name, given, value = option.partition("=")
        if name in ("window", "tokens") and _DIGITS.fullmatch(value) and int(value):
            found[name] = int(value)
        elif name == "gather" and (ms := _number(value)) is not None:
            found[name] = ms / 1000
        elif name in ("arrays", "continues") and not given:
            found[name] = True
        elif name == "name" and _NAME.fullmatch(value):
            found[name] = value
        else:
            raise ValueError(
                f"'{option}' is none of name=LABEL, window=N, tokens=N, gather=MS, arrays and "
                "continues"
            )
    return UpstreamSpec(url, **found)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"'{url}' is not an http:// or https:// URL")
    if parts.username is not None or parts.query:
        raise ValueError(f"'{parts.hostname}': the URL of an upstream has no user and no query")


_RULES: dict[str, type] = {
    "batch_size": int,
    "flush_interval": float,
    "queue_size": int,
    "tenant_queue": int,
    "ceiling": float,
    "patience": float,
    "age": float,
}


def parse_rule(text: str) -> tuple[Class, dict[str, Any]]:
    """A class and the rule that is changed for it. Raises ``ValueError``: what is wrong."""
    path, _, value = text.partition("=")
    label, _, name = path.partition(".")
    ranks = {rank.label: rank for rank in Class}
    if label not in ranks or name not in _RULES:
        raise ValueError(
            f"'{text}' is not CLASS.RULE=VALUE with a class of {', '.join(ranks)} and a rule of "
            f"{', '.join(_RULES)}"
        )
    number = _number(value)
    whole = _RULES[name] is int
    if number is None or (whole and (number < 1 or not number.is_integer())):
        kind = "whole number from 1 up" if whole else "number from 0 up"
        raise ValueError(f"'{value}' is no {kind}: {text}")
    if name == "ceiling" and not 0 < number <= 1:
        raise ValueError(f"a ceiling is over 0 and at most 1: {text}")
    if name == "flush_interval":
        number /= 1000
    return ranks[label], {name: int(number) if whole else number}


def parse_fim(text: str) -> tuple[str, Way]:
    """A model's name, or the beginning of names with ``*`` behind it, and how it fills in the
    middle. Raises ``ValueError``: what is wrong."""
    model, _, way = text.partition("=")
    if not (model and way):
        raise ValueError(f"'{text}' is not MODEL=FAMILY")
    return model, parse_way(way)


def _number(text: str) -> float | None:
    """A number from 0 up."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) and number >= 0 else None


_SHARED = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
"""The schemes of stores that nodes share, and what Redis's client calls them."""


def parse_shared_store(text: str) -> str | None:
    """The URL of a store that nodes share, as Redis's client knows it; ``None`` for another place.
    Raises ``ValueError`` if it is another URL."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return None
    if scheme not in _SHARED:
        # Not quoted: it may hold a password.
        raise ValueError(f"a URL of a store begins with {', '.join(_SHARED)}")
    database = urlsplit(text).path.strip("/")
    if scheme != "unix" and not re.fullmatch(r"[0-9]*", database):
        # Redis's client would take database 0.
        raise ValueError("after the address of Redis comes the number of its database, as in /0")
    return f"{_SHARED[scheme]}://{rest}"
