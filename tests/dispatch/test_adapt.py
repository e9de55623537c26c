"""The rules of how large a window is, each tried on small simulated servers and random traces."""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import pairwise
from math import isqrt

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hub.dispatch.adapt import FIRST, MOST, ROUND, SHRINK_HARD, TRIAL_TIME, Adaptive, Baseline
from hub.dispatch.goodput import FEW, FORGET
from hub.dispatch.window import Window
from hub.engines.base import Load
from tests.traces import traces

CPU = {1: 0.012, 2: 0.032, 4: 0.067, 5: 0.075, 8: 0.0805, 16: 0.114}
"""Seconds per decode step of llama.cpp on one CPU core, by how many run side by side."""
PREFILL = 0.02
LATER = 0.1
"""Seconds after a change in which the burst is over that fills the window."""


def cpu(running: int) -> float:
    """The step by batch size, linear between those that were measured."""
    for (fewer, quick), (more, slow) in pairwise(CPU.items()):
        if fewer <= running <= more:
            return quick + (slow - quick) * (running - fewer) / (more - fewer)
    raise AssertionError("not measured")


def gpu(running: int) -> float:
    """A step takes as long for many as for one."""
    return 0.012


@dataclass
class Server:
    """Runs so many at once; what is beyond them waits, or is refused beyond the limit."""

    slots: int
    step: Callable[[int], float] = gpu
    limit: int = 1_000_000
    others: int = 0
    """Requests that are not hub's."""
    tells: bool = True
    """Whether it tells its load."""


def adaptive(slots: int | None = None) -> Adaptive:
    """It has had its very first request already, which does not count."""
    one = Adaptive(Window(Adaptive.first_size(slots)), slots=slots)
    one.first_token(PREFILL, 0.0, 100)
    return one


def crowd(one: Adaptive, server: Server, now: float = 1.0, rounds: int = 1) -> list[int]:
    """So many rounds in which more requests wait for room than there is: the window's sizes after
    each. All requests have the same prompt, and the first of a round has a burst before it."""
    sizes = []
    for _ in range(rounds):
        begun = now
        for place in range(ROUND + 1):
            held = one.window.size + server.others
            waiting, running = max(0, held - server.slots), min(one.window.size, server.slots)
            sent = begun + place / 4 + LATER
            now = sent + PREFILL * (1 + waiting)
            if place == 0:
                begun = now
            one.held_back()
            if held > server.limit:
                one.refused(now, sent)
                continue
            if server.tells:
                one.load(now, Load(running=min(held, server.slots), waiting=waiting))
            one.window.in_flight = running
            one.ended(now, running, 24 * server.step(running), 24)
            one.first_token(now, sent, 100)
        sizes.append(one.window.size)
    return sizes


def good_round(one: Adaptive, now: float) -> float:
    """A round in which somebody is held back and nothing is slow: when it is over."""
    one.first_token(now + LATER + PREFILL, now + LATER, 100)
    one.held_back()
    for _ in range(ROUND):
        one.first_token(now + 2 + PREFILL, now + 2, 100)
    return now + 2 + PREFILL


# The bounds.

SLOTS = st.none() | st.integers(1, 64)
TOLD = ("held back", "first token", "ended", "refused", "load", "slots", "good round")
STEPS = st.tuples(st.sampled_from(TOLD), st.floats(0.001, 1), st.integers(1, 70))
"""What an upstream may be told: what, a time or a share, and a number."""
Step = tuple[str, float, int]


