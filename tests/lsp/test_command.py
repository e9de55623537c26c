"""What the command says before it serves."""

import sys

import pytest
from click.testing import CliRunner

from hub.lsp.command import lsp


def test_without_pygls_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hub.lsp.server", raising=False)
    monkeypatch.delitem(sys.modules, "hub.lsp.document", raising=False)
    for name in {"pygls", *(name for name in sys.modules if name.startswith("pygls."))}:
        monkeypatch.setitem(sys.modules, name, None)
    result = CliRunner().invoke(lsp, [])
    assert result.exit_code == 1
    assert "pip install 'hub-stream[lsp]'" in result.output


def test_a_url_that_is_none_is_an_error_that_names_it() -> None:
    result = CliRunner().invoke(lsp, ["--url", "example.org"])
    assert result.exit_code == 2
    assert "--url" in result.output
    assert "example.org" in result.output
