"""What a completion is asked with, and what is made of its text. Pure.

Positions are code points of a line here; the protocol's units are the business of ``server``.

The window before the cursor ends at the cursor and begins where it began some keys ago: a model
server's prompt cache keeps what begins the same, so a window that slid by a line per line would
lose all of it on each. So it begins at a multiple of ``STEP`` lines, as far as that leaves enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

BEFORE = 8_000
"""Characters before the cursor, at most; at least half of them, where there are as many."""
STEP = 32
"""Lines, a power of 2."""
BEHIND_LINES = 64
"""Lines behind the cursor at most, the rest of its own among them."""
BEHIND = 4_000
"""Characters behind the cursor, at most."""

_CUT = 1_024
"""Characters: the step in a line that is longer than the window."""
_OPEN, _CLOSED = "([{", ")]}"
_QUOTES = "\"'`"
_CLOSING = {*_CLOSED, *_QUOTES, ">", ",", ";", ":", " ", "\t"}


@dataclass(frozen=True, slots=True)
class Selected:
    """The entry that is selected in the editor's list of completions: it stands for the line's text
    from ``start`` to ``end``."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Context:
    """A cursor and what is around it."""

    prefix: str
    suffix: str
    line: str
    """The cursor's line, without its end."""
    head: str
    """The line before the cursor."""
    end: int
    """Where in the line ``rest`` begins."""

    @property
    def rest(self) -> str:
        """The line behind the cursor."""
        return self.line[self.end :]

    @property
    def in_line(self) -> bool:
        """Whether the cursor is in the middle of a line: there is more behind it than closes what
        was opened before, as an editor does by itself."""
        return not _CLOSING.issuperset(self.rest)

    @property
    def indent(self) -> int:
        """The characters of white space that begin the line."""
        return len(self.head) - len(self.head.lstrip(" \t"))


@dataclass(frozen=True, slots=True)
class Insertion:
    """What to put in the place of the cursor's line, up to the cursor or to its end."""

    text: str
    """With what is before the cursor already."""
    added: int
    """The characters of it that are new."""
    to_end: bool


def assemble(
    lines: Sequence[str], row: int, column: int, selected: Selected | None = None
) -> Context | None:
    """The context of a cursor. ``None`` if this is no text. ``lines`` keep their line ends;
    after the last of those there is an empty line."""
    line = lines[row]
    content = line.rstrip("\r\n")
    head, end = content[:column], min(column, len(content))
    if selected is not None:
        head, end = content[: selected.start] + selected.text, selected.end
    prefix = _plain(_before(lines, row, head))
    suffix = _plain(_behind([line[end:], *lines[row + 1 : row + BEHIND_LINES]]))
    if "\0" in prefix or "\0" in suffix:
        return None
    return Context(prefix, suffix, content, head, end)


def fit(context: Context, text: str) -> Insertion | None:
    """What to insert for a completion; ``None`` if nothing is left of it.

    A model does not know that the editor has closed a bracket already, and says so again: that is
    not inserted twice.
    """
    text = text.rstrip()
    rest = context.rest.strip()
    first, several, _ = text.partition("\n")
    to_end = False
    if several:
        to_end = _repeats(text, rest) or _repeats(first.rstrip(), rest)
    elif _repeats(text, rest):
        text = text[: -len(rest)]
    if not text.strip():
        return None
    return Insertion(context.head + text, len(text), to_end)


def _before(lines: Sequence[str], row: int, head: str) -> str:
    if len(head) > BEFORE:
        return head[-((BEFORE - len(head)) // _CUT) * _CUT :]
    first, size = row, len(head)
    while first > 0 and size + len(lines[first - 1]) <= BEFORE:
        first -= 1
        size += len(lines[first])
    step = STEP
    while True:
        start = -(-first // step) * step
        left_out = sum(map(len, lines[first : min(start, row)]))
        if step == 1 or (start <= row and size - left_out >= BEFORE // 2):
            return "".join(lines[start:row]) + head
        step //= 2


def _behind(lines: Sequence[str]) -> str:
    text = "".join(lines)
    if len(text) <= BEHIND:
        return text
    whole = text.rfind("\n", 0, BEHIND) + 1
    return text[: whole or BEHIND]


def _plain(text: str) -> str:
    """With the line ends that models know, and half characters replaced, which no JSON may hold."""
    return text.replace("\r\n", "\n").encode(errors="replace").decode()


def _repeats(text: str, rest: str) -> bool:
    """Whether what a text ends with is the rest of the line, and not something of its own."""
    return bool(rest) and text.endswith(rest) and _balanced(text[: -len(rest)])


def _balanced(text: str) -> bool:
    """Whether all that the text opens it closes."""
    if any(text.count(quote) % 2 for quote in _QUOTES):
        return False
    depth = 0
    for character in text:
        if character in _OPEN:
            depth += 1
        elif character in _CLOSED:
            # What it closes may have been opened before it.
            depth = max(0, depth - 1)
    return depth == 0
