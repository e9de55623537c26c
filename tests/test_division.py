"""A window that several nodes use is divided by need, and never used twice."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hub.division import Claim, Share, divide

names = st.text("abcdef", min_size=1, max_size=2)
crowds = st.dictionaries(names, st.integers(0, 200), min_size=1, max_size=6)


@given(st.integers(1, 100), crowds)
def test_the_shares_are_the_window_and_everybody_has_one(
    total: int, demands: dict[str, int]
) -> None:
    """One each, and no more, if there are fewer places than nodes."""
    shares = divide(total, demands)
    assert shares.keys() == demands.keys()
    assert sum(shares.values()) == max(total, len(demands))
    assert all(share >= 1 for share in shares.values())


@given(st.integers(1, 100), crowds)
def test_all_get_what_they_want_or_everything_is_used(total: int, demands: dict[str, int]) -> None:
    shares = divide(total, demands)
    wanted = sum(max(1, demand) for demand in demands.values())
    if wanted <= total:
        assert all(shares[name] >= demand for name, demand in demands.items())
        spare = [shares[name] - max(1, demand) for name, demand in demands.items()]
        assert max(spare) - min(spare) <= 1
    else:
        assert all(shares[name] <= max(1, demand) for name, demand in demands.items())


@given(st.integers(1, 100), crowds)
def test_who_wants_more_gets_no_less(total: int, demands: dict[str, int]) -> None:
    """Equals get the same but for one place, which goes by the name."""
    shares = divide(total, demands)
    order = sorted(demands, key=lambda name: (demands[name], shares[name]))
    found = [shares[name] for name in order]
    assert all(after >= before - 1 for before, after in pairwise(found))


BEATS = 12
"""Beats of each node after which nothing changes any more."""


class Node:
    """A node, and what it has at the server."""

    def __init__(self, name: str, total: int) -> None:
        self.name = name
        self.share = Share(total)
        self.waiting = 0
        self.used = 0
        self.heard: dict[str, Claim] | None = None

    def work(self) -> None:
        """Send as many as there is room for."""
        sent = max(0, min(self.waiting, self.share.size - self.used))
        self.waiting -= sent
        self.used += sent

    def tell(self, board: dict[str, Claim]) -> None:
        """The step of a beat: nobody else's comes between the claim and what all say."""
        assert self.heard is None
        board[self.name] = self.share.claim(self.waiting + self.used, self.used)
        self.heard = {**board}

    def hear(self) -> None:
        """The answer has come, possibly long after."""
        if self.heard is not None:
            self.share.settle(self.name, self.heard)
            self.heard = None
            self.work()


class Division(RuleBasedStateMachine):
    """Nodes come and go, want something and do not, and beat whenever they like."""

    @initialize(total=st.integers(1, 20), number=st.integers(1, 4))
    def begin(self, total: int, number: int) -> None:
        self.total = total
        self.board: dict[str, Claim] = {}
        self.nodes: list[Node] = []
        self.nodes = [Node(f"node-{one}", total) for one in range(number)]
        self.came = number
        self.allowed = max(total, number)
        for node in self.nodes:
            node.tell(self.board)

    @rule()
    def come(self) -> None:
        if len(self.nodes) < 6:
            self.nodes.append(Node(f"node-{self.came}", self.total))
            self.nodes[-1].tell(self.board)
            self.came += 1
            # It has one place at once; the others are yet to make room for it.
            self.allowed += 1

    @rule(at=st.integers(0, 5))
    def leave(self, at: int) -> None:
        if at < len(self.nodes) and not self.nodes[at].used:
            self.board.pop(self.nodes.pop(at).name)

    @rule(at=st.integers(0, 5), number=st.integers(0, 30))
    def want(self, at: int, number: int) -> None:
        if at < len(self.nodes):
            self.nodes[at].waiting = number
            self.nodes[at].work()

    @rule(at=st.integers(0, 5), number=st.integers(0, 30))
    def end(self, at: int, number: int) -> None:
        if at < len(self.nodes):
            self.nodes[at].used -= min(number, self.nodes[at].used)
            self.nodes[at].work()

    @rule(at=st.integers(0, 5))
    def tell(self, at: int) -> None:
        if at < len(self.nodes):
            self.nodes[at].hear()
            self.nodes[at].tell(self.board)

    @rule(at=st.integers(0, 5))
    def hear(self, at: int) -> None:
        if at < len(self.nodes):
            self.nodes[at].hear()

    @rule(order=st.permutations(range(6)))
    def settle(self, order: list[int]) -> None:
        """Where requests that end are followed by others, all have their shares in a few beats."""
        for _ in range(BEATS):
            for at in order:
                if at < len(self.nodes):
                    node = self.nodes[at]
                    node.hear()
                    ended = max(0, node.used - node.share.size)
                    node.used, node.waiting = node.used - ended, node.waiting + ended
                    node.tell(self.board)
                    node.hear()
        assert not any(node.share.restless(node.used) for node in self.nodes)
        demands = {node.name: node.waiting + node.used for node in self.nodes}
        self.allowed = max(self.total, len(self.nodes))
        for node in self.nodes:
            due = divide(self.total, demands)[node.name]
            # Nobody is short while another one has what he does not need.
            assert node.share.size >= min(due, demands[node.name])

    @invariant()
    def nothing_is_used_twice(self) -> None:
        if hasattr(self, "nodes"):
            held = sum(max(node.share.size, node.used) for node in self.nodes)
            assert held <= self.allowed
            assert all(node.share.size >= 1 for node in self.nodes)


TestDivision = Division.TestCase
TestDivision.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_smaller_window_is_given_up_in_proportion() -> None:
    """And a larger one is claimed first."""
    share = Share(16, 8)
    share.change(4)
    assert (share.total, share.size) == (4, 2)
    share.change(16)
    assert (share.total, share.size) == (16, 2)
    for _ in range(2):
        claim = share.claim(9, 0)
        share.settle("a", {"a": claim, "b": Claim(0, 4)})
    assert share.size == 12
