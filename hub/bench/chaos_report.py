"""What a chaos run has found, as a table and as JSON. Pure."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hub.bench.chaos_book import Book
from hub.bench.report import plain
from hub.bench.stats import Spread, spread

BY_FAULT = "take-over after"


def table(book: Book) -> str:
    """All of it, a line each."""
    rows: list[tuple[str, object]] = [
        ("seed", book.seed),
        ("seconds", round(book.seconds)),
        *((f"fault: {kind}", count) for kind, count in sorted(book.faults.items())),
        ("faults", book.faults.total()),
        *((f"accepted: {kind}", count) for kind, count in sorted(book.accepted.items())),
        *(
            (f"ended: {kind}: {end}", count)
            for kind, ends in sorted(book.ended.items())
            for end, count in sorted(ends.items())
        ),
        ("readers", book.readers),
        *((f"connects, {way}", count) for way, count in sorted(book.connects.items())),
        ("characters read", book.characters),
        ("texts gone on with on another node", book.continued),
        *((f"asked elsewhere: {why}", count) for why, count in sorted(book.refused.items())),
        *((f"WRONG: {what}", count) for what, count in book.wrong.items()),
        *((f"{name}, p50 / p99 / max", _times(one)) for name, one in spreads(book).items()),
    ]
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{value}" for name, value in rows]
    return "\n".join([*lines, *(f"! {example}" for example in book.examples)])


def spreads(book: Book) -> dict[str, Spread]:
    """The times, in ms: from the fault to the first new text that anybody reads of each response
    that moved; and in calm weather, from asking another node to the first news, and from asking for
    a response to hearing of its beginning."""
    moved = [seconds for times in book.takeovers.values() for seconds in times]
    return {
        "take-over": spread(moved, 1e3),
        "take-over until the model server is asked": spread(book.asked_again, 1e3),
        **{
            f"{BY_FAULT}: {kind}": spread(times, 1e3)
            for kind, times in sorted(book.takeovers.items())
        },
        "resume on another node": spread(book.resumes, 1e3),
        "create acknowledged": spread(book.creates, 1e3),
    }


def json(book: Book) -> dict[str, Any]:
    """The same, for programs."""
    return {
        "seed": book.seed,
        "seconds": book.seconds,
        "faults": dict(book.faults),
        "accepted": dict(book.accepted),
        "ended": {kind: dict(ends) for kind, ends in book.ended.items()},
        "readers": book.readers,
        "connects": dict(book.connects),
        "characters": book.characters,
        "continued": book.continued,
        "asked_elsewhere": dict(book.refused),
        "wrong": dict(book.wrong),
        "examples": book.examples,
        "ms": {name: asdict(one) for name, one in spreads(book).items()},
    }


def _times(one: Spread) -> str:
    if not one.count:
        return "-"
    times: Sequence[float] = (one.p50, one.p99, one.max)
    return f"{' / '.join(map(plain, times))} ms (of {one.count})"
