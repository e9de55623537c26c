"""Members of an array that remember what they were told."""

import asyncio

from hub.api.requests import Generation, Json
from hub.errors import HubError
from tests.engines.recording import RecordingSink


class RecordingMember:
    """See ``hub.engines.base.Member``. Checks the parts of the contract that a member can see."""

    def __init__(self, generation: Generation, *, leaves_after: int | None = None) -> None:
        """It leaves while it is told the text number ``leaves_after``, from 1."""
        self.generation = generation
        self.sink = _Sink(self)
        self.left = False
        self.leaves_after = leaves_after
        self.ends: list[HubError | None] = []
        self.heard = asyncio.Event()
        """It was told something, or has ended."""

    def done(self, error: HubError | None) -> None:
        assert not self.ends, "done twice"
        self.ends.append(error)
        self.heard.set()

    @property
    def outcome(self) -> str:
        """How it ended: a finish reason, an error's code, or that it had left."""
        (error,) = self.ends
        if error is not None:
            return error.code
        if self.left:
            return "left"
        reason: str = self.sink.calls[-1][1]
        return reason


class _Sink(RecordingSink):
    def __init__(self, member: RecordingMember) -> None:
        super().__init__()
        self._member = member

    def _note(self, *call: object) -> None:
        assert not self._member.left, f"{call} for a member that has left"
        assert not self._member.ends, f"{call} after its end"
        super()._note(*call)

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        super().text(delta, logprobs)
        self._member.heard.set()
        if len(self.calls) == self._member.leaves_after:
            self._member.left = True


def asking(*prompts: str) -> list[RecordingMember]:
    """Members that differ in their prompt only."""
    return [RecordingMember(Generation("m", (), prompt=prompt)) for prompt in prompts]
