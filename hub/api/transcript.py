"""What was done to a recorder, in a form to keep: the deltas of a log without their JSON.

A recorder is a pure function of the calls that it gets, so a log need not be stored as events: the
calls are a tenth of the size, and playing them to a new recorder writes the same log again, with
the same numbers, ids and texts.

A body is a JSON array with one element per call. A string is visible text, by far the most
frequent call; everything else is an array that begins with the name of the method.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from hub.api.recorder import Recorder
from hub.api.requests import Json, Usage
from hub.errors import HubError


class Transcript:
    """Stands before a recorder, passes every call on, and remembers it until it is taken.

    Implements ``engines.base.Sink``, and has the recorder's own calls for the life of a response.
    """

    __slots__ = ("_calls", "_first", "carried", "recorder")

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.carried = 0
        """Tokens of output that an earlier attempt made: an engine that goes on from them counts
        them as input."""
        self._calls: list[Any] = []
        self._first = recorder.log.next

    def take(self) -> tuple[int, int, bytes] | None:
        """The calls since the last ``take``: the first and the last number of the events that
        they wrote, and their body. ``None`` if they wrote no event yet."""
        if not self.pending:
            return None
        first, last = self._first, self.recorder.log.next - 1
        calls, self._calls = self._calls, []
        self._first = last + 1
        return first, last, orjson.dumps(calls)

    @property
    def pending(self) -> bool:
        """Whether ``take`` would give something."""
        return self.recorder.log.next > self._first

    @property
    def taken(self) -> int:
        """The number of the last event that was taken, or was there before."""
        return self._first - 1

    def play(self, body: bytes) -> None:
        """Do to the recorder what was done to it when ``body`` was taken; not to be taken again."""
        for call in orjson.loads(body):
            if isinstance(call, str):
                self.recorder.text(call)
            else:
                _METHODS[call[0]](self.recorder, *call[1:])
        self._first = self.recorder.log.next

    # The life of a response.

    def started(self) -> None:
        self.recorder.started()
        self._calls.append(["started"])

    def tell(self, told: Json) -> None:
        """What hub tells of the response, just before its end."""
        self.recorder.told = told
        self._calls.append(["tell", told])

    def complete(self, now: float) -> None:
        self.recorder.complete(now)
        self._calls.append(["complete", int(now)])

    def fail(self, error: HubError) -> None:
        self.recorder.fail(error)
        self._calls.append(["fail", error.code, error.message, error.param])

    def cancel(self) -> None:
        self.recorder.cancel()
        self._calls.append(["cancel"])

    # engines.base.Sink

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self.recorder.text(delta, logprobs)
        self._calls.append(["text", delta, logprobs] if logprobs else delta)

    def reasoning(self, delta: str) -> None:
        self.recorder.reasoning(delta)
        self._calls.append(["reasoning", delta])

    def refusal(self, delta: str) -> None:
        self.recorder.refusal(delta)
        self._calls.append(["refusal", delta])

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        self.recorder.tool_call(index, call_id, name, arguments)
        self._calls.append(["tool_call", index, call_id, name, arguments])

    def usage(self, usage: Usage) -> None:
        if self.carried:
            usage = replace(
                usage,
                input_tokens=max(0, usage.input_tokens - self.carried),
                output_tokens=usage.output_tokens + self.carried,
            )
        self.recorder.usage(usage)
        counts = (usage.input_tokens, usage.output_tokens)
        self._calls.append(["usage", *counts, usage.cached_tokens, usage.reasoning_tokens])

    def finish(self, reason: str) -> None:
        self.recorder.finish(reason)
        self._calls.append(["finish", reason])


_METHODS: dict[str, Callable[..., None]] = {
    "started": Recorder.started,
    "tell": lambda recorder, told: setattr(recorder, "told", told),
    "complete": Recorder.complete,
    "cancel": Recorder.cancel,
    "fail": lambda recorder, code, message, param: recorder.fail(
        HubError(code, message, param=param)
    ),
    "text": Recorder.text,
    "reasoning": Recorder.reasoning,
    "refusal": Recorder.refusal,
    "tool_call": Recorder.tool_call,
    "usage": lambda recorder, *counts: recorder.usage(Usage(*counts)),
    "finish": Recorder.finish,
}
