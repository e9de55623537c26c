"""The README's examples, run as they stand against a running hub."""

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.process import command

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
EXAMPLES = [
    *re.findall(r"^```(python)\n(.*?)^```", README, re.MULTILINE | re.DOTALL),
    *re.findall(r"^```(sh)\n((?:id=\$\()?curl .*?)^```", README, re.MULTILINE | re.DOTALL),
]
RUN = {"python": (sys.executable, "-c"), "sh": ("sh", "-euc")}


def test_the_examples_were_found() -> None:
    assert [language for language, _ in EXAMPLES] == ["python"] * 8 + ["sh"] * 3


@pytest.mark.parametrize(("language", "example"), EXAMPLES)
async def test_an_example_of_the_readme_runs(language: str, example: str) -> None:
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    async with command("serve", "--port", "0", "--sim", "--sim-speed", "50") as hub:
        code = example.replace("127.0.0.1:8765", hub.url.removeprefix("http://"))
        assert code != example
        process = await asyncio.create_subprocess_exec(
            *RUN[language], code, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await process.communicate()
    assert (process.returncode, err.decode()) == (0, "")
    assert len(out) > 30
    assert b"error" not in out.replace(b'"error":null', b"").lower()
