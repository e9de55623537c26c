"""What the tests of ``hub bench`` use in place of a server."""

from hub.api.requests import Json, Usage


class TextSink:
    """An engine's sink that keeps the text only."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self.said.append(delta)

    def reasoning(self, delta: str) -> None:
        raise AssertionError("a token source does not reason")

    def refusal(self, delta: str) -> None:
        raise AssertionError("a token source does not refuse")

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        raise AssertionError("a token source calls no tools")

    def usage(self, usage: Usage) -> None:
        """Not kept."""

    def finish(self, reason: str) -> None:
        """Not kept."""
