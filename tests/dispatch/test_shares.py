"""Several dispatchers in front of one model server give it no more than one. In virtual time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random

import pytest

from hub.dispatch.adapt import FIRST
from hub.dispatch.shares import Shares
from hub.engines.base import Load
from hub.nodes import INTERVAL, Nodes
from tests.dispatch.bench import Act, Bench, Site, Work
from tests.shared_store import Place, SharedStore
from tests.virtual import virtual

LONG = Act(delay=1000.0)


class Node:
    """A bench of one upstream among others."""

    def __init__(self, place: Place, name: str, *sites: Site) -> None:
        self.bench = Bench(*sites)
        self.store = SharedStore(place, name)
        self.nodes = Nodes(self.store, Shares(self.bench.dispatcher))

    @property
    def size(self) -> int:
        return self.bench.upstreams[0].window.size

    @property
    def running(self) -> int:
        return self.bench.engines[0].running

    async def close(self) -> None:
        await self.bench.dispatcher.close()
        await self.nodes.close()


@asynccontextmanager
async def several(number: int, *sites: Site) -> AsyncIterator[list[Node]]:
    place = Place()
    nodes = [Node(place, f"node-{one}", *sites) for one in range(number)]
    for one in nodes:
        await one.nodes.start()
    await asyncio.sleep(2 * INTERVAL)
    yield nodes
    for one in nodes:
        await one.close()


def sizes(nodes: Sequence[Node]) -> list[int]:
    return [one.size for one in nodes]


@virtual
async def test_a_window_is_divided_evenly_while_nobody_needs_it() -> None:
    async with several(3, Site(window=32, server="s")) as nodes:
        assert sum(sizes(nodes)) == 32
        assert min(sizes(nodes)) >= 8


@virtual
async def test_one_node_has_it_all_from_the_start() -> None:
    """Before it is given anything to do."""
    node = Node(Place(), "a", Site(window=32, server="s"))
    assert node.size == 32
    await node.nodes.start()
    assert node.size == 32
    await node.close()


@virtual
async def test_what_an_idle_node_has_goes_to_who_needs_it_within_two_beats_and_comes_back() -> None:
    async with several(2, Site(window=8, server="s")) as (one, two):
        works = one.bench.submit_all(20, LONG)
        await asyncio.sleep(2 * INTERVAL + 0.2)
        assert (one.running, two.size) == (7, 1)
        for work in works:
            one.bench.dispatcher.cancel(work)
        two.bench.submit_all(20, LONG)
        await asyncio.sleep(2 * INTERVAL + 0.2)
        assert (one.size, two.running) == (1, 7)


@virtual
async def test_under_load_it_is_divided_by_what_waits() -> None:
    async with several(2, Site(window=12, server="s")) as (one, two):
        one.bench.submit_all(90, LONG)
        works = two.bench.submit_all(30, LONG)
        await asyncio.sleep(2 * INTERVAL + 0.2)
        for work in [work for work in works if not two.bench.waits(work)]:
            two.bench.dispatcher.cancel(work)
        await asyncio.sleep(2 * INTERVAL + 0.2)
        assert (one.running, two.running) == (9, 3)


@virtual
async def test_a_window_that_shrinks_takes_nothing_new_until_it_has_drained() -> None:
    async with several(2, Site(window=8, server="s")) as (one, two):
        running = one.bench.submit_all(7, LONG)
        await asyncio.sleep(2 * INTERVAL + 0.2)
        waiting = one.bench.submit_all(1, LONG)
        two.bench.submit_all(40, LONG)
        await asyncio.sleep(2 * INTERVAL + 0.2)
        assert (one.running, one.size) == (7, 1) or one.running + two.running == 8
        while one.running > one.size:
            one.bench.dispatcher.cancel(running.pop())
            await asyncio.sleep(0.01)
            assert one.bench.waits(waiting[0])
            assert one.running + two.running <= 8
        one.bench.dispatcher.cancel(running.pop())
        await asyncio.sleep(2 * INTERVAL + 0.2)
        assert not one.bench.waits(waiting[0])


@virtual
async def test_the_places_of_a_node_that_leaves_are_the_others_at_once() -> None:
    async with several(2, Site(window=8, server="s")) as (one, two):
        one.bench.submit_all(20, LONG)
        await two.nodes.close()
        await asyncio.sleep(0.5)
        assert one.running == 8


@virtual
async def test_while_the_store_is_away_nobody_takes_more_than_his_share() -> None:
    async with several(2, Site(window=8, server="s")) as nodes:
        before = sizes(nodes)
        for one in nodes:
            one.store.away = True
            one.bench.submit_all(20, LONG)
        await asyncio.sleep(30.0)
        assert sizes(nodes) == before
        assert sum(one.running for one in nodes) == 8


@virtual
async def test_more_nodes_than_places_have_one_each() -> None:
    async with several(4, Site(window=2, server="s")) as nodes:
        assert sizes(nodes) == [1, 1, 1, 1]


@virtual
async def test_tokens_are_divided_like_places() -> None:
    async with several(2, Site(window=8, tokens=8000, server="s")) as nodes:
        windows = [one.bench.upstreams[0].window for one in nodes]
        assert sum(one.budget or 0 for one in windows) == 8000
        assert all(one.budget == 1000 * one.size for one in windows)


@virtual
async def test_known_slots_are_divided_and_so_are_other_ones_that_a_server_tells_of_later() -> None:
    async with several(2, Site(window=None, slots=32, server="s")) as nodes:
        assert sum(sizes(nodes)) == 33
        for one in nodes:
            one.bench.engines[0].load = Load(slots=8)
            one.bench.submit_all(60, LONG)
        await asyncio.sleep(3 * INTERVAL)
        for one in nodes:
            for upstream in one.bench.upstreams:
                assert upstream.share is not None
                assert upstream.share.total == 8
        assert sum(sizes(nodes)) <= 8


@virtual
async def test_where_nobody_knows_the_slots_all_together_begin_as_one_would() -> None:
    """Then each goes by what it sees itself, and by its share once the slots are known."""
    async with several(2, Site(window=None, server="s")) as nodes:
        assert nodes[1].size == FIRST // 2
        for one in nodes:
            one.bench.engines[0].load = Load(slots=8)
            one.bench.submit_all(60, LONG)
        await asyncio.sleep(3 * INTERVAL)
        assert sum(sizes(nodes)) <= 8


@virtual
async def test_what_gathers_gathers_as_much_as_its_share() -> None:
    async with several(2, Site(window=8, gather=60.0, server="s")) as (one, two):
        assert one.size == two.size == 4
        one.bench.submit_all(4)
        await asyncio.sleep(0.01)
        assert one.running == 4


@virtual
async def test_a_server_of_ones_own_is_not_divided() -> None:
    async with several(2, Site(window=8)) as nodes:
        assert sizes(nodes) == [8, 8]


@virtual
async def test_a_server_that_is_added_later_is_divided_from_the_start() -> None:
    async with several(2, Site(window=8)) as nodes:
        for one in nodes:
            added = one.bench.add(Site(window=8, server="t"))
            assert added.window.size == 1
        await asyncio.sleep(2 * INTERVAL + 0.2)
        assert [one.bench.upstreams[1].window.size for one in nodes] == [4, 4]


@pytest.mark.parametrize("seed", range(4))
def test_a_server_never_has_more_than_its_window_whatever_comes_where(seed: int) -> None:
    """Requests of any length at any node; nobody waits for ever, and all of it is used."""

    @virtual
    async def run() -> None:
        random = Random(seed)
        window = random.choice([3, 8, 20])
        most = 0
        works: list[Work] = []
        async with several(3, Site(window=window, server="s")) as nodes:
            for _ in range(300):
                for _ in range(random.choice([0, 0, 1, 5])):
                    act = Act(delay=random.choice([0.02, 0.1, 1.0]))
                    works.append(random.choice(nodes).bench.submit("", act))
                await asyncio.sleep(random.expovariate(window / 2))
                running = sum(one.running for one in nodes)
                assert running <= window
                most = max(most, running)
            await asyncio.gather(*(work.over.wait() for work in works))
            assert all(work.outcome == "completed" for work in works)
            assert most == window

    run()
