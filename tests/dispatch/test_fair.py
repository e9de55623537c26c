"""Fair shares: the rules at the top of ``fair.py``, against any traffic."""

import random
from collections import Counter, deque
from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.fair import MAX_COUNTERS, FairShare
from tests.traces import traces

costs = st.tuples(st.integers(1, 2000), st.integers(0, 2000))
"""A request's prompt and output, in weighted tokens."""


class Server:
    """Serves the tenants of a class, so many requests at once. What they cost is charged as the
    dispatcher does it: the prompt when one leaves, the output bit by bit until it ends."""

    def __init__(self, places: int, seed: int = 0) -> None:
        self.fair = FairShare()
        self.places = places
        self.waiting: dict[str, deque[tuple[int, int]]] = {}
        self.running: list[tuple[str, int]] = []
        self.served: Counter[str] = Counter()
        self.starts: list[str] = []
        self.random = random.Random(seed)

    def put(self, tenant: str, *requests: tuple[int, int]) -> None:
        if tenant not in self.waiting:
            self.fair.arrive(tenant, self.waiting)
            self.waiting[tenant] = deque()
        self.waiting[tenant].extend(requests)

    def step(self, may_start: str | None = None) -> None:
        """Start what there is a place for, and let somebody decode something."""
        while self.waiting and len(self.running) < self.places:
            order = self.fair.order(self.waiting)
            assert sorted(order) == sorted(self.waiting)
            tenant = next((one for one in order if may_start in (None, one)), None)
            if tenant is None:
                break
            prompt, output = self.waiting[tenant].popleft()
            if not self.waiting[tenant]:
                del self.waiting[tenant]
            self.fair.dispatch(tenant, prompt, order)
            self.served[tenant] += prompt
            self.starts.append(tenant)
            self.running.append((tenant, output))
        if self.running:
            tenant, left = self.running.pop(self.random.randrange(len(self.running)))
            tokens = min(left, self.random.randint(1, 500))
            self.fair.charge(tenant, tokens)
            self.served[tenant] += tokens
            if left > tokens:
                self.running.append((tenant, left - tokens))


@given(
    st.lists(st.lists(costs, min_size=1, max_size=5), min_size=2, max_size=4),
    st.integers(1, 6),
    st.integers(0, 10**6),
)
def test_the_service_of_backlogged_tenants_differs_by_a_bounded_amount(
    tenants: list[list[tuple[int, int]]], places: int, seed: int
) -> None:
    """Two tenants who always have something waiting differ, at any time, by no more than the
    longest prompt and all the output that the places can make, whatever their requests cost: the
    one that was served more is not given a place again before the other one has caught up."""
    server = Server(places, seed)
    requests = {str(number): cycle(costs) for number, costs in enumerate(tenants)}
    prompt = max(prompt for costs in tenants for prompt, _ in costs)
    output = max(output for costs in tenants for _, output in costs)
    for _ in range(300):
        for tenant, costs in requests.items():
            while len(server.waiting.get(tenant, ())) <= places:
                server.put(tenant, next(costs))
        server.step()
        services = [server.served[tenant] for tenant in requests]
        assert max(services) - min(services) <= prompt + places * output
        assert server.fair.spread([*requests]) == max(services) - min(services)


@given(st.integers(1, 4), st.lists(costs, min_size=1, max_size=50))
def test_whoever_is_alone_gets_everything(places: int, requests: list[tuple[int, int]]) -> None:
    """A lone tenant's requests start as soon as there is a place, whatever it has had already."""
    server = Server(places)
    server.put("lone", *requests)
    while server.waiting:
        server.step()
        assert len(server.running) >= min(places, len(requests)) - 1
    assert server.served["lone"] >= sum(prompt for prompt, _ in requests)


