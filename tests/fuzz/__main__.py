"""The large run: ``python -m tests.fuzz --cases N --minutes M``.

Goes round all parts until so many cases were tried or so much time has passed, with other
inventions in every round, and prints what was tried and what was found. The exit code is 1 if
something was found. A case that fails is told by its part and its seed, and does not end the run.
"""

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from schemathesis import GenerationMode

from hub.store.sqlite import SqliteStore
from tests.fuzz import frames, http, parsers, upstreams
from tests.fuzz.target import Target

MUTANTS, INVENTIONS, ATTACKS, LIES, REQUESTS = 2000, 200, 600, 400, 15
"""Cases of each part in a round: quick mutants and hypothesis' inventions of a parser, connections,
answers of model servers, and requests of each endpoint and kind."""
SERVERS = "model servers' connections"
TELL = 20
"""Findings of one part that are told."""


class Tally:
    """What was tried and what was found, by part."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.found: dict[str, list[str]] = {}

    @property
    def total(self) -> int:
        return self.tried.total()

    def add(self, part: str, what: str) -> None:
        """Note a finding, and tell it if it is not yet one of many."""
        found = self.found.setdefault(part, [])
        found.append(what)
        if len(found) <= TELL:
            print(f"\n== {part}\n{what}", flush=True)

    def run(self, part: str, work: Callable[[], object], cases: int | None = None) -> None:
        """Do some of a part's work: so many ``cases``, or as many as it returns. What fails ends
        it, and does not count."""
        try:
            done = work()
        except (Exception, BaseExceptionGroup):  # schemathesis finds groups of the latter
            self.add(part, traceback.format_exc(limit=-6)[-3000:])
        else:
            self.tried[part] += done if isinstance(done, int) else cases or 0

    def table(self) -> Iterator[str]:
        """The result, as Markdown."""
        yield "| part | cases | found |"
        yield "| --- | ---: | ---: |"
        for part, cases in self.tried.items():
            yield f"| {part} | {cases:,} | {len(self.found.get(part, ()))} |"
        yield f"| all | {self.total:,} | {sum(map(len, self.found.values()))} |"


def _lies(seed: int, found: Callable[[str], None]) -> int:
    return asyncio.run(upstreams.attack(LIES, seed, found=found))


def rounds(target: Target, tally: Tally, seed: int) -> Iterator[None]:
    """One round after the other; yields between the parts."""
    asker, operations = http.Asker(target.url), http.operations()
    while True:
        seed += 1
        for name in parsers.PARTS:
            tally.run(name, partial(parsers.mutate_all, name, MUTANTS, seed=seed), MUTANTS)
            tally.run(name, partial(parsers.run, name, INVENTIONS, seed=seed), INVENTIONS)
            yield
        before = target.holds()
        found = partial(tally.add, "WebSocket frames and handshakes")
        kinds = asyncio.run(frames.attack(target.port, ATTACKS, seed, found=found))
        for kind, cases in kinds.items():
            tally.tried[f"connections: {kind or 'refused'}"] += cases
        yield
        tally.run(SERVERS, partial(_lies, seed, partial(tally.add, SERVERS)))
        yield
        for name, operation in operations.items():
            for mode in GenerationMode:
                work = partial(http.run, asker, operation, mode, REQUESTS, seed=seed)
                tally.run(f"HTTP: {name}", work)
            yield
        asker.session.close()
        after = target.at_rest(before)
        if after != before:
            tally.add("leaks", f"seed {seed}: {before} became {after}")
        for line in target.errors:
            tally.add("the log", line)


def main() -> int:
    """Run, print, and say by the exit code whether something was found."""
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--cases", type=int, default=1_000_000, help="so many, or")
    options.add_argument("--minutes", type=float, default=60.0, help="so long, whatever is first")
    options.add_argument("--seed", type=int, default=int(time.time()))
    asked = options.parse_args()
    tally, end = Tally(), time.monotonic() + 60 * asked.minutes
    with (
        tempfile.TemporaryDirectory() as place,
        Target(lambda: SqliteStore(Path(place))) as target,
    ):
        for number, _ in enumerate(rounds(target, tally, asked.seed)):
            if tally.total >= asked.cases or time.monotonic() > end:
                break
            if number % 20 == 0:
                found = sum(map(len, tally.found.values()))
                print(f"{tally.total:,} cases, {found} found", file=sys.stderr, flush=True)
    print(f"\nseed {asked.seed}\n", *tally.table(), sep="\n")
    return 1 if tally.found else 0


if __name__ == "__main__":
    sys.exit(main())
