"""The commands' words: help, version, and what goes wrong at the start."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from hub import __version__
from hub.bench.processes import environment
from hub.cli import main


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["sim", "--help"]])
def test_help_reads_well(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments, prog_name="hub")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
    assert "hub" in result.output


def test_version() -> None:
    assert __version__ in CliRunner().invoke(main, ["--version"]).output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "hub keys create --tenant NAME"),
        (["--origin", "*"], "needs keys"),
        (["--origin", "app.example"], "--origin"),
        (["--host-name", "a/b"], "--host-name"),
        (["--trusted-proxy", "proxy"], "--trusted-proxy"),
        (["--tls-cert", "hub.pem"], "'--tls-cert' and '--tls-key' need each other"),
        (["--tls-cert", "missing.pem", "--tls-key", "missing.key"], "cannot read missing.pem"),
        (
            ["--workers", "2"],
            "'--workers' needs a store that processes can share: --store redis://",
        ),
    ],
)
def test_what_lets_in_whom_nobody_asked_or_nobody_at_all_does_not_start(
    options: list[str], said: str, tmp_path: Path
) -> None:
    """It says why, and what to do."""
    command = ["serve", "--sim", "--store", "memory", "--port", "0", *options]
    result = CliRunner(env={"XDG_DATA_HOME": str(tmp_path)}).invoke(main, command)
    assert result.exit_code in (1, 2)
    assert said in " ".join(result.output.split())
    assert "Traceback" not in result.output


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


@pytest.mark.parametrize(
    "store",
    [
        "postgres://hub:SECRET@127.0.0.1/0",
        "redis://hub:SECRET@127.0.0.1:port/0",
        "redis://hub:SEC#SECRET@127.0.0.1/0",
        "redis://hub:SECRET@127.0.0.1/0?SECRET=SECRET",
        "rediss://:SECRET@127.0.0.1:1/0?ssl_cert_reqs=SECRET",
        "valkey://:SECRET@127.0.0.1:1/0",
    ],
)
def test_a_store_that_is_none_is_told_of_without_its_password(store: str, tmp_path: Path) -> None:
    environment = {"XDG_DATA_HOME": str(tmp_path), "HUB_STORE": store}
    result = CliRunner(env=environment).invoke(main, ["serve", "--sim", "--port", "0"])
    assert result.exit_code in (1, 2)
    assert "--store" in result.output or "redis" in result.output
    assert "SECRET" not in result.output
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)


def test_workers_have_one_word_for_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = ["serve", "--store", "redis://127.0.0.1:1/0", "--workers", "2", "--port", port]
        result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert result.output.count(port) == 1


def test_what_keeps_the_first_worker_from_starting_is_said_once() -> None:
    store = "redis://:SECRET@127.0.0.1:1/0"
    command = [sys.executable, "-m", "hub", "serve", "--sim", "--port", "0", "--workers", "2"]
    ended = subprocess.run(
        command, env={**environment(), "HUB_STORE": store}, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert ended.stderr.count("127.0.0.1:1/0") == 1
    assert "SECRET" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
