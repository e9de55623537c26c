"""What must hold of the dispatcher under any traffic: the twelve invariants, one property each.

Numbers 6 and 9 need a traffic of their own, as does half of number 5. Number 12, that the parser of
chunks is total, is the engines': ``tests/engines/test_stream_wire.py`` and its neighbours.
"""

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.dispatch.dispatcher import MAX_ATTEMPTS
from hub.dispatch.terms import INPUT_WEIGHT, OUTPUT_WEIGHT, RULES, Class, Rules, Terms
from hub.errors import TABLE, Fault
from tests.dispatch.bench import Act, Bench, Site, Work, now, rank
from tests.dispatch.traffic import END, TICK, Setup, World, setups
from tests.virtual import virtual


@given(setups)
@virtual
async def test_1_everybody_ends_once_and_runs_again_only_if_nothing_was_said(setup: Setup) -> None:
    """Every accepted request ends in exactly one of completed, failed and cancelled, for a reason;
    it runs once, and again only elsewhere, after the upstream's failure, if that said nothing."""
    world = World(setup)
    await world.play()
    assert len(world.accepted) + len(world.refusals) == len(setup.plans)
    for work in world.accepted:
        last = work.attempts[-1] if work.attempts else None
        for attempt in work.attempts[:-1]:
            assert attempt.error is not None
            assert attempt.said == 0
            assert TABLE[attempt.error].fault is Fault.UPSTREAM
        assert len({*work.places}) == len(work.attempts) <= MAX_ATTEMPTS
        match work.outcome:
            case "completed":
                assert last is not None
                assert last.error is None
                assert last.act.end == "finish"
            case "failed" if last is not None:
                assert work.code == last.error
            case "failed":
                assert work.started_at is None
                assert work.code == "deadline_exceeded" or world.drained
            case outcome:
                assert outcome == "cancelled"
                assert work.ended_at is not None
                assert work in world.wishes or work.ended_at >= END


def _reserved(world: World) -> None:
    dispatcher = world.bench.dispatcher
    statistics = dispatcher.statistics()
    live = world.live()
    assert len(live) == statistics.in_flight + statistics.queued
    running = [work for work in world.accepted if work.attempts and work.attempts[-1].ended is None]
    # Who has left an array holds his place until the array is done with him.
    left = [work for work in running if work.outcome is not None]
    assert dispatcher.reserved == statistics.in_flight + len(left)
    staged = [one for one in live if not world.bench.waits(one) and one not in running]
    tokens = sum(upstream.window.tokens for upstream in world.bench.upstreams)
    assert tokens == sum(work.need for work in (*running, *staged))
    gathering = 0
    for upstream, engine in zip(world.bench.upstreams, world.bench.engines, strict=True):
        window, stage = upstream.window, upstream.stage
        gathering += 0 if stage is None else len(stage)
        assert window.in_flight == engine.running + (0 if stage is None else len(stage))
        if upstream.adaptive is None:
            assert engine.most <= window.size
            assert window.budget is None or window.tokens <= window.budget or window.in_flight == 1
    assert gathering == len(staged)


@given(setups)
@virtual
async def test_2_what_is_reserved_is_what_lives(setup: Setup) -> None:
    """The places and the tokens that are taken are those of the requests that have a place; never
    more than a window or its budget holds; none at rest."""
    await World(setup).play(_reserved)  # which ends with a check of the rest


def _nobody_waits_for_nothing(world: World) -> None:
    """Those who may wait are: whoever has no place, whoever is behind him in his lane, or in his
    class for the same model; and whoever gathers."""
    waiting = [work for work in world.accepted if world.bench.waits(work)]
    stuck = [work for work in waiting if not world.possible(work)]
    models = {(one.terms.rank, one.generation.model) for one in stuck if not one.attempts}
    for work in waiting:
        terms = work.terms
        ahead = [one for one in waiting if one.number < work.number and one.terms.lane]
        held_up = (
            work in stuck
            or (terms.rank, work.generation.model) in models
            or any(
                (one.terms.rank, one.terms.tenant, one.terms.lane)
                == (terms.rank, terms.tenant, terms.lane)
                for one in ahead
            )
        )
        assert work.submitted_at is not None
        gathers = now() < work.submitted_at + world.setup.rules[terms.rank].flush_interval
        assert held_up or gathers, "room, and yet somebody waits"


@given(setups)
@virtual
async def test_3_nobody_waits_while_there_is_room(setup: Setup) -> None:
    """No request waits longer than its class gathers while an upstream that may serve it has a
    place for it, and nobody whom it has to stand behind lacks one."""
    await World(setup).play(_nobody_waits_for_nothing)


def _few_lanes(setup: Setup) -> Setup:
    """The same with so few lanes that many wait in each."""
    plans = [
        replace(plan, terms=Terms(Class(plan.terms.rank % 2), lane=plan.terms.lane or "other"))
        for plan in setup.plans
    ]
    return replace(setup, plans=plans)


