"""How the window of a model server is divided among the nodes that use it. Pure.

Each node beats about once a second: in one step it tells its *claim* and is told those of the
others. A claim is its *demand* (requests that it has there, or that wait for it) and what it
*holds*: the most that it has there, or may come to have there, until its next claim. From the same
claims all nodes compute the same division (``divide``):

1. Everybody gets one place, since a node must be able to serve. So with fewer places than nodes the
   server gets more than its window: at most one request of each node.
2. The rest goes by demand: to all as much as they want, and what is left over evenly; if that is
   too little, in proportion to what they want beyond their first place.

Claims change at any time, and no two nodes see the same ones. What keeps the sum within the window
all the same:

3. A node takes less at once, and says so with its next claim; what it still has there counts as
   held until it has ended.
4. It takes more only after it has claimed that, and only what the others do not hold by what it was
   told in the same step. Of two that want one place the later one sees the earlier one's claim.

A node that has just come holds one place before the others make room for it, for about a beat. One
that is not heard of any more loses its places to the others, though it may go on with what it has.

Places that nobody needs elsewhere do not wander for every small change of demand: a node gives
something away if somebody is short of places, if more is held than there is, or if it has over a
quarter too much.
"""

from collections.abc import Mapping
from dataclasses import dataclass

TOO_MUCH = 4
"""A node gives away what nobody is short of if it is more than one in so many of its places."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a node says of its use of one server."""

    demand: int
    """Requests that it has there, or that wait for it."""
    held: int
    """The most that it has there, or may come to have there, until it claims something else."""

    @property
    def short(self) -> bool:
        """Whether it wants more than it has."""
        return self.demand > self.held


def divide(total: int, demands: Mapping[str, int]) -> dict[str, int]:
    """The share of each node in a window of so many places: rules 1 and 2. Together they are the
    whole window, or one place for each node if there are more nodes. Ties go by the nodes' names.
    """
    names = sorted(demands)
    rest = max(0, total - len(names))
    wants = {name: max(0, demands[name] - 1) for name in names}
    wanted = sum(wants.values())
    if wanted <= rest:
        # Evenly, the first ones one more.
        each, over = divmod(rest - wanted, max(1, len(names)))
        return {name: 1 + wants[name] + each + (at < over) for at, name in enumerate(names)}
    shares = {name: 1 + rest * wants[name] // wanted for name in names}
    by_remainder = sorted(names, key=lambda name: (-(rest * wants[name] % wanted), name))
    for name in by_remainder[: rest + len(names) - sum(shares.values())]:
        shares[name] += 1
    return shares


class Share:
    """One node's share of one server's window: rules 3 and 4. ``claim``, tell it, ``settle``, and
    so on."""

    def __init__(self, total: int, size: int = 1) -> None:
        """``total`` is the window of all nodes together, and ``size`` what this node begins with,
        before it is told anything."""
        assert 1 <= size <= total
        self.total = total
        self.size = size
        """The most that the node may have there."""
        self.gave = False
        """The last claim gave something away: the others should know."""
        self._wanted = size
        self._said = size

    def claim(self, demand: int, used: int) -> Claim:
        """What to tell the others now; ``used`` is what the node has there."""
        held = max(self.size, self._wanted, used)
        self.gave = held < self._said
        self._said = held
        return Claim(demand, held)

    def settle(self, name: str, claims: Mapping[str, Claim]) -> None:
        """Go by what all say, told in the same step in which the last ``claim`` was. The node
        itself is ``name``; all others that use the server are in ``claims``."""
        others = {other: claim for other, claim in claims.items() if other != name}
        held = sum(claim.held for claim in others.values())
        room = self.total - held
        self.size = max(self.size, min(self._wanted, room))
        short = any(claim.short for claim in others.values())
        demands = {other: claim.demand for other, claim in claims.items()}
        due = divide(self.total, {name: 0, **demands})[name]
        too_much = self.size - due > self.size // TOO_MUCH or self.size > room
        if due < self.size and (short or too_much):
            self.size = due
        self._wanted = max(self.size, min(due, room))

    def restless(self, used: int) -> bool:
        """Whether the next claim would hold something else than the last: it need not wait."""
        return max(self.size, self._wanted, used) != self._said

    def change(self, total: int) -> None:
        """The window has become another one. What a smaller one has no place for is given up in
        proportion; for a larger one there are claims."""
        if total < self.total:
            self.size = max(1, self.size * total // self.total)
            self._wanted = self.size
        self.total = total
