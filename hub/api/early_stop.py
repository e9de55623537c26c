"""When hub itself ends a completion, whatever its model server would have gone on to say. Pure.

A *line end* is "\\n" with the "\\r" before it, if there is one; a *blank* line holds white space
only. The first line of a completion is the rest of the cursor's line. The rules, in the order in
which they are asked of a line:

    indent   before a line, not the first, that is not blank and is indented by fewer characters,
             each tab being one, as for llama.cpp's ``n_indent``
    suffix   where the text begins to repeat what is behind the gap, see below
    line     at the first line end after something that is not blank
    budget   at the first line end after something that is not blank for which it is late

Where a line is not said, neither are the line ends and blank lines before it. A marker ends the
text before it, as the end of the stream would: what is before it counts as said.

What is behind the gap begins with a line that is not blank; what else is there is not looked at.
If it is a line of its own, a repetition is a line that equals it in full, its indentation included
and blanks at its end left out. The first line may lack the indentation, which may be before the
cursor, but then the repeated line must be a *telling* one: of ``TELLING`` characters or more that
are not white space. If it is the rest of the cursor's line, a repetition is a line that consists of
it, or that ends with it if it is telling. It is not enough that a line *ends* with ``)`` where that
is what follows: in ``f(g(|)`` the completion ``x)`` is right.
"""

from dataclasses import dataclass
from typing import Literal

Reason = Literal["line", "indent", "budget", "suffix", "stop"]
"""The rule that has ended a text; ``stop`` is for a marker."""

TELLING = 3
"""Characters of a line that is not said twice by chance."""

LONGEST = 200
"""Characters of a line from which on no repetition of it is looked for: it would be held back
until the end, and every piece would have to be compared with all of it."""


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """The rules; each is off by default."""

    single_line: bool = False
    """End at the first line end after something that is not blank."""
    indent: int | None = None
    """End before a line that is indented by fewer characters than this."""
    budget: float | None = None
    """Seconds from the first text after which the next line end ends it, as for llama.cpp's
    ``t_max_predict_ms``."""
    suffix: str = ""
    """What is behind the gap: end where its first line that is not blank would be repeated."""
    markers: tuple[str, ...] = ()
    """End before any of these, which no answer may hold."""


class Stopper:
    """Applies the rules to one text as it comes.

    Call ``feed`` with each piece and say what it returns; once ``reason`` is set the text has
    ended, and feeding it is allowed but says nothing. At the end of the stream say ``rest``. What
    was said is always the beginning of what was fed, and does not depend on how that was cut.
    """

    def __init__(self, rules: EarlyStop) -> None:
        self._markers = rules.markers
        self._firsts = {marker[0] for marker in rules.markers}
        self._lines = _Lines(rules)
        self._held = ""
        """What may be the beginning of a marker."""
        self._now = 0.0
        self._marked = False

    @property
    def reason(self) -> Reason | None:
        """Why the text has ended; ``None`` while it goes on, and after a ``rest`` that no rule has
        shortened."""
        return self._lines.reason or ("stop" if self._marked else None)

    def feed(self, text: str, now: float) -> str:
        """What may be said after this piece, possibly of earlier ones. ``now`` is in seconds."""
        if not text or self.reason is not None:
            return ""
        self._now = now
        text = self._held + text
        if not any(first in text for first in self._firsts):
            # Nearly all pieces are such, and there are often half a dozen markers.
            return self._lines.feed(text, now)
        # The one that is complete first, as if the text came character by character.
        found = [
            (at + len(marker), at) for marker in self._markers if (at := text.find(marker)) >= 0
        ]
        if found:
            self._held, self._marked = "", True
            return self._lines.feed(text[: min(found)[1]], now) + self._lines.rest()
        free = min(_beginning(text, marker) for marker in self._markers)
        self._held = text[free:]
        return self._lines.feed(text[:free], now)

    def rest(self) -> str:
        """At the end of the stream: what is still to be said. A last line that is no more than a
        repetition is not."""
        held, self._held = self._held, ""
        return self._lines.feed(held, self._now) + self._lines.rest()