@given(
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_being_away_earns_no_credit(
    before: int, while_away: int, places: int, waits_when_back: bool, seed: int
) -> None:
    """A tenant who was away, or never there, has no more from then on than another one who was
    served meanwhile, but for the bound above; and no less either, if it has caught up before."""
    server = Server(places, seed)

    def run(steps: int, *tenants: str) -> None:
        for _ in range(steps):
            for tenant in tenants:
                if len(server.waiting.get(tenant, ())) < 2:
                    server.put(tenant, (50, 100))
            server.step()

    run(before, "a", "b")
    while server.waiting or server.running:
        server.step()
    run(while_away, "a")
    while not waits_when_back and (server.waiting or server.running):
        server.step()
    start = server.served.copy()
    bound = 50 + places * 100
    for _ in range(300):
        run(1, "a", "b")
        more = {one: server.served[one] - start[one] for one in "ab"}
        assert abs(more["a"] - more["b"]) <= 2 * bound


def test_whoever_comes_to_an_empty_queue_stands_where_the_last_one_stands() -> None:
    """Its output included, be it made meanwhile."""
    fair = FairShare()
    fair.arrive("a", ())
    fair.dispatch("a", 10, ["a"])
    fair.charge("a", 1000)
    fair.arrive("b", ())
    fair.arrive("a", ["b"])
    assert fair.spread(["a", "b"]) == 0


@given(st.integers(1, 1000))
def test_going_away_does_not_forgive_what_one_has_had(lead: int) -> None:
    """Whoever comes back with more than the others has had waits until they have caught up."""
    fair = FairShare()
    fair.arrive("a", ())
    fair.arrive("b", ["a"])
    fair.charge("a", lead)
    fair.arrive("a", ["b"])
    assert fair.spread(["a", "b"]) == lead
    assert fair.order(["a", "b"]) == ["b", "a"]


@given(st.integers(1, 10_000), st.integers(1, 4), st.integers(5, 50))
def test_newcomers_do_not_keep_an_old_tenant_waiting_for_ever(
    lead: int, at_once: int, cost: int
) -> None:
    """Whoever has had more than the others waits while they catch up, as one tenant or as an
    endless row of new ones who ask once each; but not longer."""
    fair = FairShare()
    fair.arrive("old", ())
    fair.arrive("other", ("old",))
    fair.charge("old", lead)
    waiting = ["old", "other"]
    for number in range(10**5):
        while len(waiting) <= at_once:
            fair.arrive(f"{number}-{len(waiting)}", waiting)
            waiting.append(f"{number}-{len(waiting)}")
        order = fair.order(waiting)
        first = order[0]
        if first == "old":
            break
        fair.dispatch(first, cost, order)
        waiting.remove(first)
    else:
        raise AssertionError("it starves")
    assert number * cost <= (lead + cost) * (at_once + 1) + cost


@given(st.integers(0, 10**6), st.integers(1, 50))
def test_an_old_tenant_does_not_keep_a_newcomer_waiting(served: int, number: int) -> None:
    """However much and however little the others have had: whoever comes new is behind one request
    of each, if all cost the same."""
    server = Server(1)
    for one in range(number):
        server.put(str(one), *[(10, 0)] * 9)
    server.fair.charge("0", served)
    for _ in range(number // 2):
        server.step()
    starts = len(server.starts)
    server.put("new", (10, 0))
    while "new" not in server.starts:
        server.step()
    assert len(server.starts) - starts <= number + 1


@given(st.integers(1, 30))
def test_whoever_is_passed_over_is_not_owed_it(times: int) -> None:
    """A tenant who is first, but whose model has no place, stands with the one that was served
    instead of it."""
    server = Server(1)
    server.put("stuck", *[(10, 0)] * 100)
    server.put("busy", *[(10, 0)] * 100)
    for _ in range(times):
        server.step(may_start="busy")
    assert server.fair.spread(["stuck", "busy"]) == 10
    for _ in range(11):
        server.step()
    assert server.starts[times:] == ["stuck"] + ["stuck", "busy"] * 5


@given(traces(st.sampled_from("abc"), 30))
def test_a_charge_that_is_taken_back_never_was(tenants: list[str]) -> None:
    """What was dispatched in vain is refunded."""
    fair = FairShare()
    for tenant in "abc":
        fair.arrive(tenant, ())
    for tenant in tenants:
        fair.charge(tenant, 10)
        fair.charge(tenant, -10)
    assert fair.spread("abc") == 0
    assert fair.order("abc") == [*"abc"]


def test_the_memory_is_bounded() -> None:
    """However many tenants come: the ones that came last, those who wait and who was served last
    are remembered; what runs for a forgotten one is charged, and then forgotten, too."""
    fair = FairShare()
    fair.arrive("waits", ())
    fair.charge("waits", 500)
    for number in range(3 * MAX_COUNTERS):
        fair.arrive(str(number), ["waits"])
        fair.charge(str(number), 1000)
    assert len(fair._served) == MAX_COUNTERS
    assert fair.spread(["waits", str(3 * MAX_COUNTERS - 1)]) == 1000
    last = str(2 * MAX_COUNTERS + 2)
    assert last in fair._served
    fair.arrive(last, ["waits"])
    fair.arrive("one more", ["waits"])
    assert last in fair._served
    for number in range(50):
        fair.charge(str(number), 1)
    assert len(fair._served) == MAX_COUNTERS + 50
    fair.arrive("new", ["waits"])
    assert len(fair._served) == MAX_COUNTERS


def test_those_who_wait_are_never_forgotten() -> None:
    """Even if there are more of them than are remembered."""
    fair = FairShare()
    waiting = [str(number) for number in range(MAX_COUNTERS + 10)]
    for at, tenant in enumerate(waiting):
        fair.arrive(tenant, waiting[:at] if at % 512 == 0 or at > MAX_COUNTERS - 2 else ())
        fair.charge(tenant, 1)
    assert len(fair._served) == len(waiting)


def test_nobody_is_apart_from_nobody() -> None:
    """The spread of no tenants is nothing."""
    assert FairShare().spread([]) == 0
