"""What a completion is asked with, and what is made of its text."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.lsp.context import (
    BEFORE,
    BEHIND,
    BEHIND_LINES,
    STEP,
    Context,
    Insertion,
    Selected,
    assemble,
    fit,
)


def lines_of(text: str) -> list[str]:
    return [*io.StringIO(text, newline=""), *([""] if not text or text[-1] == "\n" else [])]


def at(text: str, selected: Selected | None = None) -> Context:
    """The context of the ``|``."""
    before, behind = text.split("|")
    row, column = before.count("\n"), len(before) - before.rfind("\n") - 1
    context = assemble(lines_of(before + behind), row, column, selected)
    assert context is not None
    return context


@pytest.mark.parametrize("text", ["|", "|x", "x|", "x\n|", "a\nb|c\nd", "a\n\n|\n", "😀|😀\n"])
def test_a_small_file_is_the_context(text: str) -> None:
    context = at(text)
    assert (context.prefix, context.suffix) == tuple(text.split("|"))


def test_models_get_the_line_ends_that_they_know_and_no_half_characters() -> None:
    context = at("a\r\nb\ud83d|\r\nc\r\n")
    assert (context.prefix, context.suffix) == ("a\nb?", "\nc\n")
    assert (context.head, context.rest) == ("b\ud83d", "")


@pytest.mark.parametrize("text", ["a\0|b", "a|b\0"])
def test_what_is_no_text_has_no_context(text: str) -> None:
    before, behind = text.split("|")
    assert assemble([before + behind], 0, len(before)) is None


def starts(lines: list[str], rows: range) -> list[int]:
    """In which line the prefix of each row's end begins."""
    found = []
    for row in rows:
        context = assemble(lines, row, len(lines[row]))
        assert context is not None
        found.append(row - context.prefix.count("\n"))
    return found


def test_the_window_begins_where_it_did_for_many_lines() -> None:
    lines = ["x = 1  # about forty characters of text.\n"] * 2000
    found = starts(lines, range(500, 1500))
    assert {start % STEP for start in found} == {0}
    # Each begin is kept for as long as the step allows.
    assert len(set(found)) <= 1000 // STEP + 1


@given(st.lists(st.integers(0, 1500), min_size=1, max_size=80), st.data())
def test_the_window_ends_at_the_cursor_is_bounded_and_holds_enough(
    lengths: list[int], data: st.DataObject
) -> None:
    lines = ["x" * length + "\n" for length in lengths] + [""]
    row = data.draw(st.integers(0, len(lines) - 1))
    column = data.draw(st.integers(0, len(lines[row].rstrip("\n"))))
    context = assemble(lines, row, column)
    assert context is not None
    before = "".join(lines[:row]) + lines[row][:column]
    behind = lines[row][column:] + "".join(lines[row + 1 :])
    assert before.endswith(context.prefix)
    assert behind.startswith(context.suffix)
    assert min(len(before), BEFORE // 2) <= len(context.prefix) <= BEFORE
    assert len(context.suffix) <= BEHIND
    assert context.suffix.count("\n") <= BEHIND_LINES


def test_a_line_that_is_longer_than_the_window_is_cut_in_steps() -> None:
    contexts = [at("x" * (3 * BEFORE + more) + "|") for more in range(500)]
    assert all(BEFORE // 2 <= len(context.prefix) <= BEFORE for context in contexts)
    cuts = {3 * BEFORE + more - len(context.prefix) for more, context in enumerate(contexts)}
    assert len(cuts) <= 2


def test_the_suffix_has_whole_lines() -> None:
    assert at("|" + "x\n" * 200).suffix == "x\n" * BEHIND_LINES
    long = "x" * 999 + "\n"
    assert at("|" + long * 9).suffix == long * 4
    assert at("|" + "x" * 9999).suffix == "x" * BEHIND


@pytest.mark.parametrize(
    ("text", "in_line"),
    [
        ("foo(|", False),
        ("foo(|)", False),
        ('print("|")  \n', False),
        ("{ x: [|] };\n", False),
        ("x = |1", True),
        ("foo(|a)", True),
        ("|\nbar", False),
    ],
)
def test_what_an_editor_closes_by_itself_is_no_text_behind_the_cursor(
    text: str, in_line: bool
) -> None:
    assert at(text).in_line is in_line


def test_the_indent_is_that_of_the_line_before_the_cursor() -> None:
    assert [at(text).indent for text in ("|  a", "  |  a", "  \ta|", "a  |")] == [0, 2, 3, 0]


def test_what_is_selected_in_the_list_counts_as_typed() -> None:
    context = at("import o\nx = os.pa|)\n", Selected(7, 9, "path"))
    assert (context.prefix, context.suffix) == ("import o\nx = os.path", ")\n")
    assert fit(context, ".join(") == Insertion("x = os.path.join(", 6, False)


@pytest.mark.parametrize(
    ("text", "said", "accepted"),
    [
        ("    return |", "a + b\n", "    return a + b"),
        ("x|", " = 1\ny = 2\n\n", "x = 1\ny = 2"),
        # The closing bracket is there.
        ("foo(|)", "a, b)", "foo(a, b)"),
        ("foo(|)", "g()", "foo(g())"),
        ("foo(|)", "g())", "foo(g())"),
        ("foo(|)", "a", "foo(a)"),
        ('print("|")', 'hello")', 'print("hello")'),
        ("print('|')", 'it")', "print('it\")')"),
        ("foo(|)", "\n    a,\n)", "foo(\n    a,\n)"),
        ("foo(|)", "a)\nbar()", "foo(a)\nbar()"),
        ("foo(|)\n", "\n    a,\n", "foo(\n    a,)\n"),
        ("f(|)", "'a)", "f('a))"),
        # So is the rest of the line.
        ("x = |bar", "foo + bar", "x = foo + bar"),
    ],
)
def test_what_is_behind_the_cursor_is_not_said_twice(text: str, said: str, accepted: str) -> None:
    context = at(text)
    insertion = fit(context, said)
    assert insertion is not None
    rest = text.split("|")[1]
    behind = rest[len(context.rest) :] if insertion.to_end else rest
    assert insertion.text + behind == accepted
    assert insertion.text == context.head + insertion.text[-insertion.added :]


@pytest.mark.parametrize(
    ("text", "said"), [("x|", ""), ("x|", " \n\n"), ("foo(|)", ")"), ("x = |bar", "bar")]
)
def test_an_item_that_would_add_nothing_is_none(text: str, said: str) -> None:
    assert fit(at(text), said) is None
