"""Where a completion ends by hub's own rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.early_stop import LONGEST, EarlyStop, Stopper
from tests.api.speech import no_deadline


def stopped(rules: EarlyStop, text: str) -> tuple[str, str | None]:
    """What is said of a text that comes in one piece, and why it ended."""
    stopper = Stopper(rules)
    said = stopper.feed(text, 0.0)
    said += stopper.rest()
    return said, stopper.reason


SINGLE = EarlyStop(single_line=True)
INDENT = EarlyStop(indent=4)
CLOSED = EarlyStop(suffix="\n    }\n")
CALL = EarlyStop(suffix=")\n")
REST = EarlyStop(suffix=", b, c)\n")
NEXT = EarlyStop(suffix="\n\ndef mul(a, b):\n    return")
MARKED = EarlyStop(markers=("<|fim_prefix|>", "<|end|>"))


@pytest.mark.parametrize(
    ("rules", "text", "said", "reason"),
    [
        (EarlyStop(), "a\nb\n", "a\nb\n", None),
        # A single line.
        (SINGLE, "a", "a", None),
        (SINGLE, "a\nb", "a", "line"),
        (SINGLE, "a\r\nb", "a", "line"),
        (SINGLE, "a\rb", "a\rb", None),
        (SINGLE, "\n  \n  a\nb", "\n  \n  a", "line"),
        (SINGLE, "\n\n", "\n\n", None),
        # Indentation: the cursor's line is exempt, and a blank line has none.
        (INDENT, "a\nb", "a", "indent"),
        (INDENT, "a\n    b\n   c", "a\n    b", "indent"),
        (INDENT, "a\n\n    b\n\n\nc", "a\n\n    b", "indent"),
        (INDENT, "a\r\n\r\nb", "a", "indent"),
        (INDENT, "a\n\t\t\t\tb\n\t\t\tc", "a\n\t\t\t\tb", "indent"),
        (INDENT, "a\n  ", "a\n  ", None),
        (INDENT, "a\n\n", "a\n\n", None),
        (INDENT, "\nb", "", "indent"),
        (EarlyStop(indent=0), "a\nb", "a\nb", None),
        # The line that follows is repeated.
        (CLOSED, "a\n    }\nb", "a", "suffix"),
        (CLOSED, "a\n    }", "a", "suffix"),
        (CLOSED, "a\n    }  \n", "a", "suffix"),
        (CLOSED, "a\n\n    }\n", "a", "suffix"),
        (CLOSED, "a\n        }\nb", "a\n        }\nb", None),
        (CLOSED, "a\n    };\n", "a\n    };\n", None),
        # What is no telling line may be what the cursor's line needs.
        (CLOSED, "}\n", "}\n", None),
        (NEXT, "a\ndef mul(a, b):\n", "a", "suffix"),
        (NEXT, "def mul(a, b):\n", "", "suffix"),
        (NEXT, "def mul(a, b", "def mul(a, b", None),
        (EarlyStop(suffix="\n    return x"), "return x", "", "suffix"),
        (EarlyStop(suffix="\n    return x"), "a\nreturn x", "a\nreturn x", None),
        (EarlyStop(suffix=" \r\n  }\r\n"), "a\r\n  }\r\n", "a", "suffix"),
        (EarlyStop(suffix=" \n\n"), "a\n\nb\n", "a\n\nb\n", None),
        # The rest of the cursor's line is repeated.
        (CALL, ")", "", "suffix"),
        (CALL, ")\n", "", "suffix"),
        (CALL, ")  \nb", "", "suffix"),
        (CALL, "x)", "x)", None),
        (CALL, ").y", ").y", None),
        (CALL, "\n    a,\n)\nb", "\n    a,\n", "suffix"),
        (REST, "a, b, c)", "a", "suffix"),
        (REST, "a, b, c)\nd", "a", "suffix"),
        (REST, "a, b, c) + 1", "a, b, c) + 1", None),
        (REST, "a, b", "a, b", None),
        (REST, "a, b, c), b, c)", "a, b, c)", "suffix"),
        (EarlyStop(suffix=")" * LONGEST), ")" * LONGEST, "", "suffix"),
        (EarlyStop(suffix="x" * (LONGEST + 1)), "x" * (LONGEST + 1), "x" * (LONGEST + 1), None),
        # Markers.
        (MARKED, "a<|end|>b", "a", "stop"),
        (MARKED, "a<|fim_prefix|>b<|end|>", "a", "stop"),
        (MARKED, "a <| b <|end", "a <| b <|end", None),
        (EarlyStop(indent=4, markers=("<e>",)), "a\n\n<e>", "a\n\n", "stop"),
        (EarlyStop(suffix="\n}", markers=("<e>",)), "a\n}<e>", "a", "suffix"),
        # Several.
        (EarlyStop(single_line=True, suffix=", b)"), "a, b)\nc", "a", "suffix"),
        (EarlyStop(indent=4, suffix="\n}"), "a\n}", "a", "indent"),
        (EarlyStop(indent=1, suffix=")"), "a\n )\nb", "a\n ", "suffix"),
    ],
)
def test_where_a_text_ends(rules: EarlyStop, text: str, said: str, reason: str | None) -> None:
    assert stopped(rules, text) == (said, reason)


def test_the_budget_ends_the_line_at_whose_end_it_is_used_up() -> None:
    """It counts from the first text, and a line that is late is finished."""
    stopper = Stopper(EarlyStop(budget=0.25))
    assert stopper.feed("a\n", 100.0) == "a\n"
    assert stopper.feed("b\n", 100.25) == "b\n"
    assert stopper.feed("c", 100.3) == "c"
    assert stopper.reason is None
    assert stopper.feed("d\r\ne", 101.0) == "d"
    assert stopper.reason == "budget"


def test_a_late_text_that_has_not_begun_yet_goes_on() -> None:
    """A blank completion is of no use."""
    stopper = Stopper(EarlyStop(budget=0.25))
    assert stopper.feed(" \n", 0.0) == " \n"
    assert stopper.feed("\n  a", 1.0) == "\n  a"
    assert stopper.feed("\nb", 1.0) == ""
    assert stopper.reason == "budget"


@pytest.mark.parametrize(
    ("rules", "pieces"),
    [
        (EarlyStop(budget=9), [("a\n", "a\n"), ("b", "b")]),
        (INDENT, [("a\n", "a"), ("\n  ", ""), ("  b", "\n\n    b")]),
        (NEXT, [("a\nd", "a"), ("ef", ""), ("x", "\ndefx")]),
        (REST, [("a,", "a"), (" b", ""), ("x", ", bx"), (", b, c)", ""), (" ", ""), (".", None)]),
        (CALL, [(")", ""), ("]", ")]"), (")", ")")]),
        (MARKED, [("a<", "a"), ("|f", ""), ("|", "<|f|"), ("<|en", ""), ("d", "")]),
        (SINGLE, [("a\r", "a"), ("b", "\rb")]),
        # The indentation is judged of the whole line, before any of it is said.
        (EarlyStop(indent=2, suffix=")"), [("a\n  ", "a"), (")", "\n  "), ("b", ")b")]),
    ],
)
def test_no_more_is_held_back_than_may_not_be_said(
    rules: EarlyStop, pieces: list[tuple[str, str | None]]
) -> None:
    stopper = Stopper(rules)
    for piece, said in pieces:
        told = stopper.feed(piece, 0.0)
        assert said is None or told == said


def test_what_follows_the_end_is_not_said() -> None:
    stopper = Stopper(SINGLE)
    assert stopper.feed("a\nb", 0.0) == "a"
    assert stopper.feed("c", 0.0) == ""
    assert stopper.rest() == ""


# Few letters, so that the rules often meet what they are about.
texts = st.text(st.sampled_from("ab) \n\t\r<|>"), max_size=24)
rules = st.builds(
    EarlyStop,
    single_line=st.booleans(),
    indent=st.none() | st.integers(0, 3),
    budget=st.none() | st.just(0.5),
    suffix=texts,
    markers=st.lists(st.text(st.sampled_from("<|>"), min_size=1, max_size=3), max_size=2).map(
        tuple
    ),
)


@settings(no_deadline, max_examples=400)
@given(rules, texts, st.data())
def test_the_cutting_changes_nothing(rules: EarlyStop, text: str, data: st.DataObject) -> None:
    """However a text is cut, the same is said of it, for the same reason, and is its beginning."""
    stopper = Stopper(rules)
    said, left = "", text
    while left:
        size = data.draw(st.integers(1, len(left)))
        said += stopper.feed(left[:size], 0.0)
        left = left[size:]
        assert text.startswith(said)
    said += stopper.rest()
    assert (said, stopper.reason) == stopped(rules, text)
    assert text.startswith(said)
    if stopper.reason is None:
        assert said == text, "nothing is held back for ever"
    assert not any(marker in said for marker in rules.markers)


@given(texts, texts)
def test_a_completion_that_goes_by_the_rules_is_whole(text: str, suffix: str) -> None:
    """Said again, what was said before is said in full, but for a repetition at its new end."""
    rules = EarlyStop(single_line=True, indent=2, suffix=suffix)
    said, _ = stopped(rules, text)
    again, why = stopped(rules, said)
    assert (again, why) == (said, None) or why == "suffix"
    assert "\n" not in said.strip()
