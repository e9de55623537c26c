"""Tables of figures: medians over runs, and Markdown. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

LONG = 10_000
"""Milliseconds from which on a matrix shows seconds."""

Row = dict[str, Any]
"""Figures and labels by the name of their column."""


@dataclass(frozen=True, slots=True)
class Table:
    """What an experiment found."""

    title: str
    rows: Sequence[Row]
    columns: Sequence[str] = ()
    """Those to show, if not all."""
    grid: tuple[str, str] | None = None
    """Shown as a matrix: the columns that give a cell's row and its column. ``columns`` are what
    the cell holds then: times in milliseconds, and a rate."""
    notes: str = ""


def middle(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """The medians of several runs' rows, figure by figure. Labels are those of the first run."""
    return [
        {
            key: value if isinstance(value, str) else median(row[key] for row in same)
            for key, value in same[0].items()
        }
        for same in zip(*runs, strict=True)
    ]


def markdown(table: Table) -> str:
    """A table in Markdown, with its title above and its notes below."""
    if table.grid is None:
        columns = list(table.columns or table.rows[0])
        lines = [[_figure(name, row.get(name, "")) for name in columns] for row in table.rows]
    else:
        columns, lines = _matrix(table, *table.grid)
    head = [columns, ["---"] + ["---:"] * (len(columns) - 1)]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in [*head, *lines])
    notes = f"\n{table.notes}\n" if table.notes else ""
    return f"### {table.title}\n\n{body}\n{notes}"


def _matrix(table: Table, down: str, across: str) -> tuple[list[str], list[list[str]]]:
    cells: dict[str, dict[str, str]] = {}
    for row in table.rows:
        cells.setdefault(row[down], {})[row[across]] = _cell(row, table.columns)
    names = list(dict.fromkeys(str(row[across]) for row in table.rows))
    lines = [[label, *(line[name] for name in names)] for label, line in cells.items()]
    return [f"{down} \\ {across}", *names], lines


def _cell(row: Row, columns: Sequence[str]) -> str:
    *times, rate = (row[name] for name in columns)
    return f"{' / '.join(map(_time, times))}, {rate:.0f}"


def _time(ms: float) -> str:
    return f"{ms:.0f}" if ms < LONG else f"{ms / 1000:.0f} s"


def _figure(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if name.endswith(" x") or ":" in name:
        return f"{value:.3g}" if value < 0.1 else f"{value:.2f}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.2g}"
