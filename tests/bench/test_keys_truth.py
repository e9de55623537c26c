"""The oracle's answers: the truth, for a while."""

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.bench.keys_truth import NONSENSE, Truth, tokens_of

SOURCE = "".join(f"    name_{number} = value({number})\n" for number in range(100))
END = SOURCE.index("    name_90")


def said(survives: float, at: int, *, length: int = 16, seed: int = 0) -> str:
    truth = Truth([SOURCE], survives, length, seed)
    return "".join(truth.continuation(SOURCE[:at], SOURCE[END:]))


@given(text=st.text("ab1_ (\n~", max_size=50))
@settings(max_examples=50)
def test_tokens_make_up_the_text(text: str) -> None:
    assert "".join(tokens_of(text)) == text


@given(at=st.integers(200, END))
@settings(max_examples=30)
def test_all_is_true_if_every_token_survives(at: int) -> None:
    """It ends where the text behind the cursor begins."""
    text = said(1.0, at)
    assert SOURCE[at:END].startswith(text)
    assert text or at == END


@given(at=st.integers(200, END - 100), seed=st.integers(0, 100))
@settings(max_examples=30)
def test_it_goes_wrong_once_and_for_all(at: int, seed: int) -> None:
    """The truth, then other tokens of the same form, the same ones for whoever asks there."""
    text, true = said(0.8, at, seed=seed), said(1.0, at)
    assert len(text) == len(true)
    assert text == said(0.8, at, seed=seed)
    wrong = next((n for n in range(len(text)) if text[n] != true[n]), len(text))
    assert not any(a == b for a, b in zip(text[wrong:], true[wrong:], strict=True) if b.isalpha())


def test_nothing_is_true_if_no_token_survives() -> None:
    assert said(0.0, 304)[:3] != said(1.0, 304)[:3]


def test_after_a_typo_there_is_no_truth() -> None:
    truth = Truth([SOURCE])
    assert truth.continuation(SOURCE[:500] + "~", SOURCE[END:]) == [NONSENSE] * 16
    assert truth.continuation(SOURCE[:500], "of another file") == [NONSENSE] * 16


def test_an_answer_is_as_long_as_was_asked_and_no_longer_than_it_can_be() -> None:
    truth = Truth([SOURCE], 1.0, 8)
    before, behind = SOURCE[:500], SOURCE[END:]
    lengths = [len(truth.continuation(before, behind, most)) for most in (None, -1, 0, 3, 100)]
    assert lengths == [8, 8, 0, 3, 8]


def test_without_anything_behind_the_text_goes_to_its_end() -> None:
    truth = Truth([SOURCE], 1.0, 1000)
    assert "".join(truth.continuation(SOURCE[:-20], "")) == SOURCE[-20:]


def test_a_short_text_behind_may_stand_in_several_places() -> None:
    """The first of them that the text before the cursor leads to."""
    source = "a = 1\nb\nc = 2\nb\n"
    truth = Truth([source], 1.0)
    assert "".join(truth.continuation("a = 1\nb\nc", "b\n")) == " = 2\n"
