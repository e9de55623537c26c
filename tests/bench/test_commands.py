"""``hub bench``, from the command line."""

import asyncio
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from hub.bench.commands import bench
from hub.bench.processes import StartError, serving
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
    "arguments", [[], ["load"], ["source"], ["hot-path"], ["failover"], ["memory"], ["dispatch"]]
)
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
    assert found["result"]["completed"] == 200
    assert found["result"]["peak_mb"] > 10
    assert found["url"] == hub.url


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