@given(setups.map(_few_lanes))
@virtual
async def test_4_a_lane_is_first_in_first_out(setup: Setup) -> None:
    """Requests of one class, tenant and lane start in the order in which they came."""
    world = World(setup)
    await world.play()
    # Those for different upstreams leave the queue in order, but only some of them gather then.
    gathers = any(upstream.stage is not None for upstream in world.bench.upstreams)
    lanes: dict[object, list[Work]] = {}
    for work in world.accepted:
        if work.started_at is not None and work.terms.lane:
            place = work.attempts[0].engine if gathers and work.attempts else None
            key = work.terms.rank, work.terms.tenant, work.terms.lane, place
            lanes.setdefault(key, []).append(work)
    for lane in lanes.values():
        starts = [work.started_as for work in lane]
        assert starts == sorted(starts)


@settings(max_examples=12)  # a minute of overload each
@given(
    st.integers(1, 3),
    st.sampled_from([Class.CHAT, Class.BACKGROUND]),
    st.integers(1, 5),
    st.booleans(),
)
@virtual
async def test_5_nobody_starves(window: int, waiting: Class, number: int, both: bool) -> None:
    """However many better ones arrive all the time, whoever waits for a class with an age leaves
    after that age and a share of the places, one in 16."""
    bench = Bench(Site(window))
    act = Act(tokens=0, delay=TICK)

    def flood() -> None:
        """As many as can be served, and some more, for ever."""
        while sum(bench.waits(one) for one in better[-100:]) < 2 * window:
            better.append(bench.submit("", act, terms=rank(Class.COMPLETION)))
        if going:
            asyncio.get_running_loop().call_later(TICK / 2, flood)

    going = True  # read by the one above
    better: list[Work] = []
    flood()
    if both and waiting is Class.BACKGROUND:
        for _ in range(40):
            bench.submit("", act, terms=rank(Class.CHAT))
    works = [bench.submit("", act, terms=rank(waiting)) for _ in range(number)]
    await asyncio.sleep(60)
    for place, work in enumerate(works, 1):
        places = 17 * place + window
        assert work.started_at is not None
        assert work.started_at <= RULES[waiting].age + places * TICK / window + TICK
    # Not by much: the better ones have nearly all the places.
    late = [one for one in better if one.started_at is not None and one.started_at > 20]
    assert len(late) >= 40 / TICK * window * 0.85 - 40
    going = False
    await asyncio.sleep(TICK)
    await bench.close()


@given(
    st.lists(
        st.tuples(st.integers(1, 200), st.integers(1, 6), st.integers(1, 4)), min_size=2, max_size=4
    ),
    st.integers(1, 4),
    st.integers(1, 8),
)
@virtual
async def test_6_the_service_of_backlogged_tenants_differs_by_a_bounded_amount(
    tenants: list[tuple[int, int, int]], window: int, batch_size: int
) -> None:
    """Two tenants of a class who both always have something waiting have been served, in weighted
    tokens, within twice the most that one of them can have running at once."""
    bench = Bench(Site(window), batch_size=batch_size)
    works: dict[int, list[Work]] = {number: [] for number in range(len(tenants))}

    def served(number: int) -> float:
        started = [work for work in works[number] if work.started_at is not None]
        prompts = sum(work.need - 8 for work in started)
        return INPUT_WEIGHT * prompts + OUTPUT_WEIGHT * sum(len(work.said) for work in started)

    def keep_asking() -> None:
        for number, (length, tokens, lanes) in enumerate(tenants):
            while sum(bench.waits(work) for work in works[number]) < 2 * window:
                terms = rank(Class.CHAT, tenant=str(number), lane=str(len(works[number]) % lanes))
                works[number].append(
                    bench.submit(
                        "",
                        Act(tokens, TICK),
                        terms=terms,
                        max_tokens=8,
                        messages=["x" * 4 * length],
                    )
                )

    most = max(
        INPUT_WEIGHT * (length + 12) + OUTPUT_WEIGHT * tokens for length, tokens, _ in tenants
    )
    keep_asking()
    for tick in range(200):
        await asyncio.sleep((tick + 0.5) * TICK - now())
        keep_asking()
        services = [served(number) for number in works]
        assert max(services) - min(services) <= 2 * window * most
    await bench.close()


@given(setups)
@virtual
async def test_7_nobody_changes_what_another_one_gets(setup: Setup) -> None:
    """Whoever fails, hangs or is cancelled beside it, in an array or not: a request that completes
    has all its tokens, each when it was due."""
    world = World(setup)
    await world.play()
    for work in world.accepted:
        if work.outcome == "completed":
            last = work.attempts[-1]
            assert len(work.said) == last.act.tokens
            assert work.ended_at == last.began + (last.act.tokens + 1) * last.act.delay


