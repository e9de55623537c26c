"""Plots as inline SVG, for a page that needs no script and no network. Pure.

Places are shares of the box, bars' heights pixels, so texts keep their size on any screen; only
curves are drawn in a box that stretches. Colours are the page's: ``hue-0`` to ``hue-5``. A plot
has no text but what it is given, and escapes it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

HUES = 6
ROW, BAR = 46, 12
"""Heights of a row of bars and of a bar, in pixels."""
POINTS = 200
"""The most that a curve is drawn with."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with its label, and perhaps a larger one behind it (a p99 behind a p50)."""

    label: str
    value: float
    told: str
    """The values in words, at the right."""
    behind: float | None = None
    number: int = 0
    """Chooses its hue."""


def bars(title: str, rows: Sequence[Bar]) -> str:
    """One horizontal bar per row, all from zero."""
    most = max([row.behind or row.value for row in rows], default=0.0) or 1.0
    drawn = []
    for place, row in enumerate(rows):
        top = place * ROW
        hue = f"hue-{row.number % HUES}"
        drawn.append(
            f'<text x="0" y="{top + 15}">{escape(row.label)}</text>'
            f'<text class="told" x="100%" y="{top + 15}">{escape(row.told)}</text>'
        )
        if row.behind is not None:
            drawn.append(_bar(top, row.behind / most, f"{hue} behind"))
        drawn.append(_bar(top, row.value / most, hue))
    height = len(rows) * ROW - (ROW - 22 - BAR)
    return f'<svg role="img" aria-label="{escape(title)}" height="{height}">{"".join(drawn)}</svg>'


def curves(title: str, series: Sequence[Sequence[float]], most: float) -> str:
    """The share of samples (upwards, 0 to 100 %) that are at most so large (to the right, up to
    ``most``), a curve in its own hue for each series; beyond ``HUES`` series they are dashed.

    The axis is a picture of its own, under it.
    """
    lines, names = [], []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = f"{100 * (1 - share):g}%"
        lines.append(f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>')
        if share:
            names.append(f'<text class="tick" x="0" y="{y}" dy="14">{share:.0%}</text>')
    paths = "".join(
        f'<path class="hue-{number % HUES}{" dashed" if number >= HUES else ""}" '
        f'd="{_path(samples, most)}"/>'
        for number, samples in enumerate(series)
        if samples
    )
    axis = []
    for tick in ticks(most):
        at = tick / most * 100
        anchor = "start" if not tick else "end" if at > 94 else "middle"
        axis.append(
            f'<text class="tick" x="{at:.2f}%" y="18" text-anchor="{anchor}">{tick:,g}</text>'
        )
    return (
        f'<svg class="curves" role="img" aria-label="{escape(title)}">{"".join(lines)}'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{paths}</svg>'
        f"{''.join(names)}</svg>"
        f'<svg aria-hidden="true" height="24">{"".join(axis)}</svg>'
    )


def ticks(most: float) -> list[float]:
    """Round numbers from 0 up to ``most``, four or so."""
    if not (math.isfinite(most) and most > 0):
        return [0.0]
    rough = most / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    return [step * number for number in range(int(most / step * 1.001) + 1)]


def _path(samples: Sequence[float], most: float) -> str:
    """Steps up at each sample, of which there may be fewer than there are; level at the end."""
    ordered = sorted(samples)
    count = len(ordered)
    shown = min(count, POINTS)
    parts = ["M0 1000"]
    for number in range(1, shown + 1):
        rank = math.ceil(number * count / shown)
        x = min(ordered[rank - 1] / most, 1.0) * 1000
        parts.append(f"H{x:.1f}V{1000 * (1 - rank / count):.1f}")
        if x >= 1000:
            break
    return "".join([*parts, "H1000"])


def _bar(top: int, share: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="0" y="{top + 22}" width="{max(share, 0.0) * 100:.2f}%" '
        f'height="{BAR}" rx="2"/>'
    )
