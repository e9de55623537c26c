"""What a run found, in words and tables. Pure."""

import math
from collections.abc import Sequence

from hub.bench.stats import Spread
from hub.bench.tally import Result, Sofar

LATENCIES = (
    ("TTFT", "ttft_ms", "time to the first text"),
    ("ITL", "itl_ms", "gaps between two frames with text"),
    ("gap", "gap_ms", "the longest gap of each response"),
    ("TPOT", "tpot_ms", "time per token after the first"),
    ("E2E", "e2e_ms", "time to the end"),
)


def summary(result: Result) -> str:
    """One run, for the terminal."""
    return "\n".join([*said(result), "", text_table(*latencies(result))])


def said(result: Result) -> list[str]:
    """What there is to say of a run beside its latencies."""
    lines = [
        f"{result.tokens_per_s:,.0f} tokens/s, {result.requests_per_s:,.1f} responses/s "
        f"in {result.window_s:.1f} s",
        verdict(result),
    ]
    if result.difference is not None:
        lines.append(f"first wrong text: {result.difference}")
    if result.goodput_per_s is not None and result.goodput_share is not None:
        lines.append(
            f"goodput: {result.goodput_per_s:,.2f} responses/s, {result.goodput_share:.1%} of them "
            "within the limits"
        )
    if result.cpu_us is not None:
        lines.append(
            f"server: {result.cpu_us:.1f} us of CPU per token, {plain(result.peak_mb)} MB at "
            f"most, {plain(result.reads_per_token)} reads and "
            f"{plain(result.writes_per_token)} writes per token"
        )
    polls = "" if result.polls is None else f"{plain(result.polls)} polls, "
    lines += [
        f"wire: {polls}{plain(result.http_requests)} HTTP requests and "
        f"{plain(result.wire_bytes / 1000)} kB per response, "
        f"{result.peak_connections} connections at most",
        f"this load generator: {result.client_cpu_us:.1f} us per token, busy "
        f"{result.client_busy:.0%} of the time"
        + (" (too busy: it measures itself)" if result.client_busy > 0.9 else ""),
    ]
    return lines


def latencies(result: Result) -> tuple[list[str], list[list[str]]]:
    """The head and the lines of a run's table of latencies."""
    head = ["ms", "p50", "p90", "p99", "max", "mean", "samples", ""]
    rows = []
    for name, field, words in LATENCIES:
        spread: Spread = getattr(result, field)
        times = (spread.p50, spread.p90, spread.p99, spread.max, spread.mean)
        rows.append([name, *(f"{plain(time)}" for time in times), f"{spread.count:,}", words])
    return head, rows


def progress(far: Sofar, title: str = "") -> str:
    """How far a run is, in one line."""
    ttft = "" if math.isnan(far.ttft_ms) else f", TTFT p50 {plain(far.ttft_ms)} ms"
    mistakes = f", {far.mistakes} FAILED or wrong" if far.mistakes else ""
    return (
        f"{title}{': ' if title else ''}{far.seconds:.0f} s, {far.ended:,} "
        f"response{'s' * (far.ended != 1)}, "
        f"{far.tokens_per_s:,.0f} tokens/s{ttft}{mistakes}"
    )


def verdict(result: Result) -> str:
    """Whether everything was right, and what was not."""
    right = "complete and right" if result.checked else "complete (no text to compare them with)"
    whole = f"{result.completed} responses {right}"
    cut = f", {result.cut} cut off at the end" if result.cut else ""
    if result.flawless:
        return f"{whole}{cut}"
    failed = ", ".join(f"{count} {code}" for code, count in sorted(result.failed.items()))
    return (
        f"{whole}{cut}; FAILED: {failed or 'none'}; WRONG texts: {result.wrong} "
        f"({result.lost} characters lost, {result.surplus} surplus)"
    )


def mistakes(result: Result) -> str:
    """What was not right, in a table's cell: failures and wrong texts."""
    failed = sum(result.failed.values())
    return "0" if result.flawless else f"{failed} failed, {result.wrong} wrong"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in columns, numbers to the right; the first and last column to the left."""
    widths = [max(len(row[at]) for row in (head, *rows)) for at in range(len(head))]
    last = len(head) - 1
    lines = []
    for row in (head, *rows):
        cells = [
            cell.ljust(width) if at in (0, last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float | None, digits: int = 1) -> str:
    """A figure for a table, empty if there is none."""
    if value is None or math.isnan(value):
        return ""
    return f"{value:,.{digits}f}"


def plain(value: float | None) -> str:
    """Three digits are as many as a measurement has."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
