"""The checker of a chaos run must find what it is there for, and its faults come as planned."""

import io
import itertools
import random
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from hub.bench import chaos_book, chaos_report
from hub.bench.chaos import Owners
from hub.bench.chaos_book import Asked, Book
from hub.bench.chaos_crowd import Crowd
from hub.bench.chaos_faults import KINDS, plan
from hub.bench.chaos_reading import Reading
from hub.bench.text import Vocabulary

TEXT = Vocabulary().answer(1, 6)
WORDS = Vocabulary().words
AT = WORDS.index(next(word for word in WORDS if TEXT.startswith(word)))
TOKENS = WORDS[AT : AT + 6]


@pytest.fixture
def book() -> Book:
    return Book(1, io.BytesIO())


def asked() -> Asked:
    return Asked(1, 6, "foreground, SSE", TEXT)


def delta(number: int, text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "sequence_number": number, "delta": text}


def created(id: str = "resp_1") -> dict[str, Any]:
    return {"type": "response.created", "sequence_number": 0, "response": {"id": id}}


def end(number: int, text: str = TEXT, status: str = "completed") -> dict[str, Any]:
    output = [{"type": "message", "content": [{"text": text}]}]
    response = {"status": status, "output": output, "error": None, "incomplete_details": None}
    return {"type": "response.completed", "sequence_number": number, "response": response}


def read(book: Book, one: Asked, *events: dict[str, Any]) -> Reading:
    reading = Reading(one, book)
    for event in events:
        reading.take(event)
    return reading


def test_readers_of_the_same_text_agree_however_it_was_merged(book: Book) -> None:
    one = asked()
    read(book, one, created(), *(delta(n + 3, t) for n, t in enumerate(TOKENS)), end(12))
    merged = delta(5, "".join(TOKENS[:3])), delta(8, "".join(TOKENS[3:]))
    reading = read(book, one, created(), *merged, end(12))
    assert reading.end == "completed"
    assert one.id == "resp_1"
    assert book.flawless


@pytest.mark.parametrize(
    ("events", "wrong"),
    [
        ([delta(3, TOKENS[0]), delta(4, TOKENS[2])], {chaos_book.MISSING: len(TOKENS[1])}),
        ([delta(3, TOKENS[0]), delta(4, TOKENS[0])], {chaos_book.REPEATED: len(TOKENS[0])}),
        ([delta(3, TOKENS[0]), delta(4, "§")], {chaos_book.DISORDER: 1}),
        ([delta(3, TOKENS[0]), delta(3, TOKENS[1])], {chaos_book.NUMBERS: 1}),
        ([created(), delta(3, TEXT), end(4, TEXT + "!")], {chaos_book.WRONG_RESULT: 1}),
        ([delta(3, TOKENS[0]), end(4)], {chaos_book.MISSING: len(TEXT) - len(TOKENS[0])}),
        ([delta(3, TEXT), end(4), end(5)], {chaos_book.NUMBERS: 1}),
        ([created(), created("resp_2")], {chaos_book.NUMBERS: 1}),
    ],
)
def test_whatever_is_wrong_with_a_text_is_found(
    book: Book, events: list[dict[str, Any]], wrong: dict[str, int]
) -> None:
    read(book, asked(), *events)
    assert {what: count for what, count in book.wrong.items() if count} == wrong
    assert not book.flawless


def test_a_number_stands_for_one_place_whoever_reads(book: Book) -> None:
    one = asked()
    read(book, one, delta(3, TOKENS[0]))
    read(book, one, delta(3, TOKENS[0] + TOKENS[1]))
    assert book.wrong[chaos_book.NUMBERS] == 1


def test_a_response_has_one_end_and_one_id(book: Book) -> None:
    one = asked()
    read(book, one, created(), delta(3, TEXT), end(4))
    read(book, one, created("resp_2"), delta(3, TEXT), end(4, status="failed"))
    assert book.wrong[chaos_book.RESULTS] == book.wrong[chaos_book.TWICE] == 1


def test_who_goes_back_reads_on_from_there(book: Book) -> None:
    one = asked()
    dice = random.Random(1)
    events = [created(), *(delta(n + 3, t) for n, t in enumerate(TOKENS)), end(12)]
    reading = read(book, one, *events[:5])
    for _ in range(20):
        reading.go_back(dice)
        for event in events:
            if event["sequence_number"] > reading.cursor and event["type"] != events[-1]["type"]:
                reading.take(event)
    reading.take(events[-1])
    assert reading.end == "completed"
    assert book.flawless


def test_a_mistake_is_noted_with_what_explains_it() -> None:
    history = io.BytesIO()
    book = Book(1, history)
    read(book, asked(), delta(3, TOKENS[1]))
    line = orjson.loads(history.getvalue())
    assert line["what"] == f"WRONG: {chaos_book.MISSING}"
    assert line["expected"] == TEXT
    assert line["response"]["seed"] == 1
    assert f"WRONG: {chaos_book.MISSING} " in chaos_report.table(book)
    assert chaos_report.json(book)["wrong"][chaos_book.MISSING] == len(TOKENS[0])


def test_a_seed_is_a_plan_in_which_every_kind_comes_early() -> None:
    one, same, other = ([*itertools.islice(plan(seed, 3), 60)] for seed in (1, 1, 2))
    assert one == same != other
    assert {fault.kind for fault in one[: len(KINDS)]} == {*KINDS}
    assert {fault.node for fault in one} == {0, 1, 2}
    assert 0 < sum(fault.overlaps for fault in one) < 30
    assert {fault.kind for fault in itertools.islice(plan(1, 1, ("stop Redis",)), 5)} == {
        "stop Redis"
    }


def test_a_text_that_another_node_goes_on_with_has_been_taken_over(book: Book) -> None:
    one, spared = asked(), asked()
    owners = Owners(book)
    owners.crowd = cast(Crowd, SimpleNamespace(live={1: one, 2: spared}))
    owners.asked(1, 0, "node-0")
    owners.asked(2, 0, "node-0")
    owners.hit(0, "stop a node beyond its lease")
    owners.asked(1, 8, "node-2")
    owners.spared(0, "stop a node beyond its lease")
    assert one.moved is not None
    assert one.moved[1:] == ("stop a node beyond its lease", 8)
    assert (one.owner, spared.owner) == (2, 0)
    assert spared.hit is None
    assert spared.moved is None
    assert book.continued == 1
