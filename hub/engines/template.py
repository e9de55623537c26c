"""Reading the chunks of a stream by what they have in common. Pure.

From token to token the chunks of one stream differ in one JSON string only, and parsing the rest of
it again costs three times as much as the string. So what stands before and after the string in one
chunk is a template for the next: if a chunk begins and ends in the same way, and what is between is
a JSON string, then parsing it whole would give the same but for that string. Whatever does not fit
is parsed whole, and becomes the next template. A stream whose chunks do not resemble each other
(``created`` with fractions of a second, timings in every chunk) soon is not tried any more.
"""

import re

import orjson

PATIENCE = 16
"""Chunks more that did not fit than did, after which a stream is given up."""


class Template:
    """What the chunks of one stream have around their text, which is the value of one key."""

    __slots__ = ("_after", "_before", "_from", "_luck", "_string", "_to")

    def __init__(self, key: str) -> None:
        self._string = _strings(key)
        self._before = self._after = b""
        self._from = self._to = 0
        self._luck = PATIENCE

    def read(self, payload: bytes) -> str | None:
        """The text of a chunk that fits; ``None`` if it has to be parsed, and then ``learn``."""
        if self._from and payload.startswith(self._before) and payload.endswith(self._after):
            try:
                text = orjson.loads(payload[self._from : len(payload) - self._to])
            except orjson.JSONDecodeError:
                return None
            if type(text) is str:
                self._luck = PATIENCE
                return text
        return None

    def learn(self, payload: bytes, text: str) -> None:
        """A chunk was parsed that says ``text`` and nothing else: the next may be like it."""
        if not self._luck:
            return
        self._luck -= 1
        found = [*self._string.finditer(payload)]
        # Only one may be there: nobody could tell which of two it was.
        if len(found) == 1 and orjson.loads(found[0][1]) == text:
            self._from, end = found[0].span(1)
            self._before, self._after = payload[: self._from], payload[end:]
            self._to = len(self._after)


def _strings(key: str) -> re.Pattern[bytes]:
    return re.compile(rb'"%b":\s*("(?:[^"\\]|\\.)*")' % key.encode())
