"""The window of an upstream: how much it holds at once, in requests and in tokens. Pure.

A window as large as the server's own slots costs a few per cent of throughput against sending
everything, and keeps order, fairness, deadlines and cancellation in hub. How large it should be is
decided in ``adapt.py``.
"""


class Window:
    """Counts what is reserved. What is taken is given back exactly once."""

    __slots__ = ("budget", "in_flight", "size", "tokens")

    def __init__(self, size: int, budget: int | None = None) -> None:
        """``budget`` is the most tokens that the upstream's requests may come to hold together;
        ``None`` if only their number counts."""
        assert size >= 1
        self.size = size
        self.budget = budget
        self.in_flight = 0
        self.tokens = 0

    def room(self, share: float = 1.0, spare: int = 0) -> int:
        """How many more requests fit for who may fill so large a share, and leaves so many places
        free in any case: at least one place, if it leaves at least one of two; never below 0."""
        most = self.size if share >= 1 else int(self.size * share)
        return max(0, max(1, min(most, self.size - spare)) - self.in_flight)

    def fits(self, need: int) -> bool:
        """Whether there are so many tokens left. Alone, a request of any size is let through: the
        upstream knows better."""
        return self.budget is None or not self.in_flight or self.tokens + need <= self.budget

    def take(self, need: int = 0) -> None:
        assert self.in_flight < self.size, "a request beyond the window"
        assert self.fits(need), "tokens beyond the budget"
        self.in_flight += 1
        self.tokens += need

    def give_back(self, need: int = 0) -> None:
        assert self.in_flight > 0, "given back twice"
        assert self.tokens >= need, "more given back than taken"
        self.in_flight -= 1
        self.tokens -= need