@given(setups)
@virtual
async def test_8_tokens_go_to_their_own_request_in_order_once(setup: Setup) -> None:
    """What the engines have said for a request, it has heard, and nothing else: ``Work`` asserts
    that each is the next of its own."""
    world = World(setup)
    await world.play()
    for work in world.accepted:
        assert work.said == [f"{work.key}: {number}" for number in range(len(work.said))]
        assert len(work.said) == sum(attempt.said for attempt in work.attempts)
        served = [engine.name for engine in world.bench.engines if work in engine.asked]
        assert sorted(served) == sorted(work.places)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from(Class)), max_size=60),
    st.integers(1, 3),
    st.integers(1, 4),
)
def test_9_a_better_class_waits_for_running_work_and_the_share_of_the_aged_only(
    arrivals: list[tuple[int, Class]], window: int, batch_size: int
) -> None:
    """The n-th completion leaves no later than it would without the worse classes, plus the rest of
    one running request and the places of the aged, one in 16 for each of two classes."""
    ages = {Class.COMPLETION: Rules(), **{worse: Rules(age=1.0) for worse in list(Class)[1:]}}
    service = 4 * TICK

    def starts(classes: set[Class]) -> list[float]:
        found: list[Work] = []

        @virtual
        async def play() -> None:
            bench = Bench(Site(window), ranks=ages, batch_size=batch_size)
            for at, one in sorted(arrivals):
                if one in classes:
                    await asyncio.sleep(at * TICK - now())
                    work = bench.submit("", Act(tokens=0, delay=service), terms=rank(one))
                    if one is Class.COMPLETION:
                        found.append(work)
            await asyncio.sleep(END)
            await bench.close()

        play()
        return [work.started_at for work in found if work.started_at is not None]

    alone, among = starts({Class.COMPLETION}), starts({*Class})
    assert len(alone) == len(among)
    for number, (before, after) in enumerate(zip(alone, among, strict=True)):
        aged = 2 * (number // 15 + 1)
        assert after <= before + service * (1 + -(-aged // window))


@given(setups)
@virtual
async def test_10_a_request_is_shed_for_its_reason_only(setup: Setup) -> None:
    """At the door: for a full queue, a deadline that cannot be met, or want of any upstream that is
    well (``World`` checks each). In the queue: when the deadline has passed. All are counted."""
    world = World(setup)
    await world.play()
    late = [work for work in world.accepted if work.code == "deadline_exceeded"]
    for work in late:
        assert work.submitted_at is not None
        assert work.started_at is None
        assert work.ended_at == work.submitted_at + world.patience(work)
    shed = Counter(world.bench.shed())
    refused = Counter(why for why in world.refusals if why != "model_not_found")
    # These two happen to those who wait, too, some of whom have an error from an upstream.
    assert shed.pop("deadline", 0) >= len(late)
    assert shed.pop("upstream_unavailable", 0) >= refused.pop("upstream_unavailable", 0)
    assert shed == refused


class _Sizes:
    """Follows the windows of a world."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[int, Counter[str]]]] = {}

    def look(self, world: World) -> None:
        for upstream in world.bench.upstreams:
            changes = Counter(upstream.statistics().window_changes)
            self.seen.setdefault(upstream.name, []).append((upstream.window.size, changes))


@given(setups)
@virtual
async def test_11_a_window_is_between_1_and_its_most_and_shrinks_for_a_reason(setup: Setup) -> None:
    """It is never below one nor above what the server says it holds; it only gets smaller when the
    server refuses, queues, is slow, makes more with fewer (which is tried if it has few slots), or
    says that it holds less; a given one never changes."""
    world, sizes = World(setup), _Sizes()
    await world.play(sizes.look)
    for upstream, engine in zip(world.bench.upstreams, world.bench.engines, strict=True):
        seen = sizes.seen[upstream.name]
        assert all(1 <= size <= 1024 for size, _ in seen)
        if upstream.adaptive is None:
            assert len({size for size, _ in seen}) <= 1
        for (before, old), (after, new) in pairwise(seen):
            why = {*(new - old)}
            if after < before:
                assert why & {"refused", "queue", "cache", "ttft", "slots", "slower", "trial"}
            if why & {"slower", "trial"}:
                # A server with few slots, on which fewer may make more.
                assert max(after, before) <= 9
            if "refused" in why:
                errors = {one.error for work in engine.asked for one in work.attempts}
                assert "upstream_overloaded" in errors
            if why & {"queue", "cache", "slots"}:
                assert engine.load != type(engine.load)()


def test_12_the_parser_of_chunks_is_total() -> None:
    """The engines' tests say so: whatever a server sends, a reader of chunks gives calls on its
    sink or a typed error."""
    for module in ("test_stream_wire", "test_chat_wire", "test_text_wire", "test_arrays"):
        assert pytest.importorskip(f"tests.engines.{module}")
