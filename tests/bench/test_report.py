"""What is told of a run."""

from dataclasses import replace

import pytest

from hub.bench import hot_path, report
from hub.bench.answer import Answer
from hub.bench.hot_path import CASES, DIRECT, HUB, Row, Setup, Times
from hub.bench.record import Limits
from hub.bench.tally import Moment, Moments, Result, Sofar, Tally, Traffic, Usage


def moments(*, cpu: float | None = 1.0) -> Moments:
    """A window of 2 s in which 1000 tokens came and 3 responses ended."""

    def at(time: float, share: float, traffic: Traffic) -> Moment:
        known = cpu is not None
        return Moment(
            at=time,
            tokens=round(1000 * share),
            ended=round(3 * share),
            client=0.5 * share,
            traffic=traffic,
            usage=Usage((cpu or 0) * share, round(2000 * share), round(500 * share))
            if known
            else None,
            source=Usage(0.25 * share, 1, 1) if known else None,
            machine=2.5 * share if known else None,
        )

    nothing, all_of_it = Traffic(), Traffic(requests=6, sent=1000, received=5000, peak=4)
    return Moments(at(0, 0, nothing), at(1, 0, nothing), at(3, 1, all_of_it), at(4, 1, all_of_it))


def result(
    *, cpu: float = 1.0, delay: float = 0.5, error: str | None = None, limits: Limits | None = None
) -> Result:
    """Two responses of three tokens, one of which may fail or be wrong."""
    tally = Tally()
    tally.window.open = True
    for _ in range(2):
        answer = Answer("abc", seed=1, tokens=3, window=tally.window)
        answer.text("a", delay)
        answer.text("bc", delay + 1)
        answer.end(delay + 2)
        tally.add(answer)
    if error == "wrong":
        wrong = Answer("abc", seed=1, tokens=3, window=tally.window, measured=False)
        wrong.text("ac", 1.0)
        wrong.end(2.0)
        tally.add(wrong)
    elif error is not None:
        failed = Answer("abc", seed=1, tokens=3, window=tally.window, measured=False)
        failed.end(1.0, error)
        tally.add(failed)
    tally.add(Answer("abc", seed=1, tokens=3, window=tally.window))
    return tally.result("chat", 2, moments(cpu=cpu), limits=limits, peak=80_000_000)


def test_a_result_is_per_token_and_per_second() -> None:
    found = result()
    assert found.flawless
    assert (found.completed, found.cut) == (2, 1)
    assert found.tokens_per_s == 500
    assert found.requests_per_s == 1.5
    assert found.cpu_us == 1000
    assert found.client_cpu_us == 500
    assert found.client_busy == 0.25
    assert found.source_cpu_us == 250
    assert found.others_busy == 0.375
    assert (found.reads_per_token, found.writes_per_token) == (2, 0.5)
    assert found.peak_mb == 80
    # Two ended and one was cut off.
    assert (found.http_requests, found.wire_bytes, found.peak_connections) == (2, 2000, 4)
    assert found.cpu_ms == pytest.approx(1000 / 3)
    assert (found.ttft_ms.count, found.ttft_ms.p50) == (2, 500)
    assert (found.itl_ms.count, found.itl_ms.p50) == (2, 1000)
    assert found.tpot_ms.p50 == 1000
    assert found.e2e_ms.p50 == 2500
    assert found.json()["ttft_ms"]["p99"] == 500


def test_where_nothing_is_known_of_the_server_there_are_no_figures() -> None:
    found = Tally().result("chat", 1, moments(cpu=None))
    assert found.cpu_us is found.cpu_ms is found.peak_mb is found.others_busy is None
    assert "server:" not in report.summary(found)


