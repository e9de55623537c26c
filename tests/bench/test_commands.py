"""``hub bench``, from the command line."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hub.bench import modes
from hub.bench.commands import bench
from hub.bench.plan import Load
from hub.bench.processes import StartError, serving
from hub.bench.running import live_line
from tests.e2e.process import command


async def run(*arguments: str) -> str:
    """What ``hub bench`` prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hub", "bench", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


@pytest.mark.parametrize(
    "arguments",
    [[], *([name] for name in ("load", "sweep", "modes", "source", "hot-path", "failover", "memory",
                               "dispatch"))],
)  # fmt: skip
def test_help_reads_well(arguments: list[str]) -> None:
    result = CliRunner().invoke(
        bench, [*arguments, "--help"], prog_name="hub bench", max_content_width=100
    )
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["load", "--url", "https://h"], "--url"),
        (["load", "--requests", "1", "--seconds", "1"], "--requests or --seconds"),
        (["load", "--pid", "999999999"], "--pid"),
        (["load", "--mode", "other"], "--mode"),
        (["load", "--goodput", "ttft:fast"], "--goodput"),
        (["sweep", "--rate", "1", "--concurrency", "1"], "--concurrency or --rate"),
        (["sweep", "--rate", "1,x"], "--rate"),
        (["sweep", "--flush-interval", "0,-1"], "--flush-interval"),
        (["sweep", "--url", "https://h"], "--url"),
        (["hot-path", "--target", "http://h"], "NAME=URL"),
        (["hot-path", "--case", "other"], "--case"),
        (["source", "--per-chunk", "0"], "--per-chunk"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(bench, arguments)
    assert result.exit_code == 2
    assert says in result.output


def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    result = CliRunner().invoke(bench, ["source", "--host", "192.0.2.1", "--port", "1"])
    assert result.exit_code == 1
    assert "192.0.2.1:1" in result.output


async def test_a_server_is_measured_in_front_of_a_source(tmp_path: Path) -> None:
    """As in the README: three commands; the server's process is found by its port."""
    file = tmp_path / "found.json"
    async with (
        command("bench", "source") as source,
        command("serve", "--port", "0", "--upstream", source.url) as hub,
    ):
        how = ("--requests", "200", "--warmup", "0", "--json", str(file))
        said = await run("load", "--url", hub.url, *how)
    assert "200 responses complete and right" in said
    assert "us of CPU per token" in said
    found = json.loads(file.read_bytes())
    (one,) = found["runs"]
    assert one["result"]["completed"] == 200
    assert one["result"]["peak_mb"] > 10
    assert hub.url in found["load"]


async def test_one_command_says_what_a_flush_interval_does_to_ttft(tmp_path: Path) -> None:
    page, file = tmp_path / "report.html", tmp_path / "found.json"
    load = ("--rate", "40", "--seconds", "0.5", "--warmup", "0", "--max-tokens", "4")
    asked = ("--flush-interval", "0,50", "--goodput", "ttft:60000", "--serve", "--sim-speed 10")
    said = await run("sweep", *load, *asked, "--html", str(page), "--json", str(file))
    assert "flush interval 0 ms -> 50 ms: TTFT p50 " in said
    assert page.read_text().startswith("<!doctype html>")
    runs = json.loads(file.read_bytes())["runs"]
    assert [one["settings"]["flush interval"] for one in runs] == ["0 ms", "50 ms"]
    assert all(one["result"]["goodput_share"] == 1 for one in runs)


async def test_a_mode_is_measured_on_a_hub_and_an_engine_of_its_own() -> None:
    load = Load(
        mode="lanes", rate=20.0, requests=5, warmup=0.0, max_tokens=4, model="", poll=0.02,
        any_text=True,
    )  # fmt: skip
    (polled,) = await modes.measure(
        load, "h100-8b", (), live_line, sockets=1, compared={"background": "polled"}
    )
    assert (polled.result.completed, polled.result.flawless) == (5, True)
    _, (line,) = modes.matrix([polled])
    assert (line[0], line[-1]) == ("polled", "0")
    assert polled.result.polls is not None
    assert float(line[6]) == pytest.approx(1 + polled.result.polls, rel=0.01)


async def test_every_response_can_be_written_with_hubs_own_times(tmp_path: Path) -> None:
    file, page = tmp_path / "records.jsonl", tmp_path / "report.html"
    async with command("serve", "--port", "0", "--sim", "--sim-speed", "20") as hub:
        how = ("--requests", "5", "--connections", "1", "--warmup", "0", "--max-tokens", "4")
        files = ("--records", str(file), "--html", str(page))
        said = await run("load", "--url", hub.url, "--any-text", *how, *files)
    assert "5 responses complete and right" in said
    records = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert len(records) == 5
    for record in records:
        assert record["id"].startswith("resp_")
        assert record["ledger_ms"]["first_token"] <= record["ledger_ms"]["ended"]
    assert "One load" in page.read_text()


async def test_the_hot_paths_table_is_made_by_one_command(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    arguments = ("--case", "lanes", "--case", "chat-4", "--repeat", "1", "--seconds", "0.3")
    said = await run("hot-path", *arguments, "--no-pin", "--json", str(file))
    assert "| lanes, 16 x 16, unpaced | hub |" in said
    assert "| SSE chat, 64 streams, unpaced, 4 per chunk | hub |" in said
    rows = json.loads(file.read_bytes())["rows"]
    assert [len(row["results"]) for row in rows] == [1, 1]
    assert all(row["results"][0]["tokens"] > 0 for row in rows)
    assert all(row["results"][0]["wrong"] == 0 for row in rows)


async def test_a_command_that_ends_instead_of_serving_is_an_error() -> None:
    with pytest.raises(StartError, match="has ended instead"):
        async with serving("bench", "source", "--host", "192.0.2.1"):
            raise AssertionError("it serves")
