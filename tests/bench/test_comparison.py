"""Runs beside each other."""

from dataclasses import replace

import pytest

from hub.bench import comparison
from hub.bench.comparison import Outcome
from hub.bench.stats import spread
from tests.bench.test_report import result


def outcome(ttft: float, tokens: float = 500.0, **settings: str) -> Outcome:
    found = replace(result(), ttft_ms=spread([ttft]), tokens_per_s=tokens)
    return Outcome(settings, found, [])


def test_a_change_is_in_percent_or_a_multiple() -> None:
    assert comparison.change(422.0, 121.0) == "+249 %"
    assert comparison.change(228.0, 231.0) == "-1 %"
    assert comparison.change(100.1, 100.0) == "±0 %"
    assert comparison.change(3198.0, 98.2) == "33 times"
    for nothing in ((None, 1.0), (1.0, None), (float("nan"), 1.0), (1.0, float("nan")), (1.0, 0.0)):
        assert comparison.change(*nothing) == ""


def test_only_what_differs_between_the_runs_is_named() -> None:
    runs = [
        outcome(1.0, rate="4/s", interval="0 ms"),
        outcome(1.0, rate="4/s", interval="300 ms"),
    ]
    assert comparison.swept(runs) == ["interval"]
    assert comparison.common(runs) == "rate 4/s"
    assert comparison.swept(runs[:1]) == ["rate", "interval"]
    assert comparison.common(runs[:1]) == ""
    assert comparison.label(runs[1], ["rate", "interval"]) == "rate 4/s, interval 300 ms"
    assert comparison.label(outcome(1.0, mode="SSE"), ["mode"]) == "SSE"


def test_the_table_has_a_line_per_run_with_the_change_against_the_first() -> None:
    runs = [outcome(100.0, interval="0 ms"), outcome(350.0, 505.0, interval="300 ms")]
    head, lines = comparison.rows(runs)
    assert head[:3] == ["interval", "TTFT p50", "TTFT p99"]
    assert lines[0][:3] == ["0 ms", "100", "100"]
    assert lines[1][:3] == ["300 ms", "350 (+250 %)", "350 (+250 %)"]
    assert lines[1][-2:] == ["0 / 0", "0"]
    assert {len(line) for line in lines} == {len(head)}


def test_what_one_setting_changed_is_said_in_a_sentence() -> None:
    runs = [outcome(100.0, interval="0 ms"), outcome(350.0, 505.0, interval="300 ms")]
    assert comparison.sentences(runs) == [
        "interval 0 ms -> 300 ms: TTFT p50 100 -> 350 ms (+250 %), TTFT p99 100 -> 350 ms "
        "(+250 %), E2E p50 2,500 -> 2,500 ms (±0 %), tokens/s 500 -> 505 (+1 %)"
    ]
    assert "(+250 %)" in comparison.text(runs)
    both = [outcome(1.0, size="1", interval="0 ms"), outcome(1.0, size="2", interval="1 ms")]
    assert comparison.sentences(both) == []


def test_goodput_is_a_column_where_there_are_limits() -> None:
    limited = replace(result(), goodput_per_s=1.5, goodput_share=0.75)
    head, (line,) = comparison.rows([Outcome({"rate": "4/s"}, limited, [])])
    assert line[head.index("goodput/s")] == "1.5"
    assert line[head.index("good")] == "75"
    assert "good" not in comparison.rows([outcome(1.0, rate="4/s")])[0]


@pytest.mark.parametrize("error", ["upstream_error", "wrong"])
def test_what_went_wrong_is_said_under_the_table(error: str) -> None:
    failed = Outcome({"rate": "4/s"}, result(error=error), [])
    assert "rate 4/s: 2 responses complete and right" in comparison.text([failed])
