"""The commands' words: help, version, and what goes wrong at the start."""

import socket
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from hub import __version__
from hub.cli import main


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["sim", "--help"]])
def test_help_reads_well(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments, prog_name="hub")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
    assert "hub" in result.output


def test_version() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


@pytest.mark.parametrize("command", [["serve", "--sim", "--store", "{store}"], ["sim"]])
def test_a_port_that_is_taken_is_an_error_that_names_it(command: list[str], tmp_path: Path) -> None:
    command = [word.format(store=tmp_path) for word in command]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, [*command, "--port", port])
    assert result.exit_code == 1
    assert f"127.0.0.1:{port}" in result.output
    assert "--port" in result.output
    assert not [thread for thread in threading.enumerate() if thread.name == "hub-store"]
