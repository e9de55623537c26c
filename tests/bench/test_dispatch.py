"""The published comparisons of dispatch policies, on the simulated engine in virtual time.

Smaller than what ``hub bench dispatch`` runs, and the same result every time: nothing here depends
on how fast the machine is.
"""

import json
from pathlib import Path

from click.testing import CliRunner

from hub.bench.dispatch import HUB, SEND_ALL, Setting, capacity, try_virtual
from hub.bench.dispatch_command import dispatch_command
from hub.bench.dispatch_tables import Table, markdown, middle
from hub.bench.experiments import NO_CEILING, TENANTS, near, overload, published, tenants
from hub.bench.traffic import CHAT, CPU, H100_LIKE, MIXED, TYPING, backlog, held, poisson, scaled
from hub.dispatch.terms import Class


def test_waiting_for_company_only_costs_at_a_server_that_batches() -> None:
    [table] = published(150, (1, 2, 3), short_runs=0)
    ttft = {row["dispatch"]: row["TTFT p50"] for row in table.rows}
    assert ttft["at once"] * 1.1 < ttft["gather 50 ms"]
    assert ttft["gather 50 ms"] * 1.1 < ttft["gather 300 ms"] < ttft["static"]
    assert ttft["hub"] == ttft["at once"], "hub's defaults gather nobody"
    # As measured on a real server: 1.36 and 3.78 times as long.
    assert 1.2 < ttft["plain timer 50 ms"] / ttft["at once"] < 1.6
    assert 3 < ttft["plain timer 300 ms"] / ttft["at once"] < 4.5


def test_under_overload_who_types_waits_for_nobody_and_chat_hardly_pays() -> None:
    [table] = overload(30, (1,), shares=(1.2,))
    for row in table.rows:
        if row["dispatch"] == SEND_ALL.name:
            continue
        if row["class"] == "completion":
            assert row["TTFT p99 x"] < 1 / 20, row
            assert row["TTFT p50 x"] < 1 / 20, row
        else:
            assert row["tokens/s x"] > 0.9, row


def test_near_the_capacity_holding_back_costs_nothing() -> None:
    [table] = near(40, (1,), shares=(0.9,))
    for row in table.rows:
        if row["class"] == "chat":
            assert row["tokens/s x"] > 0.95, row
            if row["dispatch"] == NO_CEILING.name:
                assert row["TTFT p50 x"] < 1.05, row


def test_two_tenants_share_equally_whoever_sends_more() -> None:
    [table] = tenants(40, (1,), [case for case in TENANTS if case[0] != "few are shorter"])
    ratio = {(row["sizes"], row["dispatch"]): row["few : many"] for row in table.rows}
    assert 0.95 < ratio["equal", HUB.name] < 1.05
    assert 0.95 < ratio["few are longer", HUB.name] < 1.05
    assert ratio["equal", SEND_ALL.name] < 0.2


def test_with_room_nobody_waits_at_the_dispatcher() -> None:
    outcome = try_virtual(poisson(scaled(MIXED, 10), 10, 1), H100_LIKE, HUB)
    for times in outcome.classes.values():
        assert times.wait.count == times.requests
        assert times.wait.max == 0


def test_a_trial_is_the_same_every_time_and_accounts_for_every_request() -> None:
    plan = poisson(scaled(MIXED, 60), 5, 7)
    setting = Setting("one at a time", window=1, rules=HUB.rules)
    first, second = (try_virtual(plan, H100_LIKE, setting, seed=7) for _ in range(2))
    assert first == second
    lost = sum(sum(times.lost.values()) for times in first.classes.values())
    assert lost > 0, "so much is too much for a window of one"
    assert len(first.finished) + lost == len(plan)


def test_a_server_completes_what_its_profile_says() -> None:
    # 16 slots, a step of 114 ms with all of them busy, and 2.2 ms to prefill each token.
    stream = [CHAT.__class__(1.0, (48,), (24,))]
    per_request = (24 * 0.114 + 16 * 48 * 0.0022) / 16
    assert 0.9 < capacity(backlog(stream, 300, 1), CPU) * per_request < 1.1


def test_plans_are_poisson_and_repeatable() -> None:
    plan = poisson(scaled(MIXED, 50), 100, 3)
    assert plan == poisson(scaled(MIXED, 50), 100, 3)
    assert [ask.at for ask in plan] == sorted(ask.at for ask in plan)
    assert 4700 < len(plan) < 5300
    typing = [ask for ask in plan if ask.rank is Class.COMPLETION]
    assert 0.17 < len(typing) / len(plan) < 0.23
    assert all(ask.output_tokens in TYPING.output for ask in typing)
    for before, ask in zip(plan, held(plan, 0.05), strict=True):
        assert before.at == ask.at
        assert 0 <= ask.held <= 0.05001


def test_tables_are_markdown() -> None:
    runs = [[{"name": "a", "ms": ms, "ms x": 0.05, "n": 3}] for ms in (1234.0, 5.25, 12.0)]
    table = Table("Title", middle(runs), notes="Notes.")
    assert markdown(table).splitlines() == [
        "### Title",
        "",
        "| name | ms | ms x | n |",
        "| --- | ---: | ---: | ---: |",
        "| a | 12 | 0.05 | 3 |",
        "",
        "Notes.",
    ]
    cells = [
        {"down": down, "across": across, "p50": 12.4, "p99": 20_000.0, "rate": 5}
        for down in "12"
        for across in ("0", "10")
    ]
    grid = Table("Grid", cells, ("p50", "p99", "rate"), grid=("down", "across"))
    assert markdown(grid).splitlines()[2:] == [
        "| down \\ across | 0 | 10 |",
        "| --- | ---: | ---: |",
        "| 1 | 12 / 20 s, 5 | 12 / 20 s, 5 |",
        "| 2 | 12 / 20 s, 5 | 12 / 20 s, 5 |",
    ]


def test_the_command_prints_tables_and_writes_figures(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    result = CliRunner().invoke(dispatch_command, ["--only", "published", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "| at once |" in result.output
    [table] = json.loads(path.read_bytes())["published"]
    assert {row["dispatch"] for row in table["rows"]} >= {"at once", "static", "hub"}
