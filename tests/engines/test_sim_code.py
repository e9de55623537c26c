"""What the simulated model fills gaps with."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.requests import ContextFile, Generation
from hub.engines.sim_code import filling, names
from hub.engines.sim_text import full_text, prompt_tokens, script


def gap(prefix: str, suffix: str = "", **more: object) -> Generation:
    return Generation("", (), prompt=prefix, suffix=suffix, extra=more)


@settings(max_examples=50)
@given(st.text(), st.text(), st.integers(0, 99))
def test_any_gap_is_filled(prefix: str, suffix: str, seed: int) -> None:
    """With the same text for the same gap and seed, whose tokens make it up."""
    generation = gap(prefix, suffix)
    text = full_text(generation, seed)
    assert text == full_text(generation, seed)
    assert "".join(script(generation, seed).text) == text
    assert text.strip()


def test_the_seed_and_both_sides_of_the_gap_change_it() -> None:
    texts = [gap("a = "), gap("b = "), gap("a = ", "x"), gap("a = ", seed=1)]
    assert len({*map(full_text, texts), full_text(gap("a = "), 1)}) == 5


@pytest.mark.parametrize(
    ("prefix", "indent", "first"),
    [
        ("def f():\n    ", "    ", ""),
        ("def f():\n    return ", "    ", ""),
        ("def f():\n    return", "    ", " "),
        ("def f():", "", "\n    "),
        ("\tif (x) {", "\t", "\n\t    "),
        ("", "", ""),
    ],
)
def test_the_lines_are_indented_as_the_cursors_is(prefix: str, indent: str, first: str) -> None:
    """Deeper where a block begins, and the line that is begun is finished."""
    for seed in range(20):
        text = filling(random.Random(seed), prefix, ["name"], 5)
        assert text.startswith(first)
        assert text.count("\n") == 5
        lines = text.split("\n")
        if not first.startswith("\n"):
            assert lines[0].strip()
        for line in lines[1:]:
            step = line[: len(line) - len(line.lstrip())]
            assert step.startswith(indent)
            assert len(step) <= len(indent) + 8


def test_the_names_around_are_taken_up() -> None:
    """The nearest first, but no keywords; others where there are none."""
    assert names("first = second\nreturn third") == ("third", "second", "first")
    assert names("if x: pass") == names("")
    assert "second" in "".join(full_text(gap("first(second, ", seed=s)) for s in range(9))


def test_a_gaps_tokens_are_those_of_all_that_is_around() -> None:
    """Four characters each."""
    files = (ContextFile("a.py", "x" * 40),)
    assert prompt_tokens(Generation("", (), prompt="x" * 20, suffix="y" * 20, files=files)) == 20
    assert prompt_tokens(gap("")) == 1
