"""Plots and the page that they are on: well-formed, escaped, without anything from elsewhere."""

import re
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.bench import html, plots
from hub.bench.comparison import Outcome
from hub.bench.html import About
from hub.bench.plots import Bar
from tests.bench.test_record import record
from tests.bench.test_report import result

times = st.floats(0, 1e6)


def parsed(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{drawn}</div>")


@given(st.lists(times, min_size=1, max_size=4))
def test_bars_are_as_long_as_their_values_say(values: list[float]) -> None:
    rows = [Bar("a < b", value, f"{value:g}", behind=value * 2) for value in values]
    widths = [
        float(one.attrib["width"].rstrip("%"))
        for one in parsed(plots.bars("t", rows)).iter("rect")
        if "behind" not in one.attrib["class"]
    ]
    most = max(values) or 1.0
    assert widths == pytest.approx([value / most * 50 for value in values], abs=0.01)


@settings(max_examples=30)
@given(st.lists(st.lists(times, max_size=500), min_size=1, max_size=8))
def test_curves_rise_from_nothing_to_all_of_the_samples(series: list[list[float]]) -> None:
    most = max((max(samples) for samples in series if samples), default=0.0) or 1.0
    paths = [one.attrib["d"] for one in parsed(plots.curves("t", series, most)).iter("path")]
    assert len(paths) == sum(bool(samples) for samples in series)
    for path in paths:
        across = [float(x) for x in re.findall(r"H([\d.]+)", path)]
        up = [float(y) for y in re.findall(r"V([\d.]+)", path)]
        assert across == sorted(across)
        assert up == sorted(up, reverse=True)
        assert len(up) <= plots.POINTS


def test_a_curve_that_goes_beyond_the_plot_stops_at_its_edge() -> None:
    drawn = plots.curves("t", [[1.0, 2.0, 100.0]], 4.0)
    assert 'd="M0 1000H250.0V666.7H500.0V333.3H1000.0V0.0H1000"' in drawn


@given(st.floats(1e-3, 1e7))
def test_ticks_are_few_and_round(most: float) -> None:
    found = plots.ticks(most)
    assert found[0] == 0
    assert 3 <= len(found) <= 6
    assert found[-1] <= most * 1.01


def test_without_a_range_there_is_one_tick() -> None:
    assert plots.ticks(0.0) == plots.ticks(float("nan")) == [0.0]


ABOUT = About(
    title="What <b> changed",
    load="4 requests/s",
    command="hub bench sweep --serve '<i>'",
    machine="2 cores & more",
    when="now",
    notes=["a note & more"],
)


def runs(*values: str) -> list[Outcome]:
    return [Outcome({"interval": value}, result(), [record(), record("x")]) for value in values]


@pytest.mark.parametrize("values", [("<0 ms>",), ("<0 ms>", "300 ms"), [*map(str, range(8))]])
def test_a_page_is_whole_escaped_and_needs_nothing_else(values: Sequence[str]) -> None:
    page = html.page(ABOUT, runs(*values))
    body = page[page.index("<body>") : page.index("</html>")]
    ElementTree.fromstring(body)
    assert "What &lt;b&gt; changed" in body
    assert "2 cores &amp; more" in body
    assert "hub bench sweep --serve &#x27;&lt;i&gt;&#x27;" in body
    assert "TPOT" in body
    for foreign in ("http:", "https:", "url(", "<script", "<link", "@import", "src="):
        assert foreign not in page
    for mode in ("prefers-color-scheme: dark", "max-width", "width=device-width"):
        assert mode in page


def test_a_page_tells_what_changed_and_what_went_wrong() -> None:
    first, last = runs("0 ms", "300 ms")
    slower = replace(last.result, ttft_ms=replace(last.result.ttft_ms, p50=1750.0))
    page = html.page(ABOUT, [first, replace(last, result=slower)])
    assert '<dd class="change bad">+250 %</dd>' in page
    assert "interval 0 ms → 300 ms" in page
    assert 'class="wrong"' not in page
    failed = replace(last, result=result(error="upstream_error"))
    assert "1 upstream_error" in html.page(ABOUT, [first, failed])


def test_a_table_of_its_own_takes_the_place_of_the_cards() -> None:
    page = html.page(ABOUT, runs("0 ms", "1 ms"), (["mode"], [["a & b"]]))
    assert "<td>a &amp; b</td>" in page
    assert 'class="cards"' not in page


def test_goodput_is_drawn_where_there_are_limits() -> None:
    limited = replace(result(), goodput_per_s=1.5, goodput_share=0.75)
    both = [replace(one, result=limited) for one in runs("0 ms", "1 ms")]
    assert "% of responses within the limits" in html.page(ABOUT, both)


def test_one_run_is_drawn_as_its_spreads() -> None:
    page = html.page(ABOUT, runs("0 ms"))
    assert page.count('<svg class="curves"') == 4
    assert "<rect" not in page
    assert '<td class="words">time to the end</td>' in page


def test_modes_that_have_no_gaps_have_no_bar_of_them() -> None:
    none = replace(result(), gap_ms=replace(result().gap_ms, count=0))
    both = [Outcome({"mode": mode}, none, []) for mode in ("sync", "other")]
    assert "Longest gap" not in html.page(ABOUT, both)
