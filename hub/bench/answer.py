"""One response as its reader sees it: when its text came, and whether it is the right one. Pure.

Definitions, in seconds from a monotonic clock that the caller reads:

- *TTFT*: from ``begun`` to the first piece of text that is not empty. A role chunk, an empty delta
  and a lifecycle event are no text (AIPerf's and vLLM bench's definition). ``begun`` is the moment
  at which the request was written (closed loop) or due (open loop).
- *ITL*: the gap between two frames with text (vLLM bench's ITL, AIPerf's ICL). Frames that arrive
  in one read have a gap of 0. Merging makes gaps longer, not smaller.
- *TPOT*: (E2E - TTFT) / (tokens - 1) (vLLM bench's; AIPerf calls this ITL).
- *E2E*: from ``begun`` to the event that ends the response.

Every character is compared with the expected text. *lost*: characters that are expected and did
not come; *surplus*: those that came and are not expected (repeated ones, or another's), both
counted as multisets, so that two that changed places are neither; but the text is *wrong* then.
"""

from array import array
from collections import Counter
from typing import Any, Final

TEXT_DELTA: Final = "response.output_text.delta"
_TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed", "error"})


class Window:
    """What is measured while it is open: the gaps of all responses."""

    __slots__ = ("gaps", "open")

    def __init__(self) -> None:
        self.open = False
        self.gaps = array("d")


class Answer:
    """See the top of this file. ``text`` and ``end`` are called by whoever reads the wire."""

    __slots__ = (
        "_at", "_last_seq", "_stray", "_window", "begun", "difference", "ended", "error",
        "expected", "first", "last", "measured", "seed", "tokens",
    )  # fmt: skip

    def __init__(
        self, expected: str, *, seed: int, tokens: int, window: Window, measured: bool = True
    ) -> None:
        """``expected`` is the whole text, of so many ``tokens``."""
        self.expected = expected
        self.seed = seed
        self.tokens = tokens
        self.measured = measured
        """It belongs to the measured part of the run, not to its warm-up."""
        self.begun = 0.0
        self.first: float | None = None
        self.last = 0.0
        self.ended: float | None = None
        self.error: str | None = None
        """The code of what made it fail, once it has ended."""
        self.difference: str | None = None
        """What came instead of what was expected, at the first difference."""
        self._window = window
        self._at = 0
        """Characters that came as expected."""
        self._stray: list[str] = []
        """Everything from the first difference on."""
        self._last_seq = -1

    @property
    def received(self) -> int:
        """Characters that came as expected, up to the first difference."""
        return self._at

    def text(self, piece: str, now: float) -> None:
        """A piece of text came. On the hot path."""
        if not piece:
            return
        if self.first is None:
            self.first = now
        elif self._window.open:
            self._window.gaps.append(now - self.last)
        self.last = now
        if not self._stray and self.expected.startswith(piece, self._at):
            self._at += len(piece)
            return
        self._differs(piece)

    def numbered(self, seq: object) -> None:
        """An event's ``sequence_number``: they only increase, since merging leaves some out."""
        if type(seq) is not int or seq <= self._last_seq:
            self.error = self.error or "sequence_number"
        else:
            self._last_seq = seq

    def end(self, now: float, error: str | None = None) -> None:
        """Nothing follows. ``error`` is the code of what made it fail."""
        assert self.ended is None, "a response ends once"
        self.ended = now
        self.error = error or self.error
        if self.error is None and not self._stray and self._at < len(self.expected):
            self._differs("")

    @property
    def wrong(self) -> bool:
        """Its text is not the expected one."""
        return self.difference is not None

    def differences(self) -> tuple[int, int]:
        """Characters *lost* and *surplus*. What a response that failed, or has not ended, did not
        say yet is not lost."""
        came = "".join(self._stray)
        expected, got = Counter(self.expected[self._at :]), Counter(came)
        lost = (expected - got).total() if self.ended is not None and self.error is None else 0
        return lost, (got - expected).total()

    @property
    def ttft(self) -> float | None:
        """``None`` if there was no text."""
        return None if self.first is None else self.first - self.begun

    @property
    def e2e(self) -> float | None:
        """``None`` if it did not end well."""
        return None if self.ended is None or self.error is not None else self.ended - self.begun

    @property
    def tpot(self) -> float | None:
        """``None`` if it did not end well, or has no second token."""
        if self.e2e is None or self.ttft is None or self.tokens < 2:
            return None
        return (self.e2e - self.ttft) / (self.tokens - 1)

    def _differs(self, piece: str) -> None:
        if self.difference is None:
            expected = self.expected[self._at : self._at + 24]
            self.difference = f"seed {self.seed}, character {self._at}: "
            self.difference += f"{expected!r} expected, {piece[:24]!r} came"
        self._stray.append(piece)


def responses_event(answer: Answer, event: dict[str, Any], now: float) -> bool:
    """Read an event of the Responses protocol. Whether it was the last one."""
    kind = event["type"]
    if kind == TEXT_DELTA:
        answer.text(event["delta"], now)
        answer.numbered(event.get("sequence_number"))
        return False
    if kind != "error":
        answer.numbered(event.get("sequence_number"))
    if kind not in _TERMINAL:
        return False
    response = event.get("response") or {}
    if kind == "error":
        answer.end(now, _code(event.get("error") or event))
    elif kind == "response.failed":
        answer.end(now, _code(response.get("error")))
    elif kind == "response.incomplete" and _reason(response) != "max_output_tokens":
        answer.end(now, f"incomplete_{_reason(response)}")
    else:
        whole = "".join(
            part.get("text", "")
            for item in response.get("output", ())
            for part in item.get("content") or ()
        )
        # Streamed pieces and the whole text come from different places in a server.
        answer.end(now, None if whole == answer.expected else "whole_text_differs")
    return True


def chat_event(answer: Answer, event: dict[str, Any], now: float) -> None:
    """Read a chunk of a Chat Completions stream. Raises ``KeyError`` and the like if it is none."""
    if event.get("error"):
        answer.error = _code(event["error"])
        return
    for choice in event["choices"]:
        content = choice["delta"].get("content")
        if content:
            answer.text(content, now)


def http_error(status: int, body: Any) -> str:
    """The code of an answer that is no stream."""
    error = body.get("error") if isinstance(body, dict) else None
    return f"{status}_{_code(error)}" if isinstance(error, dict) else str(status)


def _code(error: Any) -> str:
    if not isinstance(error, dict):
        return "unknown"
    return str(error.get("code") or error.get("type") or "unknown")


def _reason(response: dict[str, Any]) -> str:
    details = response.get("incomplete_details")
    return str(details.get("reason")) if isinstance(details, dict) else "unknown"
