"""The sink between an engine and a job: it notes the first word, and gets out of the way."""

from collections.abc import Callable

import pytest

from hub.api.requests import Usage
from hub.dispatch.flight import Flight, Watch
from hub.dispatch.terms import Ticket
from hub.dispatch.upstream import Upstream
from hub.engines.base import Sink
from tests.dispatch.bench import ScriptedEngine, Work


class Notes:
    """A sink that takes down everything, whatever the order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[object, ...]]] = []

    def text(self, *words: object) -> None:
        self.calls.append(("text", words))

    def reasoning(self, *words: object) -> None:
        self.calls.append(("reasoning", words))

    def refusal(self, *words: object) -> None:
        self.calls.append(("refusal", words))

    def tool_call(self, *words: object) -> None:
        self.calls.append(("tool_call", words))

    def finish(self, *words: object) -> None:
        self.calls.append(("finish", words))

    def usage(self, *words: object) -> None:
        self.calls.append(("usage", words))


WORDS: dict[str, Callable[[Sink], None]] = {
    "text": lambda sink: sink.text("a", None),
    "reasoning": lambda sink: sink.reasoning("a"),
    "refusal": lambda sink: sink.refusal("a"),
    "tool_call": lambda sink: sink.tool_call(0, "id", "name", "{}"),
    "finish": lambda sink: sink.finish("stop"),
}


@pytest.mark.parametrize("first", WORDS)
def test_the_first_word_is_noted_once_and_all_words_are_passed_on(first: str) -> None:
    """Whichever it is; from the second on the job's own sink is called, but for the end."""
    sink, noted = Notes(), list[int]()
    watch = Watch(sink, lambda: noted.append(len(sink.calls)))
    WORDS[first](watch)
    for word in WORDS.values():
        word(watch)
    assert noted == [0]
    direct = Notes()
    for word in (WORDS[first], *WORDS.values()):
        word(direct)
    assert sink.calls == direct.calls
    assert all(getattr(watch, name) == getattr(sink, name) for name in WORDS if name != "finish")


def test_counts_are_no_word() -> None:
    """They say nothing that could not be said again."""
    sink, noted = Notes(), list[int]()
    watch = Watch(sink, lambda: noted.append(1))
    watch.usage(Usage(1, 2))
    assert (len(sink.calls), noted) == (1, [])


def test_an_engine_that_holds_on_to_the_sinks_first_method_notes_one_first_word() -> None:
    """It may have got hold of it before the first word."""
    noted: list[Flight] = []

    def note(flight: Flight) -> None:
        flight.first_at = 1.0
        noted.append(flight)

    work = Work()
    flight = Flight(
        work,
        Ticket(work.terms, "", 1, 1),
        Upstream(ScriptedEngine("e", {"": True}, arrays=False), 1),
        on_first=note,
        on_done=lambda flight, error: None,
    )
    work.started_at = 0.0
    text = flight.sink.text
    for number in range(3):
        text(f"{work.key}: {number}")
    assert noted == [flight]
    assert flight.said
