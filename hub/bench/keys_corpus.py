"""What is typed: source files of the Python that runs, from a fixed list, and places in them."""

import random
import sysconfig
from functools import cache
from pathlib import Path

from hub.bench.keystrokes import Place, place

FILES = (
    "argparse.py",
    "ast.py",
    "configparser.py",
    "difflib.py",
    "doctest.py",
    "fractions.py",
    "inspect.py",
    "mailbox.py",
    "optparse.py",
    "pickle.py",
    "plistlib.py",
    "smtplib.py",
    "tarfile.py",
    "textwrap.py",
    "tokenize.py",
    "zipfile.py",
)
"""Of the standard library. Which text they hold depends on the version: it belongs to a result."""


@cache
def source(name: str) -> str:
    """A file's text. Raises ``OSError``: this Python has come without its library's source."""
    path = Path(sysconfig.get_path("stdlib")) / name
    if not path.exists():
        # Some have become packages: zipfile in 3.12.
        path = path.with_suffix("") / "__init__.py"
    return path.read_text(encoding="utf-8")


def sources() -> list[str]:
    """All of them."""
    return [source(name) for name in FILES]


def places(count: int, length: int, rng: random.Random) -> list[Place]:
    """Different places, about ``length`` characters each."""
    texts = [text for text in sources() if len(text) > 4 * length]
    found: dict[str, Place] = {}
    while len(found) < count:
        one = place(rng.choice(texts), length, rng)
        found[one.behind] = one
    return [*found.values()]
