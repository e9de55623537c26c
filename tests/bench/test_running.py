"""The line that tells how far a run is, and the files."""

import io
import math
import sys
from pathlib import Path

import click
import orjson
import pytest

from hub.bench.running import ERASE, live_line, write, write_json
from hub.bench.tally import Sofar

FAR = Sofar(seconds=1.0, ended=1, tokens_per_s=4.0, ttft_ms=math.nan, mistakes=0)


class Terminal(io.StringIO):
    """What stderr is in a terminal."""

    def isatty(self) -> bool:
        return True


def test_in_a_terminal_one_line_is_written_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "21")
    with live_line("a run") as progress:
        assert progress is not None
        progress(FAR)
    assert terminal.getvalue() == f"{ERASE}a run: 1 s, 1 respon{ERASE}"


def test_elsewhere_nothing_is_told_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with live_line() as progress:
        assert progress is None


def test_figures_that_there_are_none_of_are_null(tmp_path: Path) -> None:
    write_json(tmp_path / "found.json", {"p50": math.nan})
    assert orjson.loads((tmp_path / "found.json").read_bytes()) == {"p50": None}
    write_json(None, {})


def test_a_file_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="no/such: No such file"):
        write(tmp_path / "no" / "such", b"")
