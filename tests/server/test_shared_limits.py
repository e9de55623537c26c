"""A key's limits hold for all nodes together, but for what is on its way. In virtual time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from hub.api.responses import parse_create
from hub.dispatch.terms import Class
from hub.errors import HubError
from hub.keys import RANDOM_BYTES, Key, Keyring, Limits, new_key
from hub.live import Live
from hub.nodes import INTERVAL as BEAT
from hub.nodes import Nodes
from hub.server.auth import Gate, InHand, Principal
from hub.server.shared_limits import FORGET, INTERVAL, USED, SharedLimits
from tests.server.lives import live_of
from tests.shared_store import Place, SharedStore
from tests.test_nodes import Quiet
from tests.virtual import virtual


class Node:
    """A gate among others."""

    def __init__(self, place: Place, name: str, key: Key) -> None:
        self.who = Principal(key.tenant, key)
        self.store = SharedStore(place, name)
        self.nodes = Nodes(self.store, Quiet(name))
        loop = asyncio.get_running_loop()
        self.gate = Gate(
            Keyring([key]), now=lambda: 0.0, clock=loop.time, default_model="sim", stop=_never
        )
        self.limits = SharedLimits(self.gate, self.store, self.nodes)

    async def start(self) -> None:
        await self.nodes.start()
        await self.limits.start()

    async def close(self) -> None:
        self.limits.close()
        await self.nodes.close()

    def ask(self) -> Live | None:
        """A response that the key asks for, if it is admitted."""
        request = parse_create({"input": "hi", "store": False})
        terms = self.gate.terms(self.who, {}, Class.CHAT)
        try:
            self.gate.admit(terms, request)
        except HubError:
            return None
        live = live_of(request, terms)
        self.gate.hold(live)
        return live


def _never(live: Live) -> None:
    raise AssertionError("nobody is revoked")


@asynccontextmanager
async def several(number: int, **limits: Any) -> AsyncIterator[list[Node]]:
    place = Place()
    key = new_key(bytes(RANDOM_BYTES), tenant="ada", now=0, limits=Limits(**limits))[1]
    nodes = [Node(place, f"node-{one}", key) for one in range(number)]
    for one in nodes:
        await one.start()
    await asyncio.sleep(2 * BEAT)
    yield nodes
    for one in nodes:
        await one.close()


def another(nodes: Sequence[Node]) -> Node:
    """One that starts anew."""
    key = nodes[0].who.key
    assert key is not None
    return Node(nodes[0].store._place, "another", key)


def end(live: Live | None) -> None:
    assert live is not None
    live.started()
    live.cancelled()


@pytest.mark.parametrize("seed", range(5))
def test_admitted_is_the_limit_and_what_was_on_its_way(seed: int) -> None:
    """Whatever storm comes wherever: nobody admits beyond the limit what all others had admitted
    before the last interval, and the time that a message takes."""

    @virtual
    async def run() -> None:
        random = Random(seed)
        number, limit = random.choice([2, 3, 5]), random.choice([5, 60, 600])
        async with several(number, requests_per_minute=limit) as nodes:
            loop = asyncio.get_running_loop()
            way = nodes[0].store._place.way = random.choice([0.001, 0.02])
            begun = loop.time()
            admitted: list[tuple[float, Node]] = []
            for _ in range(400):
                await asyncio.sleep(random.choice([0.0, 0.0, 0.001, 0.03, 0.5]))
                node, now = random.choice(nodes), loop.time()
                if node.ask() is not None:
                    admitted.append((now, node))
                    known = sum(
                        one is node or at < now - INTERVAL - way - 1e-6 for at, one in admitted
                    )
                    assert known <= limit + limit * (now - begun) / 60 + 1e-3
            assert admitted

    run()


@virtual
async def test_messages_are_few() -> None:
    """However many requests there are: one in an interval."""
    async with several(2, requests_per_minute=10_000) as (one, _):
        one.store.told.clear()
        for _ in range(500):
            one.ask()
            await asyncio.sleep(0.002)
        sent = [kind for kind, _ in one.store.told if kind == USED]
        assert len(sent) <= 1.0 / INTERVAL + 3


@virtual
async def test_what_responses_cost_is_debited_everywhere() -> None:
    async with several(2, tokens_per_minute=60) as (one, two):
        live = one.ask()
        assert live is not None
        live.started()
        for _ in range(200):
            live.sink.text("x")
        live.sink.finish("stop")
        live.completed()
        one.gate.ended(live)
        await asyncio.sleep(2 * INTERVAL)
        assert two.ask() is None
        await asyncio.sleep(300)
        assert two.ask() is not None


@virtual
async def test_what_a_key_has_in_hand_counts_everywhere_as_long_as_it_has_it() -> None:
    async with several(3, concurrent=2) as (one, two, three):
        lives = [one.ask(), two.ask()]
        await asyncio.sleep(2 * INTERVAL)
        assert [node.ask() for node in (one, two, three)] == [None] * 3
        await asyncio.sleep(10 * FORGET)
        assert three.ask() is None, "it is said again and again"
        end(lives[0])
        await asyncio.sleep(2 * INTERVAL)
        assert three.ask() is not None


@virtual
async def test_sockets_count_everywhere() -> None:
    async with several(2, sockets=1) as (one, two):
        gone = one.gate.open_socket(one.who, lambda: None)
        await asyncio.sleep(2 * INTERVAL)
        with pytest.raises(HubError):
            two.gate.open_socket(two.who, lambda: None)
        gone()
        await asyncio.sleep(2 * INTERVAL)
        two.gate.open_socket(two.who, lambda: None)


@pytest.mark.parametrize("how", ["leaves", "dies"])
def test_what_a_node_had_in_hand_goes_with_it(how: str) -> None:
    @virtual
    async def run() -> None:
        async with several(2, concurrent=1) as (one, two):
            one.ask()
            await asyncio.sleep(2 * INTERVAL)
            assert two.ask() is None
            if how == "leaves":
                await one.close()
                await asyncio.sleep(0.2)
            else:
                one.store.away = True
                await asyncio.sleep(FORGET + 2 * BEAT)
            assert two.ask() is not None

    run()


@virtual
async def test_a_lost_message_holds_nobody_up_for_long() -> None:
    """That there is nothing in hand any more is not said again."""
    async with several(2, concurrent=1) as (one, two):
        live = one.ask()
        await asyncio.sleep(2 * INTERVAL)
        one.store._place.lost = 1
        end(live)
        await asyncio.sleep(2 * INTERVAL)
        assert one.store._place.lost == 0
        assert two.ask() is None
        await asyncio.sleep(FORGET + BEAT)
        assert two.ask() is not None


@virtual
async def test_a_restart_refills_no_bucket() -> None:
    async with several(2, requests_per_minute=6, concurrent=10) as nodes:
        one, two = nodes
        while one.ask() is not None:
            pass
        await two.close()
        fresh = another(nodes)
        await fresh.start()
        assert fresh.ask() is None
        key = one.who.key
        assert key is not None
        assert fresh.limits.has(key.id) == InHand(6, 6, 0)
        await asyncio.sleep(10.1)
        assert fresh.ask() is not None
        await fresh.close()


@virtual
async def test_who_starts_knows_what_is_in_hand_before_he_admits_anything() -> None:
    async with several(2, concurrent=1) as nodes:
        nodes[0].ask()
        fresh = another(nodes)
        await fresh.start()
        assert fresh.ask() is None
        await fresh.close()


@virtual
async def test_who_does_not_answer_delays_a_start_only_briefly() -> None:
    async with several(2, requests_per_minute=6) as nodes:
        nodes[0].store.away = True
        fresh = another(nodes)
        before = asyncio.get_running_loop().time()
        await fresh.start()
        assert asyncio.get_running_loop().time() - before < 1.0
        assert fresh.ask() is not None
        await fresh.close()


@virtual
async def test_nobody_is_told_anything_of_keys_without_limits_or_by_who_is_alone() -> None:
    async with several(2) as (one, _):
        one.store.told.clear()
        end(one.ask())
        await asyncio.sleep(2 * BEAT)
        assert one.store.told == []
    async with several(1, requests_per_minute=6, concurrent=1) as (alone,):
        alone.ask()
        await asyncio.sleep(2 * BEAT)
        assert alone.store.told == []


@virtual
async def test_what_another_version_says_does_not_hurt() -> None:
    async with several(2, requests_per_minute=6) as (one, two):
        for body in (
            "",
            "[]",
            "{}",
            '{"node":"x","keys":{"a":[1]}}',
            '{"node":"x","keys":{"a":1}}',
        ):
            one.store.tell(USED, body)
            one.store.tell("levels", body)
        await asyncio.sleep(0.1)
        assert two.ask() is not None
