"""What the oracle says: the true continuation of a known text, up to where it goes wrong. Pure.

A real model's suggestions are right for a while and then not. Here each token of the truth survives
with the same probability, decided by the place in the text alone: whoever asks at the same place,
by whatever way, is told the same. So results depend on how completions are asked for, and on no
model.
"""

import codecs
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

HEAD, TAIL = 80, 160
"""Characters behind and before the cursor by which a place is recognized."""
REACH = 16_000
"""How far before the text behind the cursor the cursor may be, in characters."""
NONSENSE = " ~"
"""A token where the truth is not known: after a typo."""

_TOKEN = re.compile(r"\n *| *\w{1,5}| *[^\w\s]|\s+")


def tokens_of(text: str) -> list[str]:
    """The pieces in which a model would say a text; about 3.5 characters each."""
    return _TOKEN.findall(text)


@dataclass(slots=True)
class Record:
    """One request, as the oracle saw it."""

    before: str
    """The end of the text before the cursor."""
    behind: str
    streamed: bool
    tokens: list[str]
    """What it is going to say."""
    arrived: float
    begun: float | None = None
    """When it got a slot."""
    said: list[float] = field(default_factory=list)
    """When each token was made."""
    left: float | None = None
    """When its reader closed the connection before the end."""
    ended: float | None = None
    """When its work ended, in whichever way."""

    @property
    def text(self) -> str:
        """All that it says if nobody stops it."""
        return "".join(self.tokens)

    @property
    def cut(self) -> bool:
        """It ended before all was said."""
        return self.ended is not None and len(self.said) < len(self.tokens)


@dataclass(slots=True)
class Truth:
    """The texts that the oracle knows, and how well."""

    sources: Sequence[str]
    survives: float = 0.8
    """The probability that a token of the truth survives. The first that does not is the last."""
    length: int = 16
    """Tokens of an answer, if the gap is as long."""
    seed: int = 0

    def continuation(self, before: str, behind: str, most: int | None = None) -> list[str]:
        """The tokens of an answer. ``most``: what was asked for; negative is no bound."""
        count = self.length if most is None or most < 0 else min(most, self.length)
        found = self._find(before, behind)
        if found is None:
            return [NONSENSE] * count
        number, at, end = found
        tokens = tokens_of(self.sources[number][at:end])[:count]
        rng = random.Random(f"{self.seed}:{number}:{at}")
        right = next((n for n in range(len(tokens)) if rng.random() >= self.survives), len(tokens))
        return tokens[:right] + [_wrong(token) for token in tokens[right:]]

    def _find(self, before: str, behind: str) -> tuple[int, int, int] | None:
        """The source, and in it the cursor and the end of the gap."""
        head, tail = behind[:HEAD], before[-TAIL:]
        for number, source in enumerate(self.sources):
            end = source.find(head) if head else len(source)
            while end >= 0:
                at = source.rfind(tail, max(0, end - REACH), end)
                if at >= 0:
                    return number, at + len(tail), end
                end = source.find(head, end + 1) if head else -1
        return None


def _wrong(token: str) -> str:
    """Another token of the same form: as long, with its spaces and line ends."""
    other = codecs.encode(token, "rot13")
    return other if other != token or token.isspace() else "~" * len(token)