def test_goodput_counts_the_responses_within_the_limits_per_second() -> None:
    """Both complete ones took 0.5 s to the first text; the one that was cut off meets nothing."""
    found = result(limits={"ttft": 500.0})
    assert (found.goodput_per_s, found.goodput_share) == (1.0, 2 / 3)
    assert result(limits={"ttft": 499.0}).goodput_share == 0
    assert "goodput: 1.00 responses/s, 66.7% of them within the limits" in report.summary(found)
    assert "goodput" not in report.summary(result())


def test_a_line_tells_how_far_a_run_is() -> None:
    far = Sofar(seconds=12.3, ended=1500, tokens_per_s=231.4, ttft_ms=121.2, mistakes=0)
    assert report.progress(far) == "12 s, 1,500 responses, 231 tokens/s, TTFT p50 121 ms"
    failing = report.progress(replace(far, ttft_ms=float("nan"), mistakes=2), "1/2 rate 4/s")
    assert failing == "1/2 rate 4/s: 12 s, 1,500 responses, 231 tokens/s, 2 FAILED or wrong"


def test_how_far_a_run_is_counts_from_its_beginning() -> None:
    tally = Tally()
    tally.begun = 10.0
    assert tally.so_far(12.0, 500).tokens_per_s == 250
    answer = Answer("a", seed=1, tokens=1, window=tally.window)
    answer.begun = 10.0
    answer.text("a", 10.5)
    answer.end(11.0)
    tally.add(answer)
    far = tally.so_far(12.0, 500)
    assert (far.ended, far.ttft_ms, far.mistakes) == (1, 500, 0)


def test_what_could_not_be_compared_is_not_called_right() -> None:
    said = report.summary(replace(result(), checked=False))
    assert "2 responses complete (no text to compare them with)" in said


def test_a_summary_says_what_went_wrong() -> None:
    assert "FAILED" not in report.summary(result())
    failed = report.summary(result(error="upstream_timeout"))
    assert "FAILED: 1 upstream_timeout" in failed
    wrong = report.summary(result(error="wrong"))
    assert "WRONG texts: 1 (1 characters lost, 0 surplus)" in wrong
    assert "first wrong text: seed 1, character 0: 'abc' expected, 'ac' came" in wrong
    assert "1000.0 us of CPU per token" in wrong
    busy = replace(result(), client_busy=0.95)
    assert "it measures itself" in report.summary(busy)


def test_tables_are_in_columns() -> None:
    head, rows = ["name", "ms", ""], [["a", "1", "words"], ["long", "10", ""]]
    assert report.text_table(head, rows).splitlines() == [
        "name  ms",
        "a      1  words",
        "long  10",
    ]
    assert report.markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert report.number(1234.56) == "1,234.6"
    assert report.number(None) == report.number(float("nan")) == ""


def test_the_table_holds_medians_and_what_the_server_adds() -> None:
    setup = Setup(
        times=Times(), repeat=3, pin=False, serve=(), targets={}, source_port=0, tick=0.0,
        progress=print,
    )  # fmt: skip
    case = CASES["chat-paced"]
    rows = [
        Row(DIRECT, case, [replace(result(), cpu_us=None) for _ in range(3)]),
        Row(
            HUB,
            case,
            [result(cpu=cpu, delay=cpu, error="x" if cpu > 2 else None) for cpu in (1, 3, 2)],
        ),
    ]
    table = hot_path.table(rows, setup)
    assert "| hub | 2,000.0 | 33 | 500 | 2,000.00 / 2,000.00 |" in table
    assert "1 failed, 0 wrong" in table
    assert "adds (SSE chat, 1000 streams, 20 tokens/s): p50 1500.00 ms, p99 1500.00 ms" in table
    assert "Medians of 3" in table


def test_slow_cases_are_measured_for_longer() -> None:
    times = Times(unpaced=1, paced=2, warmup=3, paced_warmup=4)
    for name, seconds in (("lanes", 1), ("chat-steady", 1), ("lanes-paced", 2)):
        load = times.apply(CASES[name])
        assert (load.seconds, load.warmup) == (seconds, seconds + 2)
    assert all(case.load.drain == 0 for case in CASES.values())
