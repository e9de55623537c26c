"""The report of a comparison as one HTML file: no script, nothing from elsewhere. Pure.

It is made for a browser with the file opened from a disk, light or dark as the system is, and for
a phone. Every text in it is escaped.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from hub.bench import comparison, plots, report
from hub.bench.comparison import SUMMARY, TOKENS, Figure, Outcome
from hub.bench.definitions import DEFINITIONS, PERCENTILES
from hub.bench.plots import Bar
from hub.bench.stats import Spread, percentile
from hub.bench.style import STYLE

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""A head and lines."""

NOISE = 0.05
"""Changes that are less are not called good or bad."""
LONG_TAIL = 1.5
"""How many times the largest p99 a plot of curves is wide at most."""


@dataclass(frozen=True, slots=True)
class About:
    """What is told of a report beside its figures."""

    title: str
    load: str
    """What every run had in common, in words."""
    command: str
    machine: str
    when: str
    notes: Sequence[str] = ()


def page(
    about: About,
    outcomes: Sequence[Outcome],
    table: Table | None = None,
) -> str:
    """The file's content. ``table`` instead of the comparison's own."""
    figures = _section("Figures", _html_table(*(table or _table(outcomes))))
    notes = "".join(f"<p>{escape(note)}</p>" for note in about.notes)
    body = [
        f"<header><h1>{escape(about.title)}</h1><p>{escape(about.load)}. Times in ms.</p></header>",
        _cards(outcomes) if table is None else figures,
        f'<div class="said">{notes}</div>' if notes else "",
        _wrong(outcomes),
        f'<div class="plots">{"".join(_plots(outcomes))}</div>',
        figures if table is None else "",
        _how(about),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(about.title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _cards(outcomes: Sequence[Outcome]) -> str:
    """The figures that matter most, large: of the last run, with what changed from the first."""
    first, last = outcomes[0], outcomes[-1]
    names = comparison.swept(outcomes)
    caption = comparison.label(first, names)
    if len(outcomes) > 1:
        alone = len(names) == 1
        other = last.settings[names[0]] if alone else comparison.label(last, names)
        caption = f"{caption} → {other}"
    cards = "".join(_card(figure, first, last) for figure in SUMMARY)
    return _section(caption, f'<dl class="cards">{cards}</dl>')


def _card(figure: Figure, first: Outcome, last: Outcome) -> str:
    now, before = figure.of(last.result), figure.of(first.result)
    value = escape(figure.cell(last.result))
    name, unit = figure.name, " ms" if figure.unit == "ms" else ""
    below = ""
    if first is not last:
        changed = comparison.change(now, before)
        value = f"<s>{escape(figure.cell(first.result))}</s> {value}"
        mood = ""
        if now and before and abs(now / before - 1) >= NOISE:
            mood = "good" if (now > before) == figure.more_is_better else "bad"
        below = f'<dd class="change {mood}">{escape(changed)}</dd>'
    return f"<div><dt>{escape(name)}</dt><dd>{value}<small>{unit}</small></dd>{below}</div>"


def _wrong(outcomes: Sequence[Outcome]) -> str:
    names = comparison.swept(outcomes)
    said = [
        f"<p>{escape(comparison.label(one, names))}: {escape(report.verdict(one.result))}</p>"
        for one in outcomes
        if not one.result.flawless
    ]
    return f'<div class="wrong" role="note">{"".join(said)}</div>' if said else ""


def _plots(outcomes: Sequence[Outcome]) -> list[str]:
    """Of one run how its times are spread; of several, their figures beside each other, too."""
    names = comparison.swept(outcomes)
    labels = [comparison.label(one, names) for one in outcomes]

    def spread_out(title: str, field: str, kind: str = "") -> str:
        series = [
            [value for record in one.records if (value := getattr(record, field)) is not None]
            for one in outcomes
        ]
        return _curves(title, labels if len(outcomes) > 1 else [], series, kind)

    if len(outcomes) == 1:
        found = [
            spread_out("Time to first token", "ttft_ms"),
            spread_out("Longest gap of a response", "gap_ms"),
            spread_out("Time per output token", "tpot_ms"),
            spread_out("Time to the end", "e2e_ms"),
        ]
        return [plot for plot in found if plot]
    found = [
        _spreads("Time to first token", labels, [one.result.ttft_ms for one in outcomes]),
        spread_out("Time to first token, all responses", "ttft_ms", "tall"),
        _single("Throughput", "tokens per second", TOKENS, labels, outcomes),
        _spreads("Time to the end", labels, [one.result.e2e_ms for one in outcomes]),
        _spreads("Longest gap of a response", labels, [one.result.gap_ms for one in outcomes]),
    ]
    if any(one.result.goodput_share is not None for one in outcomes):
        unit = "% of responses within the limits"
        found.append(_single("Goodput", unit, comparison.GOOD, labels, outcomes))
    return [plot for plot in found if plot]


def _spreads(title: str, labels: Sequence[str], spreads: Sequence[Spread]) -> str:
    rows = [
        Bar(
            label, one.p50, f"{report.plain(one.p50)} / {report.plain(one.p99)} ms", one.p99, number
        )
        for number, (label, one) in enumerate(zip(labels, spreads, strict=True))
        if one.count
    ]
    legend = '<span class="key"></span>p50 <span class="key behind"></span>p99'
    return _figure(title, legend, plots.bars(title, rows)) if rows else ""


def _single(
    title: str, unit: str, figure: Figure, labels: Sequence[str], outcomes: Sequence[Outcome]
) -> str:
    rows = [
        Bar(label, figure.of(one.result) or 0.0, figure.cell(one.result), number=number)
        for number, (label, one) in enumerate(zip(labels, outcomes, strict=True))
    ]
    return _figure(title, escape(unit), plots.bars(title, rows))


def _curves(title: str, labels: Sequence[str], series: Sequence[Sequence[float]], kind: str) -> str:
    present = [sorted(samples) for samples in series if samples]
    if not present:
        return ""
    tail = max(percentile(samples, 0.99) for samples in present) * LONG_TAIL
    most = min(tail, max(samples[-1] for samples in present)) or 1.0
    names = "".join(
        f'<span><span class="line hue-{number % plots.HUES}"></span>{escape(label)}</span>'
        for number, label in enumerate(labels)
    )
    legend = f'<p class="names">{names}</p>' if names else ""
    drawn = plots.curves(title, series, most)
    return _figure(title, "share of responses by ms", drawn + legend, kind)


def _figure(title: str, legend: str, drawn: str, kind: str = "") -> str:
    return (
        f'<figure class="{kind}"><figcaption><b>{escape(title)}</b> '
        f'<span class="legend">{legend}</span></figcaption>{drawn}</figure>'
    )


def _table(outcomes: Sequence[Outcome]) -> Table:
    if len(outcomes) == 1:
        return report.latencies(outcomes[0].result)
    return comparison.rows(outcomes)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        # A column without a name holds words.
        drawn = (
            f"<{tag}>{escape(cell)}</{tag}>"
            if name
            else f'<{tag} class="words">{escape(cell)}</{tag}>'
            for name, cell in zip(head, cells, strict=True)
        )
        return f"<tr>{''.join(drawn)}</tr>"

    lines = "".join(line(row, "td") for row in rows)
    return (
        f'<div class="wide" tabindex="0"><table><thead>{line(head, "th")}</thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _how(about: About) -> str:
    meanings = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in DEFINITIONS.items()
    )
    return _section(
        "How this was measured",
        f"<pre><code>{escape(about.command)}</code></pre>"
        f'<p class="small">{escape(about.when)}. {escape(about.machine)}.</p>'
        f'<dl class="meanings">{meanings}</dl><p class="small">{escape(PERCENTILES)}</p>',
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"
