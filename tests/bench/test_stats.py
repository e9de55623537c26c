"""Percentiles, against the standard library's."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.bench.stats import NOTHING, middle, percentile, spread

floats = st.floats(-1e9, 1e9, allow_nan=False)


@given(st.lists(floats, min_size=2, max_size=300))
def test_percentiles_are_those_of_the_standard_library(samples: list[float]) -> None:
    cuts = statistics.quantiles(samples, n=100, method="inclusive")
    ordered = sorted(samples)
    for number, cut in enumerate(cuts, 1):
        assert percentile(ordered, number / 100) == pytest.approx(cut, rel=1e-6, abs=1e-6)


@given(st.lists(floats, min_size=1, max_size=300), st.floats(0, 1))
def test_a_percentile_lies_among_the_samples(samples: list[float], share: float) -> None:
    ordered = sorted(samples)
    assert ordered[0] <= percentile(ordered, share) <= ordered[-1]


@given(st.lists(floats, min_size=1, max_size=300))
def test_a_spread_is_in_order_and_scaled(samples: list[float]) -> None:
    found = spread(samples, 1000)
    assert found.count == len(samples)
    assert found.p50 <= found.p90 <= found.p99 <= found.max == max(samples) * 1000
    assert found.p50 == pytest.approx(statistics.median(samples) * 1000, rel=1e-6, abs=1e-6)
    assert found.mean == pytest.approx(statistics.fmean(samples) * 1000, rel=1e-6, abs=1e-3)


def test_no_samples_are_no_figures() -> None:
    assert spread([]) is NOTHING
    assert math.isnan(NOTHING.p99)


def test_the_middle_of_runs_is_the_median_of_each_figure() -> None:
    runs = [spread([1.0]), spread([5.0, 5.0, 5.0]), NOTHING, spread([3.0, 100.0])]
    found = middle(runs)
    assert (found.count, found.p50, found.max) == (2, 5.0, 5.0)
    assert middle([NOTHING]) is NOTHING
