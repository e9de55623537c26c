"""One response as its reader sees it: when its text came, and whether it is the right one. Pure.

Definitions, in seconds from a monotonic clock that the caller reads:

- *TTFT*: from ``begun`` to the first piece of text that is not empty. A role chunk, an empty delta
  and a lifecycle event are no text (AIPerf's and vLLM bench's definition). ``begun`` is the moment
  at which the request was written (closed loop) or due (open loop).
- *ITL*: the gap between two frames with text (vLLM bench's ITL, AIPerf's ICL). Frames that arrive
  in one read have a gap of 0. Merging makes gaps longer, not smaller.
- *TPOT*: (E2E - TTFT) / (tokens - 1) (vLLM bench's; AIPerf calls this ITL).
- *E2E*: from ``begun`` to the event that ends the response.

Where the text comes at once, as a synchronous answer's does, TTFT is the time until all of it is
there. Of a response that is polled, a piece is what a poll shows that the one before did not.
Neither has a TPOT.

Every character is compared with the expected text. *lost*: characters that are expected and did
not come; *surplus*: those that came and are not expected (repeated ones, or another's), both
counted as multisets, so that two that changed places are neither; but the text is *wrong* then.
Where it is not known beforehand, the expected text is the one that the server tells as a whole when
the response ends; a protocol that does not (Chat Completions) leaves nothing to compare with.
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
        "_at", "_last_seq", "_pieces", "_stray", "_window", "begun", "difference", "ended", "error",
        "expected", "first", "frames", "gap", "id", "last", "ledger_ms", "measured", "polls",
        "seed", "streamed", "tokens",
    )  # fmt: skip

    def __init__(
        self,
        expected: str | None,
        *,
        seed: int,
        tokens: int | None,
        window: Window,
        measured: bool = True,
        streamed: bool = True,
    ) -> None:
        """``expected`` is the whole text, of so many ``tokens``; ``None`` where the text is not
        known beforehand. ``streamed``: its tokens come as they are made."""
        self.expected = expected
        self.seed = seed
        self.tokens = tokens
        """``None`` until they are known: told by the server, else frames are counted."""
        self.measured = measured
        """It belongs to the measured part of the run, not to its warm-up."""
        self.streamed = streamed
        self.id: str | None = None
        self.frames = 0
        """Pieces of text that came."""
        self.gap: float | None = None
        """The longest time between two of them."""
        self.polls = 0
        self.ledger_ms: dict[str, float] | None = None
        """What hub says of its own times."""
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
        self._pieces: list[str] = []
        """What came while the text is not known."""
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
        else:
            gap = now - self.last
            if self.gap is None or gap > self.gap:
                self.gap = gap
            if self._window.open:
                self._window.gaps.append(gap)
        self.last = now
        self.frames += 1
        self._compare(piece)

    def shows(self, text: str, now: float) -> None:
        """The text so far came, as a poll shows it."""
        had = self._at + sum(map(len, self._pieces)) + sum(map(len, self._stray))
        self.text(text[had:], now)

    def told(self, whole: str) -> None:
        """The server has told the whole text, which comes from another place in it than the pieces
        that it streamed."""
        if self.expected is None:
            self.expected = whole
            pieces, self._pieces = self._pieces, []
            for piece in pieces:
                self._compare(piece)
        elif whole != self.expected:
            self.error = self.error or "whole_text_differs"

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
        if self.tokens is None:
            self.tokens = self.frames
        if self.error is None and not self._stray and self._at < len(self.expected or ""):
            self._differs("")

    @property
    def wrong(self) -> bool:
        """Its text is not the expected one."""
        return self.difference is not None

    def differences(self) -> tuple[int, int]:
        """Characters *lost* and *surplus*. What a response that failed, or has not ended, did not
        say yet is not lost."""
        came = "".join(self._stray)
        expected, got = Counter((self.expected or "")[self._at :]), Counter(came)
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
        if self.e2e is None or self.ttft is None or not self.streamed or (self.tokens or 0) < 2:
            return None
        assert self.tokens is not None
        return (self.e2e - self.ttft) / (self.tokens - 1)

    @property
    def itl(self) -> float | None:
        """The mean of its gaps; ``None`` without any."""
        if self.first is None or self.frames < 2:
            return None
        return (self.last - self.first) / (self.frames - 1)

    def _compare(self, piece: str) -> None:
        if self.expected is None:
            self._pieces.append(piece)
        elif not self._stray and self.expected.startswith(piece, self._at):
            self._at += len(piece)
        else:
            self._differs(piece)

    def _differs(self, piece: str) -> None:
        assert self.expected is not None
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
    if kind == "error":
        answer.end(now, _code(event.get("error") or event))
        return True
    answer.numbered(event.get("sequence_number"))
    if kind not in _TERMINAL:
        return False
    _end(answer, kind.removeprefix("response."), event.get("response") or {}, now)
    return True


def response_object(answer: Answer, response: dict[str, Any], now: float) -> bool:
    """Read a response object, as a synchronous answer or a poll gives it. Whether it has ended."""
    answer.id = str(response["id"])
    answer.shows(_text(response), now)
    status = str(response["status"])
    if status in ("queued", "in_progress"):
        return False
    _end(answer, status, response, now)
    return True


def _end(answer: Answer, status: str, response: dict[str, Any], now: float) -> None:
    """The response object at the end tells what else is to be known."""
    answer.id = response.get("id")
    answer.ledger_ms = (response.get("hub") or {}).get("ledger_ms")
    if answer.tokens is None:
        answer.tokens = (response.get("usage") or {}).get("output_tokens")
    if status == "failed":
        answer.end(now, _code(response.get("error")))
    elif status == "incomplete" and _reason(response) != "max_output_tokens":
        answer.end(now, f"incomplete_{_reason(response)}")
    elif status in ("completed", "incomplete"):
        answer.told(_text(response))
        answer.end(now)
    else:
        answer.end(now, status)


def _text(response: dict[str, Any]) -> str:
    """The whole text of a response's messages."""
    return "".join(
        part.get("text", "")
        for item in response.get("output", ())
        if item.get("type") == "message"
        for part in item.get("content") or ()
    )


def chat_event(answer: Answer, event: dict[str, Any], now: float) -> None:
    """Read a chunk of a Chat Completions stream. Raises ``KeyError`` and the like if it is none."""
    if event.get("error"):
        answer.error = _code(event["error"])
        return
    for choice in event["choices"]:
        content = choice["delta"].get("content")
        if content:
            answer.text(content, now)
    if answer.id is None:
        answer.id = event.get("id")
    if answer.tokens is None and event.get("usage"):
        answer.tokens = event["usage"].get("completion_tokens")


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
