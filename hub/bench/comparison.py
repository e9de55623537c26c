"""Several runs beside each other: what differs between them, and what it changed. Pure."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hub.bench import report
from hub.bench.record import Record
from hub.bench.tally import Result

MANIFOLD = 10
"""From how many times as much on a change is no percentage any more."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run found, and what was set for it."""

    settings: dict[str, str]
    """By their names, as they are shown; the same names in all runs of a comparison."""
    result: Result
    records: Sequence[Record]

    def json(self) -> dict[str, Any]:
        return {"settings": self.settings, "result": self.result.json()}


@dataclass(frozen=True, slots=True)
class Figure:
    """A column: its name and unit, and where it is in a result."""

    name: str
    unit: str
    of: Callable[[Result], float | None]
    changes: bool = False
    """Whether the change against the first run is shown."""
    more_is_better: bool = False

    def cell(self, result: Result) -> str:
        return report.plain(self.of(result))


TTFT_P50 = Figure("TTFT p50", "ms", lambda one: one.ttft_ms.p50, changes=True)
TTFT_P99 = Figure("TTFT p99", "ms", lambda one: one.ttft_ms.p99, changes=True)
E2E_P50 = Figure("E2E p50", "ms", lambda one: one.e2e_ms.p50, changes=True)
TOKENS = Figure(
    "tokens/s", "tokens/s", lambda one: one.tokens_per_s, changes=True, more_is_better=True
)
GOODPUT = Figure("goodput/s", "responses/s", lambda one: one.goodput_per_s)
GOOD = Figure("good", "%", lambda one: _percent(one.goodput_share))
FIGURES = (
    TTFT_P50,
    TTFT_P99,
    Figure("ITL p99", "ms", lambda one: one.itl_ms.p99),
    Figure("gap p50", "ms", lambda one: one.gap_ms.p50),
    Figure("TPOT p50", "ms", lambda one: one.tpot_ms.p50),
    E2E_P50,
    TOKENS,
    Figure("resp/s", "responses/s", lambda one: one.requests_per_s),
)
SUMMARY = (TTFT_P50, TTFT_P99, E2E_P50, TOKENS)
"""What a comparison is told in short with."""


def figures(outcomes: Sequence[Outcome]) -> tuple[Figure, ...]:
    """The columns of a table of these runs."""
    limited = any(one.result.goodput_per_s is not None for one in outcomes)
    return (*FIGURES, GOODPUT, GOOD) if limited else FIGURES


def swept(outcomes: Sequence[Outcome]) -> list[str]:
    """The settings that are not the same in all runs; all of them, if none differs."""
    names = [*outcomes[0].settings]
    differing = [name for name in names if len({one.settings[name] for one in outcomes}) > 1]
    return differing or names


def label(outcome: Outcome, names: Sequence[str]) -> str:
    """A run by what was set: ``batch size 8, flush interval 0 ms``. A mode speaks for itself."""
    return ", ".join(
        outcome.settings[name] if name == "mode" else f"{name} {outcome.settings[name]}"
        for name in names
    )


def common(outcomes: Sequence[Outcome]) -> str:
    """What was set, and to the same in all runs; empty if there is nothing."""
    differing = swept(outcomes)
    return label(outcomes[0], [name for name in outcomes[0].settings if name not in differing])


def change(value: float | None, base: float | None) -> str:
    """How much more or less a value is than another: ``+250 %``, ``12 times`` where that says it
    better; empty if there is nothing to compare."""
    if value is None or base is None or math.isnan(value) or math.isnan(base) or base <= 0:
        return ""
    if value / base >= MANIFOLD:
        return f"{value / base:.0f} times"
    percent = round((value / base - 1) * 100)
    return f"{percent:+d} %" if percent else "±0 %"


def rows(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of the table; changes are against the first run."""
    names, columns = swept(outcomes), figures(outcomes)
    head = [*names, *(figure.name for figure in columns), "lost / surplus", "failed"]
    lines = []
    for outcome in outcomes:
        cells = []
        for figure in columns:
            cell = figure.cell(outcome.result)
            if figure.changes and outcome is not outcomes[0]:
                changed = change(figure.of(outcome.result), figure.of(outcomes[0].result))
                cell += f" ({changed})" if changed else ""
            cells.append(cell)
        result = outcome.result
        mistakes = [f"{result.lost} / {result.surplus}", str(sum(result.failed.values()))]
        set_to = [outcome.settings[name] for name in names]
        lines.append([*set_to, *cells, *mistakes])
    return head, lines


def sentences(outcomes: Sequence[Outcome]) -> list[str]:
    """What changed from the first run to each other one, if one setting alone was changed."""
    names = swept(outcomes)
    if len(names) != 1 or len(outcomes) < 2:
        return []
    first, *others = outcomes
    return [
        f"{names[0]} {first.settings[names[0]]} -> {other.settings[names[0]]}: "
        + ", ".join(
            f"{figure.name} {figure.cell(first.result)} -> {figure.cell(other.result)}"
            f"{' ms' if figure.unit == 'ms' else ''} ({changed})"
            for figure in SUMMARY
            if (changed := change(figure.of(other.result), figure.of(first.result)))
        )
        for other in others
    ]


def text(outcomes: Sequence[Outcome]) -> str:
    """The comparison for the terminal: a table, and under it what changed. Times are in ms."""
    table = report.text_table(*rows(outcomes))
    said = sentences(outcomes)
    wrong = [
        f"{label(one, swept(outcomes))}: {report.verdict(one.result)}"
        for one in outcomes
        if not one.result.flawless
    ]
    return "\n".join([table, *([""] if said or wrong else []), *said, *wrong])


def _percent(share: float | None) -> float | None:
    return None if share is None else share * 100
