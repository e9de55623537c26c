"""The window of an upstream: how many requests it holds at once. Pure.

A window as large as the server's own slots costs a few per cent of throughput against sending
everything, and keeps order, fairness, deadlines and cancellation in hub.
"""


class Window:
    """Counts what is reserved. What is taken is given back exactly once."""

    __slots__ = ("in_flight", "size")

    def __init__(self, size: int) -> None:
        assert size >= 1
        self.size = size
        self.in_flight = 0

    @property
    def room(self) -> int:
        """How many more requests fit."""
        return self.size - self.in_flight

    def take(self) -> None:
        assert self.in_flight < self.size, "a request beyond the window"
        self.in_flight += 1

    def give_back(self) -> None:
        assert self.in_flight > 0, "given back twice"
        self.in_flight -= 1