class _Lines:
    """All rules but the markers'. The methods are those of ``Stopper``."""

    def __init__(self, rules: EarlyStop) -> None:
        self.reason: Reason | None = None
        self._rules = rules
        line, rest_of_line = _first_line(rules.suffix)
        self._telling = len("".join(line.split())) >= TELLING
        self._line = "" if rest_of_line else line
        """The line after the cursor's, if its repetition ends the text."""
        self._rest = line if rest_of_line else ""
        """The rest of the cursor's line, likewise."""
        self._waits = bool(rules.indent or self._line)
        """Whether a line end may turn out not to be said."""
        self._begin: float | None = None
        self._held = ""
        self._gap = 0
        """The length of what is held before the current line: line ends and blank lines."""
        self._first = True
        """In the first line."""
        self._whole = True
        """Nothing was said of the current line."""
        self._bare = True
        """Nothing was said of it but white space."""
        self._blank = True
        """Nothing but white space was in the lines before it."""

    def feed(self, text: str, now: float) -> str:
        if self.reason is not None or not text:
            return ""
        if self._begin is None:
            self._begin = now
        *lines, last = text.split("\n")
        said = []
        for line in lines:
            said.append(self._end_line(line, now))
            if self.reason is not None:
                return "".join(said)
        said.append(self._go_on(last))
        return "".join(said)

    def rest(self) -> str:
        if self.reason is not None:
            return ""
        cut = self._repetition()
        if cut is None:
            return self._say(len(self._held))
        self.reason = "suffix"
        return self._say(cut)

    def _go_on(self, piece: str) -> str:
        """More of the current line."""
        if not piece:
            return ""
        self._held += piece
        if self._outdented():
            self.reason = "indent"
            return ""
        return self._say(self._free())

    def _end_line(self, piece: str, now: float) -> str:
        """The last of the current line, and the line end behind it."""
        self._held += piece
        if self._outdented():
            self.reason = "indent"
            return ""
        if (cut := self._repetition()) is not None:
            self.reason = "suffix"
            return self._say(cut)
        end = len(self._held)
        if self._held.endswith("\r") and end > self._gap:
            end -= 1
        if blank := self._is_blank() and self._waits:
            end = 0
        self._blank = self._blank and self._is_blank()
        assert self._begin is not None, "feed() has noted when the text began"
        late = self._rules.budget is not None and now - self._begin > self._rules.budget
        if not self._blank and (self._rules.single_line or late):
            self.reason = "line" if self._rules.single_line else "budget"
            return self._say(end)
        self._held += "\n"
        said = self._say(end if blank or self._waits else len(self._held))
        self._gap = len(self._held)
        self._first, self._whole, self._bare = False, True, True
        return said

    def _is_blank(self) -> bool:
        """Whether the current line is, as far as it is known."""
        return self._bare and not self._held[self._gap :].strip()

    def _outdented(self) -> bool:
        """Whether the current line is known to be indented too little."""
        if not self._rules.indent or self._first or not self._whole or self._is_blank():
            return False
        line = self._held[self._gap :]
        return len(line) - len(line.lstrip(" \t")) < self._rules.indent

    def _repetition(self) -> int | None:
        """How much of what is held is before a repetition, if the current line ends here with
        one."""
        line = self._held[self._gap :].rstrip()
        if self._line:
            return 0 if self._whole and self._equals_line(line) else None
        if not self._rest or not line.endswith(self._rest):
            return None
        at = len(line) - len(self._rest)
        alone = self._bare and not line[:at].strip()
        return self._gap + at if alone or self._telling else None

    def _equals_line(self, line: str) -> bool:
        if self._first:
            return self._telling and line.lstrip() == self._line.lstrip()
        return line == self._line

    def _free(self) -> int:
        """How much of what is held may be said while the current line goes on."""
        line = self._held[self._gap :]
        if self._waits and self._is_blank():
            return 0
        if self._line and self._whole and self._may_become_line(line):
            return 0
        end = len(line)
        if self._rest:
            end = self._before_rest(line)
        # A "\r" belongs to the line end that may follow.
        if end == len(line) and line.endswith("\r"):
            end -= 1
        return self._gap + end if end else 0

    def _may_become_line(self, line: str) -> bool:
        if not self._first:
            return self._line.startswith(line) or line.rstrip() == self._line
        line, wanted = line.lstrip(), self._line.lstrip()
        return self._telling and (wanted.startswith(line) or line.rstrip() == wanted)

    def _before_rest(self, line: str) -> int:
        """Where in the line what may become a repetition of the rest of the cursor's begins."""
        bare = line.rstrip()
        if bare.endswith(self._rest):
            at = len(bare) - len(self._rest)
        else:
            at = _beginning(line, self._rest)
        if self._telling or (self._bare and not line[:at].strip()):
            return at
        return len(line)

    def _say(self, end: int) -> str:
        said, self._held = self._held[:end], self._held[end:]
        self._whole = self._whole and end <= self._gap
        self._bare = self._bare and not said[self._gap :].strip()
        self._gap = max(0, self._gap - end)
        return said


def _first_line(suffix: str) -> tuple[str, bool]:
    """The first line that is not blank, and whether it is the rest of the cursor's. Empty if there
    is none or it is too long."""
    at = len(suffix) - len(suffix.lstrip())
    begin = suffix.rfind("\n", 0, at) + 1
    end = suffix.find("\n", at)
    line = suffix[begin : len(suffix) if end < 0 else end].rstrip()
    return line if len(line) <= LONGEST else "", begin == 0


def _beginning(text: str, wanted: str) -> int:
    """Where at the text's end the longest proper beginning of what is wanted begins; the text's
    length if there is none."""
    at = max(0, len(text) - len(wanted) + 1)
    while (at := text.find(wanted[0], at)) >= 0:
        if wanted.startswith(text[at:]):
            return at
        at += 1
    return len(text)
