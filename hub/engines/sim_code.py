"""What the simulated model fills gaps in code with: lines that go on where the cursor is. Pure.

It finishes the line that is begun and goes on with lines that are indented as that is, in blocks
that close again, with the words of the code around.
"""

import random
import re
from collections.abc import Sequence

STEP = "    "
MOST_DEPTH = 2
"""Blocks that are opened inside each other."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{2,23}")
_KEYWORD_LIST = """
    and assert break class const continue def elif else except false finally for from function
    import let none not null pass raise return self static struct this true try var void while
    with yield
"""
_KEYWORDS = frozenset(_KEYWORD_LIST.split())
_DEFAULT_NAMES = ("value", "items", "result", "index")

_ENDS = ("{name}({other})", "{name}", "{name}.{other}", "[{name}, {other}]", "{name} + {number}")
_LINES = (
    "{name} = {other}",
    "{name} = {other}[{number}]",
    "{name}.append({other})",
    "{other} = {name}({number})",
    'print(f"{name}: {{{name}}} ✓")',
    "# {name} first, {other} after that",
    "{name} += {number}",
)
_BLOCKS = (
    "if {name}:",
    "for {other} in {name}:",
    "while {name} < {number}:",
    "with open({name}) as {other}:",
)
_LASTS = ("return {name}", "return {name} + {other}", "continue", "{name} = None")


def names(text: str) -> tuple[str, ...]:
    """The names in the code around a gap that are worth taking up, the last ones first."""
    # A few thousand characters around the cursor say what it is about.
    found = dict.fromkeys(reversed(_NAME.findall(text[-4000:])))
    telling = tuple(name for name in found if name.lower() not in _KEYWORDS)[:16]
    return telling or _DEFAULT_NAMES


def filling(rng: random.Random, prefix: str, about: Sequence[str], lines: int) -> str:
    """What goes on behind ``prefix``: the rest of its line, and so many lines more."""
    line = prefix[prefix.rfind("\n") + 1 :]
    indent = line[: len(line) - len(line.lstrip())]
    depth = 0
    if line.rstrip().endswith((":", "{")):
        text, depth = "", 1
    elif line.strip():
        text = ("" if line[-1].isspace() else " ") + _line(rng, about, _ENDS)
    else:
        text = _line(rng, about, _LINES)
    for left in range(lines, 0, -1):
        opens = depth < MOST_DEPTH and left > 2 and rng.random() < 0.25
        last = depth > 0 and not opens and rng.random() < 0.35
        templates = _BLOCKS if opens else _LASTS if last else _LINES
        text += f"\n{indent}{STEP * depth}{_line(rng, about, templates)}"
        depth += opens - last
    return text


def _line(rng: random.Random, about: Sequence[str], templates: Sequence[str]) -> str:
    return rng.choice(templates).format(
        name=rng.choice(about), other=rng.choice(about), number=rng.randint(0, 99)
    )
