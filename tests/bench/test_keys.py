"""Typists: what they type, what they are shown, and when they ask."""

import asyncio
import random
from pathlib import Path
from typing import Any

import orjson
from click.testing import CliRunner

from hub.bench.commands import bench
from hub.bench.keys import CACHED, LOOK_BACK, Cache, Typing, Typist
from hub.bench.keys_clients import window
from hub.bench.keys_corpus import places
from hub.bench.keys_score import Lane, State
from hub.bench.keystrokes import Place
from tests.virtual import virtual


class Answering:
    """Knows what will be typed, and says so much of it, so many seconds after it was asked."""

    def __init__(self, typist: Typist, after: float, most: int) -> None:
        self.typist, self.after, self.most = typist, after, most
        self.asked: list[str] = []
        self.left: list[str] = []

    def ask(self, lane: Lane, state: State) -> None:
        loop = asyncio.get_running_loop()
        state.asked = loop.time()
        self.asked.append(state.typed)
        rest = lane.place.missing.removeprefix(state.typed)[: self.most]
        loop.call_later(self.after, self.typist.told, lane, state, rest)

    def leave(self, lane: Lane) -> None:
        self.left.append(lane.name)

    def close(self) -> None: ...


async def typed(
    after: float, *, most: int = 20, caching: bool = False
) -> tuple[Typist, Answering, list[Place]]:
    """A typist who has been at two places, in virtual time."""
    clock = asyncio.get_running_loop().time
    typist = Typist(0, Typing(), caching=caching, clock=clock)
    typist.way = way = Answering(typist, after, most)
    found = places(2, 200, random.Random(0))
    await typist.type(found)
    return typist, way, found


@virtual
async def test_a_typist_types_what_is_missing_or_goes_elsewhere() -> None:
    """Every key is a state; a place is left at a line's end, or when it is full."""
    typist, way, found = await typed(0.1)
    assert way.left == [lane.name for lane in typist.lanes]
    for lane, place in zip(typist.lanes, found, strict=True):
        last = lane.states[-1].typed
        assert last == place.missing or last.rstrip(" ").endswith("\n")
        assert place.missing.startswith(last)
        assert lane.keys == len(lane.states) - 1
        assert [state.version for state in lane.states] == [*range(lane.keys + 1)]


@virtual
async def test_what_is_accepted_is_not_typed() -> None:
    """With long answers that are always right, some are accepted."""
    typist, _, _ = await typed(0.01)
    for lane in typist.lanes:
        jumps = [
            len(b.typed) - len(a.typed) for a, b in zip(lane.states, lane.states[1:], strict=False)
        ]
        assert lane.accepted >= max(jumps) > 5
        assert lane.keys < len(lane.states[-1].typed)


@virtual
async def test_only_what_comes_before_the_next_key_is_shown() -> None:
    """A key down makes what comes for the text before it too late."""
    typist, _, _ = await typed(60.0)
    assert not any(state.shown for lane in typist.lanes for state in lane.states)
    typist, _, _ = await typed(0.1)
    for lane in typist.lanes:
        for state, newer in zip(lane.states, lane.states[1:], strict=False):
            assert state.shown is None or state.at < state.shown <= newer.at


@virtual
async def test_a_dumb_client_asks_after_every_key_and_a_caching_one_does_not() -> None:
    typist, way, _ = await typed(0.01)
    assert len(way.asked) == sum(lane.keys for lane in typist.lanes)
    caching, careful, _ = await typed(0.01, caching=True)
    assert len(careful.asked) < sum(lane.keys for lane in caching.lanes) / 2
    local = [s for lane in caching.lanes for s in lane.states if s.shown and s.asked is None]
    assert local
    assert all(state.shown == state.at for state in local)


def test_a_cache_gives_the_rest_of_what_agrees() -> None:
    cache = Cache()
    cache.put("a", "de", "f one")
    assert cache.get("a", "de") == "f one"
    assert cache.get("a", "def o") == "ne"
    assert cache.get("a", "def one") == ""
    assert cache.get("a", "del") == ""
    assert cache.get("b", "de") == ""
    cache.put("a", "", "x" * 2 * LOOK_BACK)
    assert cache.get("a", "x" * LOOK_BACK)
    assert not cache.get("a", "x" * (LOOK_BACK + 1))


def test_a_cache_forgets_the_oldest() -> None:
    cache = Cache()
    for number in range(CACHED + 1):
        cache.put("a", f"{number}!", "text")
    assert cache.get("a", "0!") == ""
    assert cache.get("a", "1!") == "text"


def test_a_request_holds_some_lines_of_a_file() -> None:
    """256 above the cursor's and 64 from it on, as llama.vim sends; short files whole."""
    text = "".join(f"{number}\n" for number in range(1000))
    before, behind = window(f"{text}cur", f"sor\n{text}")
    assert before == "".join(f"{number}\n" for number in range(744, 1000)) + "cur"
    assert behind.count("\n") == 63
    assert behind.startswith("sor\n0\n")
    assert window("a\nb", "c\nd") == ("a\nb", "c\nd")


def told(file: Path, *arguments: str) -> Any:
    """What the command measures; it must succeed, that is, no answer is stale, wrong or failed."""
    result = CliRunner().invoke(bench, ["keys", *arguments, "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert "| ---: |" in result.output
    return orjson.loads(file.read_bytes())


def test_figures_from_the_command_line(tmp_path: Path) -> None:
    """Upstreams are closed, predicted text comes without them, and chats go on, in processes."""
    found = told(
        tmp_path / "keys.json",
        *("--only", "close", "--only", "through", "--only", "added", "--only", "chat"),
        *("--samples", "4", "--seconds", "0.2", "--chats", "2", "--rate", "10"),
    )
    parts = [figure["part"] for figure in found["figures"]]
    assert parts == ["close"] * 5 + ["through"] * 3 + ["added"] * 6 + ["chat"] * 8
    assert found["figures"][-1]["value"] == "0"


def test_typing_from_the_command_line(tmp_path: Path) -> None:
    """A row for each policy. Through hub, no answer is stale or wrong."""
    found = told(
        tmp_path / "keys.json",
        *("--only", "typing", "--policy", "direct-one"),
        *("--policy", "lanes", "--users", "2", "--caching", "0.5", "--seconds", "1"),
        *("--pace", "fast", "--prefill", "20", "--per-token", "2", "--no-llama"),
    )
    rows = found["policies"]
    assert [*rows] == ["direct-one", "lanes"]
    assert all(row["keys"] > 0 for row in rows.values())
    assert rows["lanes"]["cpu_ms_per_key"] >= 0
