"""The options that several commands of ``hub bench`` share, and how their values are read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hub.bench.plan import MODES
from hub.bench.record import LIMITS, parse_limits

F = TypeVar("F", bound=Callable[..., Any])

AT_LEAST_1 = click.IntRange(min=1)
AT_LEAST_0 = click.FloatRange(min=0)
ABOVE_0 = click.FloatRange(min=0, min_open=True)


def numbers(each: "click.ParamType[Any]") -> Callable[..., tuple[float, ...]]:
    """The callback of an option that takes numbers with commas between them."""

    def convert(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[float, ...]:
        parts = () if value is None else value.split(",")
        return tuple(each.convert(part.strip(), param, ctx) for part in parts)

    return convert


def _limits(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> dict[str, float] | None:
    try:
        return None if value is None else parse_limits(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def together(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator, in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


json_file = click.option(
    "--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures."
)
html_file = click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a report with plots: one file that needs no network.",
)

mode = click.option(
    "--mode",
    default="lanes",
    show_default=True,
    type=click.Choice(MODES),
    help="Responses on WebSocket lanes or over SSE, Chat Completions over SSE, Responses as one "
    "JSON answer, or in the background and polled.",
)


def requests(*, max_tokens: int, prompt_tokens: int) -> Callable[[F], F]:
    """What is asked for, with these defaults, and what is counted as good."""
    return together(
        click.option(
            "--max-tokens",
            default=max_tokens,
            show_default=True,
            type=AT_LEAST_1,
            help="Of each response.",
        ),
        click.option(
            "--prompt-tokens",
            default=prompt_tokens,
            show_default=True,
            type=AT_LEAST_1,
            help="About.",
        ),
        click.option(
            "--poll",
            default=250.0,
            show_default=True,
            type=AT_LEAST_0,
            help="Mode background: ms from a poll's answer to the next poll.",
        ),
        click.option(
            "--seed", default=0, show_default=True, help="Of arrivals, lengths and texts."
        ),
        click.option(
            "--goodput",
            metavar="NAME:MS,...",
            callback=_limits,
            help=f"Count the responses within all limits, in ms, of {', '.join(LIMITS)}. "
            "E.g. ttft:200,itl:50,e2el:5000.",
        ),
    )
