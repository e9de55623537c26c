"""Nodes find each other, and lose sight of each other. In virtual time."""

import asyncio
from collections.abc import Mapping
from typing import Any

from hub.nodes import INTERVAL, TTL, Nodes
from hub.store.memory import MemoryStore
from tests.dispatch.bench import timers
from tests.shared_store import Place, SharedStore
from tests.virtual import virtual


class Quiet:
    """A member that says who it is."""

    gave = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.joined = False
        self.heard: Mapping[str, Any] = {}

    def join(self) -> None:
        self.joined = True

    def say(self) -> Mapping[str, Any]:
        return {"name": self.name}

    def hear(self, node: str, said: Mapping[str, Any]) -> bool:
        assert node in said
        self.heard = said
        return False


def node(place: Place, name: str) -> tuple[SharedStore, Nodes]:
    store = SharedStore(place, name)
    return store, Nodes(store, Quiet(name))


@virtual
async def test_a_node_of_a_store_that_is_not_shared_is_alone_and_does_nothing() -> None:
    member = Quiet("a")
    nodes = Nodes(MemoryStore(), member)
    await nodes.start()
    assert nodes.count == 1
    assert (timers(), member.joined) == (0, False)
    await nodes.close()


@virtual
async def test_nodes_know_each_other_within_a_beat_and_what_each_says() -> None:
    place = Place()
    (_, one), (_, two) = node(place, "a"), node(place, "b")
    await one.start()
    assert one.count == 1
    await two.start()
    assert two.states == {"a": {"name": "a"}, "b": {"name": "b"}}
    await asyncio.sleep(INTERVAL + 0.1)
    assert one.states == two.states
    await two.close()
    await asyncio.sleep(0.2)
    assert one.count == 1, "who leaves is gone at once"
    await one.close()
    await asyncio.sleep(0.1)
    assert timers() == 0


@virtual
async def test_a_node_that_is_not_heard_of_any_more_is_out_when_its_word_has_run_out() -> None:
    place = Place()
    (_, one), (store, two) = node(place, "a"), node(place, "b")
    await one.start()
    await two.start()
    await asyncio.sleep(2 * INTERVAL)
    store.away = True
    await asyncio.sleep(TTL - INTERVAL - 0.1)
    assert one.count == 2
    await asyncio.sleep(2 * INTERVAL + 0.1)
    assert one.count == 1
    # It goes on by what it knew, and is back with the store.
    assert two.count == 2
    store.away = False
    await asyncio.sleep(2 * INTERVAL)
    assert (one.count, two.count) == (2, 2)
    await one.close()
    await two.close()


@virtual
async def test_what_another_version_says_does_not_hurt() -> None:
    place = Place()
    place.states["c"] = (b"\xff no JSON", 1000.0)
    _, one = node(place, "a")
    await one.start()
    assert one.states == {"a": {"name": "a"}, "c": None}
    await one.close()


@virtual
async def test_a_quiet_node_beats_once_in_an_interval() -> None:
    place = Place()
    _, one = node(place, "a")
    await one.start()
    before = place.beats
    await asyncio.sleep(20 * INTERVAL)
    assert 18 <= place.beats - before <= 20
    await one.close()