def apply(one: Adaptive, now: float, step: Step) -> None:
    what, amount, number = step
    if what == "held back":
        one.held_back()
    elif what == "first token":
        one.first_token(now, now - amount, 100)
    elif what == "ended":
        one.ended(now, number, amount, 24)
    elif what == "refused":
        one.refused(now, now - amount)
    elif what == "load":
        one.load(now, Load(running=number, waiting=number // 2, kv_used=amount))
    elif what == "slots":
        one.slots(now, number)
    else:
        good_round(one, now)


@given(SLOTS, traces(st.tuples(st.floats(0, 30), STEPS), 80))
def test_the_window_stays_between_one_and_the_most(
    slots: int | None, trace: list[tuple[float, Step]]
) -> None:
    """Whatever is told: at least 1, and at most the slots and a thirty-second more, if they are
    known; and it shrinks only for congestion, a refusal, a better smaller number, a trial or other
    slots, which is counted."""
    one, now, most = adaptive(slots), 0.0, Adaptive.first_size(slots) if slots else MOST
    for pause, step in trace:
        now += 3 + pause
        before, counted = one.window.size, one.changes.copy()
        apply(one, now, step)
        if step[0] == "slots":
            most = Adaptive.first_size(step[2])
        assert 1 <= one.window.size <= most
        why = set(one.changes - counted)
        if one.window.size < before:
            assert why & {"queue", "cache", "ttft", "refused", "slower", "trial", "slots"}
        if one.window.size > before:
            assert why & {"room", "trial", "slots"}


@given(SLOTS, traces(st.tuples(st.floats(0, 30), STEPS), 80))
def test_nothing_changes_while_nobody_is_held_back(
    slots: int | None, trace: list[tuple[float, Step]]
) -> None:
    """Where the window is not the limit nothing can be learned of it."""
    one, now = adaptive(slots), 0.0
    for pause, step in trace:
        now += pause
        if step[0] in ("first token", "load"):
            apply(one, now, step)
    assert one.window.size == Adaptive.first_size(slots)
    assert not one.changes


@given(st.integers(2, 64), traces(st.tuples(st.floats(0, 5), st.floats(0, 9)), 80))
def test_late_first_tokens_alone_never_shrink_known_slots(
    slots: int, trace: list[tuple[float, float]]
) -> None:
    """Where the slots are known a late first token has other causes than a large window."""
    one, now = adaptive(slots), 0.0
    for pause, seconds in trace:
        now += pause
        one.held_back()
        one.first_token(now, now - seconds, 100)
    assert one.window.size == Adaptive.first_size(slots)


@given(st.integers(1, 300), st.integers(0, 1000), st.floats(0, 1), st.integers(0, 40))
def test_congestion_never_leaves_less_than_a_quarter_of_the_slots(
    slots: int, waiting: int, kv_used: float, rounds: int
) -> None:
    """However long it lasts, a step is a tenth and a quarter stays; below is where only refusals
    lead, and from there congestion does not lead further down."""
    one, now, least = adaptive(slots), 0.0, max(1, slots // 4)
    for _ in range(rounds):
        before = one.window.size
        one.load(now, Load(running=slots, waiting=waiting, kv_used=kv_used))
        now = good_round(one, now)
        assert one.window.size >= min(before, max(least, int(before * 0.9)))
    one.refused(now + 1, now + 0.5)
    below = one.window.size
    one.load(now + 3, Load(running=slots, waiting=slots + 100))
    good_round(one, now + 3)
    assert one.window.size >= min(below, least)


# Steps.


@given(SLOTS, st.integers(1, 50), st.floats(0, 5))
def test_refusals_of_one_burst_are_one_step(slots: int | None, burst: int, delay: float) -> None:
    """What was dispatched together and is refused shrinks the window once, by four tenths, at
    once, even if nobody was held back or others were let in; a later refusal is another step."""
    one = Adaptive(Window(Adaptive.first_size(slots)), slots=slots)
    before = one.window.size
    one.first_token(10.0, 10.0, 100)
    for number in range(burst):
        one.refused(10.0 + delay + number / 1000, 10.0)
    assert one.window.size == max(1, int(before * SHRINK_HARD))
    one.refused(30.0, 20.0)
    assert one.window.size == max(1, int(max(1, int(before * SHRINK_HARD)) * SHRINK_HARD))


def test_refusals_lead_down_to_what_is_not_refused() -> None:
    """A server that takes two is soon given about two; it is asked for more now and then."""
    sizes = crowd(adaptive(64), Server(64, limit=2), rounds=40)
    assert max(sizes[3:]) <= 4
    assert sizes.count(2) > 10


def test_a_queue_that_is_still_held_is_no_second_congestion() -> None:
    """What the server tells while it holds what was dispatched before a change does not count."""
    one, now = adaptive(), 1.0
    for _ in range(FIRST):
        one.window.take()
    one.load(now, Load(running=8, waiting=8))
    now = good_round(one, now)
    assert one.window.size == int(FIRST * SHRINK_HARD)
    one.load(now + 1, Load(running=8, waiting=8))
    while one.window.in_flight > one.window.size:
        one.window.give_back()
    good_round(one, now + 1)
    assert one.changes == {"queue": 1, "room": 1}


@settings(max_examples=10)
@given(st.floats(0.001, 0.008), st.floats(9, 20))
def test_a_window_that_has_grown_is_not_judged_by_the_burst_that_filled_it(
    prefill: float, decode: float
) -> None:
    """A server that reads prompts one after the other makes a burst wait, the very first one too,
    and what comes right behind it; it has time for more, so the window doubles to the most."""
    one, now, free_at = Adaptive(Window(FIRST)), 0.0, 0.0
    events: list[tuple[float, bool, float]] = []
    """When a request has its first token, or (true) its end, and when it was dispatched."""
    while now < 300:
        while one.window.room():
            one.window.take()
            free_at = max(free_at, now) + prefill
            heappush(events, (free_at, False, now))
        one.held_back()
        now, over, sent = heappop(events)
        if over:
            one.window.give_back()
        else:
            one.first_token(now, sent, 100)
            heappush(events, (now + decode, True, sent))
    assert one.window.size == MOST
    assert one.changes == {"room": 6}


# Where it leads.


@given(st.integers(1, 1024), st.integers(0, 60), st.integers(1, 2000), st.integers(0, 10))
def test_known_slots_are_used_again_soon_after_congestion(
    slots: int, rounds: int, others: int, refusals: int
) -> None:
    """When the requests of others have gone, the window is back within two rounds for each unit of
    the root of the slots, also from the 1 that refusals lead to: it does not crawl; and it stays.
    """
    one, server = adaptive(slots), Server(slots, others=others)
    crowd(one, server, rounds=rounds)
    for number in range(refusals):
        one.refused(9000.5 + number, 9000.0 + number)
    server.others = 0
    sizes = crowd(one, server, 10_000.0, rounds=2 * isqrt(slots) + 10)
    assert sizes[-1] == Adaptive.first_size(slots)
    settled = [size for size in sizes if size > 1 or slots == 1]
    assert settled == sorted(settled)


@given(st.integers(20, 900), st.booleans())
def test_unknown_slots_are_found_by_doubling(slots: int, tells: bool) -> None:
    """Until the first congestion the window doubles, and doubles no more after; then it stays near
    the slots: what waits in the server is little, and few slots are idle."""
    sizes = [FIRST, *crowd(adaptive(), Server(slots, tells=tells), rounds=100)]
    first = next(place for place, (one, other) in enumerate(pairwise(sizes)) if other < one)
    assert sizes[: first + 1] == [min(MOST, FIRST << place) for place in range(first + 1)]
    assert sizes[first + 1] == int(sizes[first] * SHRINK_HARD)
    assert all(other - one <= isqrt(one) for one, other in pairwise(sizes[first:]))
    spare = 2 + isqrt(slots) + slots // 8 + (0 if tells else 8)
    assert all(0.8 * slots - 2 <= size <= slots + spare for size in sizes[60:])


# The goodput guard. ``test_adapt_simulated.py`` has more.


def test_a_cpu_with_few_slots_ends_up_one_by_one() -> None:
    """Four slots that make less together than one alone are found out by a trial, and used one by
    one from then on; what is between is tried once each."""
    one = adaptive(4)
    sizes = crowd(one, Server(4, cpu), rounds=100)
    assert one.changes["slower"] <= 4
    assert set(sizes[40:]) == {1}


def test_a_cpu_with_many_slots_keeps_them() -> None:
    """Sixteen together make more than one by one: nothing is tried at all."""
    one = adaptive(16)
    assert set(crowd(one, Server(16, cpu), rounds=100)) == {16}
    assert not one.changes


def test_a_cpu_whose_many_slots_shrank_goes_past_the_valley() -> None:
    """After refusals down to 1 the window does not stay at the foot of the valley."""
    one = adaptive(16)
    for number in range(6):
        one.refused(number + 1.0, number + 0.5)
    assert one.window.size == 1
    assert crowd(one, Server(16, cpu), 20.0, rounds=60)[-1] == 16


@given(st.integers(2, FEW))
def test_a_trial_puts_the_size_back(slots: int) -> None:
    """On a GPU: down to 1 for three requests, then as before, at most every half hour."""
    one = adaptive(slots)
    sizes = crowd(one, Server(slots), rounds=int(FORGET / 2) + 20)
    assert one.changes == {"trial": 4}
    assert sizes[-1] == slots


@given(st.integers(2, FEW), st.floats(0, 300), st.booleans())
def test_a_trial_ends_after_a_minute_at_the_latest(slots: int, later: float, load: bool) -> None:
    """If none of its requests ends, the next news after that puts the size back."""
    one, now = on_trial(slots)
    if load:
        one.load(now + later, Load())
    else:
        one.first_token(now + later, now + later - LATER, 100)
    assert one.window.size == (slots if later >= TRIAL_TIME else 1)


@given(st.integers(2, FEW), st.integers(1, 64))
def test_a_trial_ends_when_the_server_has_other_slots_or_refuses(slots: int, others: int) -> None:
    """What was before the trial was another server's, or is too much by now."""
    one, now = on_trial(slots)
    one.refused(now + 1, now + 0.5)
    one.load(now + 2 * TRIAL_TIME, Load())
    assert one.window.size == 1
    one, now = on_trial(slots)
    assume(others != slots)
    one.slots(now + 1, others)
    one.load(now + 2 * TRIAL_TIME, Load())
    assert one.window.size == Adaptive.first_size(others)


def on_trial(slots: int) -> tuple[Adaptive, float]:
    """A window that has just been made 1 to see what that makes, and when."""
    one, now = adaptive(slots), 1.0
    one.window.in_flight = slots
    while one.window.size != 1:
        now += 1
        one.held_back()
        one.ended(now, slots, 24 * gpu(slots), 24)
        one.first_token(now, now - LATER, 100)
    return one, now


@given(st.integers(2, 64), st.data())
def test_a_share_of_the_slots_is_the_most(slots: int, data: st.DataObject) -> None:
    """What was full is as large as the share at once, what was not grows by itself; and it is never
    shrunk below a quarter of the share."""
    one = adaptive(slots)
    assert one.most == Adaptive.first_size(slots)
    for now, share in enumerate(data.draw(st.lists(st.integers(1, one.most), max_size=8))):
        full, before = one.window.size >= one._most, one.window.size
        one.share(float(now), share)
        begun = one.window.size
        assert begun == (share if full else min(before, share))
        congested = Load(running=slots, waiting=10 * slots)
        crowd(one, Server(slots), 1000.0 * (now + 1))
        one.load(1000.0 * (now + 2), congested)
        good_round(one, 1000.0 * (now + 2))
        assert min(begun, max(1, share // 5)) <= one.window.size <= share


def test_a_queue_of_all_nodes_is_judged_by_what_all_may_have() -> None:
    """Not by a share of it, which is smaller than the queue that is meant to be there."""
    one = adaptive(256)
    one.share(0.0, 33)
    one.load(1.0, Load(running=256, waiting=8))
    good_round(one, 1.0)
    assert one.window.size == 33
    one.load(10.0, Load(running=256, waiting=40))
    good_round(one, 10.0)
    assert one.window.size < 33


def test_where_others_use_the_server_nobody_tries_one_by_one() -> None:
    """What they have there says nothing of it."""
    alone, one = adaptive(4), adaptive(4)
    one.share(0.0, 3)
    for each, server in ((alone, Server(4)), (one, Server(3))):
        crowd(each, server, rounds=20)
    assert alone.changes["trial"]
    assert not one.changes["trial"]


def test_slots_that_are_told_later_are_the_size_at_once() -> None:
    """A server that was not there at first is not asked step by step."""
    one = adaptive()
    one.slots(1.0, 64)
    one.slots(2.0, 64)
    assert (one.window.size, one.changes) == (66, {"slots": 1})


@given(st.lists(st.tuples(st.floats(0.001, 10), st.integers(0, 5000)), min_size=1))
def test_times_to_first_token_are_compared_with_the_least_of_such_prompts(
    times: list[tuple[float, int]],
) -> None:
    """The ratio is at least 1, and that to the least of prompts of the same size, which rises by no
    more than a ten-thousandth with each."""
    baseline = Baseline()
    for place, (seconds, prompt) in enumerate(times):
        alike = [t for t, p in times[: place + 1] if p.bit_length() == prompt.bit_length()]
        ratio = baseline.ratio(seconds, prompt)
        exact = seconds / min(alike)
        assert max(1.0, exact / Baseline.RISE ** len(alike)) <= ratio * (1 + 1e-9)
        assert ratio <= exact * (1 + 1e-9)
