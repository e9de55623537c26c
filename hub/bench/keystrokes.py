"""Somebody types a program: traces of keys with the times between them. Pure and seeded.

What is typed is real source, key by key, from a function's start on. The times are drawn, not
recorded: gaps between keys are log-normal (studies of free text find that it fits well), longer
where a word or line begins and after punctuation; now and then somebody thinks. A typo is a wrong
character and a backspace. An editor indents a new line by itself, which costs no key. All numbers
are this module's choice and fitted to nothing, so they belong to every result.

A trace says what is *typed*; where completions are accepted is decided while it is played, by
``Reader``, since it depends on what is shown. Accepted text is skipped in the trace.
"""

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

PACES = {"slow": 0.250, "normal": 0.170, "fast": 0.110}
"""The median gap between two keys inside a word, in seconds."""

SIGMA = 0.55
"""Of all gaps: the standard deviation of their logarithm."""
AT_START, AT_PUNCTUATION = 1.45, 1.3
"""How much longer a gap is where a word, a line or a space begins, and before punctuation again."""
THOUGHT, THOUGHT_SIGMA, THINKS = 1.8, 0.5, 0.22
"""The median pause for thought in seconds, its spread, and how often there is one after any of:"""
THINKS_AFTER = "\n(=,:"
TYPOS = 0.03
"""How often a character is typed wrong at first."""

READING = 0.350
"""Seconds from when a text is shown until somebody has read it."""
WORTH = 5
"""Correct characters from which on a text is worth accepting ..."""
ACCEPTS = 0.3
"""... and how often it is then."""

_FUNCTION = re.compile(r"^[ ]*(?:async )?def ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Key:
    """One key: what it does to the text before the cursor, and when."""

    gap: float
    """Seconds since the key before."""
    insert: str
    """More than a character only where the editor indents a new line; empty: a backspace."""
    right: bool = True
    """It leaves the text as the source has it."""

    def apply(self, text: str) -> str:
        """The text before the cursor after this key."""
        return text + self.insert if self.insert else text[:-1]


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a source somebody types: what is between ``start`` and ``end`` is not there yet."""

    source: str
    start: int
    end: int

    @property
    def before(self) -> str:
        """The text before the cursor, at first."""
        return self.source[: self.start]

    @property
    def missing(self) -> str:
        """What will be typed."""
        return self.source[self.start : self.end]

    @property
    def behind(self) -> str:
        """The text behind the cursor, at all times."""
        return self.source[self.end :]


def place(source: str, length: int, rng: random.Random) -> Place:
    """A random function's start, and about ``length`` characters from there, in whole lines.

    Raises ``ValueError`` if the source has no function that is followed by as much.
    """
    starts = [
        found.start()
        for found in _FUNCTION.finditer(source)
        if found.start() + length < len(source)
    ]
    if not starts:
        raise ValueError("no function with enough text behind it")
    start = rng.choice(starts)
    end = source.find("\n", start + length) + 1
    return Place(source, start, end or len(source))


def keys(text: str, rng: random.Random, pace: str = "normal") -> Iterator[Key]:
    """The keys that type ``text``, in order. Applied one after the other they give it."""
    median, at, before = PACES[pace], 0, "\n"
    while at < len(text):
        char = text[at]
        gap = rng.lognormvariate(math.log(median * _slower(char, before)), SIGMA)
        if before in THINKS_AFTER and rng.random() < THINKS:
            gap += rng.lognormvariate(math.log(THOUGHT), THOUGHT_SIGMA)
        if char.isalnum() and rng.random() < TYPOS:
            yield Key(gap, _wrong(char, rng), right=False)
            yield Key(rng.lognormvariate(math.log(median), SIGMA), "")
            gap = rng.lognormvariate(math.log(median), SIGMA)
        inserted = char
        if char == "\n":
            rest = text[at + 1 :]
            inserted += rest[: len(rest) - len(rest.lstrip(" "))]
        yield Key(gap, inserted)
        at += len(inserted)
        before = char


def _slower(char: str, before: str) -> float:
    word = _in_word(char)
    if word and _in_word(before):
        return 1.0
    return AT_START if word or char == " " else AT_START * AT_PUNCTUATION


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _wrong(char: str, rng: random.Random) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz".replace(char.lower(), "")
    return rng.choice(letters)


def arrivals(users: int, mean: float, rng: random.Random) -> list[float]:
    """When each of so many users begins, in seconds: a Poisson process, ``mean`` seconds apart."""
    times, now = [], 0.0
    for _ in range(users):
        times.append(now)
        now += rng.expovariate(1 / mean) if mean else 0.0
    return times


class Reader:
    """Decides whether somebody accepts what is shown. One for each user."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def accepts(self, shown: str, missing: str, pause: float) -> str:
        """What is accepted of a text that stands ``pause`` seconds before the next key; maybe "".

        It is what is correct of it, as far as whole words and lines go: somebody who has read it
        takes no more. The rest is typed.
        """
        right = alike(shown, missing)
        if pause < READING or right < WORTH or self._rng.random() >= ACCEPTS:
            return ""
        taken = missing[:right]
        if right < len(shown):
            # The wrong word began before its first wrong character.
            taken = re.sub(r"\w+\Z", "", taken)
        return taken if len(taken) >= WORTH else ""


def alike(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    most = min(len(one), len(other))
    return next((at for at in range(most) if one[at] != other[at]), most)
