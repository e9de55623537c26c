"""A sink that ends a text by hub's own rules, before the sink that keeps it. Pure."""

from collections.abc import Callable
from typing import Protocol

from hub.api.early_stop import EarlyStop, Reason, Stopper
from hub.api.requests import Json, Usage


class Inner(Protocol):
    """What it says to: an ``engines.base.Sink``."""

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None: ...
    def reasoning(self, delta: str) -> None: ...
    def refusal(self, delta: str) -> None: ...
    def tool_call(
        self, index: int, call_id: str | None, name: str | None, arguments: str
    ) -> None: ...
    def usage(self, usage: Usage) -> None: ...
    def finish(self, reason: str) -> None: ...


class Stopping:
    """Applies the rules to the text of a raw completion. Implements ``engines.base.Sink``.

    When they end it, the inner sink is told ``finish("stop")`` and then ``on_stop`` is called, on
    the engine's stack; whoever has given it stops the engine. From then on the engine is heard no
    more but for its ``usage``. What else ends the text is passed on as it is, after all that was
    held back.
    """

    def __init__(
        self,
        inner: Inner,
        rules: EarlyStop,
        *,
        clock: Callable[[], float],
        on_stop: Callable[[], None],
    ) -> None:
        """``clock`` tells seconds."""
        self._inner = inner
        self._stopper = Stopper(rules)
        self._clock = clock
        self._on_stop = on_stop
        self._finished = False
        self.usage = inner.usage

    @property
    def reason(self) -> Reason | None:
        """The rule that has ended or shortened the text, if one has."""
        return self._stopper.reason

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        """Log probabilities are dropped wherever a piece is not said as it came."""
        if self._finished:
            return
        said = self._stopper.feed(delta, self._clock())
        if said:
            self._inner.text(said, logprobs if said == delta else None)
        if self._stopper.reason is not None:
            self._finished = True
            self._inner.finish("stop")
            self._on_stop()

    def reasoning(self, delta: str) -> None:
        if not self._finished:
            self._inner.reasoning(delta)

    def refusal(self, delta: str) -> None:
        if not self._finished:
            self._inner.refusal(delta)

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        if not self._finished:
            self._inner.tool_call(index, call_id, name, arguments)

    def finish(self, reason: str) -> None:
        if self._finished:
            return
        self._finished = True
        if rest := self._stopper.rest():
            self._inner.text(rest)
        self._inner.finish(reason)
