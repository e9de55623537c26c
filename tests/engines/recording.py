"""A sink that remembers what it was told."""

from typing import Any

from hub.api.requests import Json, Usage


class RecordingSink:
    """See ``hub.engines.base.Sink``. Checks the parts of the contract that a sink can see."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.ended = False

    def _note(self, *call: Any) -> None:
        assert not self.ended, f"{call} after the finish"
        self.calls.append(call)

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        assert isinstance(delta, str)
        assert delta
        self._note("text", delta) if logprobs is None else self._note("text", delta, logprobs)

    def reasoning(self, delta: str) -> None:
        assert isinstance(delta, str)
        assert delta
        self._note("reasoning", delta)

    def refusal(self, delta: str) -> None:
        assert isinstance(delta, str)
        assert delta
        self._note("refusal", delta)

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        assert isinstance(arguments, str)
        opened = any(call[:2] == ("tool_call", index) for call in self.calls)
        assert bool(name) is not opened
        assert not (opened and call_id)
        self._note("tool_call", index, call_id, name, arguments)

    def usage(self, usage: Usage) -> None:
        self._note("usage", usage)

    def finish(self, reason: str) -> None:
        assert reason in ("stop", "length", "tool_calls", "content_filter")
        self._note("finish", reason)
        self.ended = True

    @property
    def said(self) -> str:
        return "".join(call[1] for call in self.calls if call[0] == "text")
