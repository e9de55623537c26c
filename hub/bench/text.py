"""What the token source says: a pure function of a seed and an index, so that every reader knows
every character of its own answer beforehand.

A vocabulary of ``SIZE`` different words stands in a ring. A seed chooses where on the ring an
answer begins; token ``i`` is the word ``i`` places further on. So two answers hardly ever say the
same word at the same time, and a token that is lost, repeated, out of order or in the wrong answer
makes a text that differs from the expected one. Making a token is an index into a table, and the
whole text of an answer a slice of a string: neither side of a measurement pays for it.

A request carries its seed in its prompt, as ``seed=<number>``.
"""

import random
from bisect import bisect_right
from itertools import accumulate

import orjson

SIZE = 4096
"""Words in the vocabulary."""

_MARK = b"seed="
_BEFORE, _AFTER = (" ", " ", " ", ""), ("a", "e", "o", "", "", "")
_ODD = (
    *(
        ' "',
        "\\",
        "\n",
        "\n\n",
        "\t",
        " \x7f",
        "\u2028",
        " <b>",
        "</",
        " &amp;",
        " 'tis",
        " {",
        "}",
    ),
    *(
        " [",
        "]",
        ":",
        ",",
        "/",
        " é",
        " ü",
        "ß",
        " 漢",
        "字",
        " ¡",
        "—",
        "…",
        "ﬁ",
        "🙂",
        " 👩\u200d🚀",
    ),
)
"""Words that JSON, UTF-8 and HTML find less easy than others."""


class Vocabulary:
    """The ring of words. ``salt`` makes another one: a source with another salt says wrong texts.

    Words are of four characters or so, as a model's tokens are, all different.
    """

    def __init__(self, salt: int = 0) -> None:
        rng = random.Random(f"hub bench {salt}")
        words = dict.fromkeys(_ODD)
        while len(words) < SIZE:
            sounds = map(
                rng.choice, (_BEFORE, "bcdfghjklmnprstvwz", "aeiou", "dfgklmnprstxz", _AFTER)
            )
            words["".join(sounds)] = None
        ring = [*words]
        rng.shuffle(ring)
        self.words = tuple(ring)
        """The words, in their order on the ring."""
        self._twice = "".join(ring) * 2
        self._starts = [0, *accumulate(len(word) for word in ring * 2)]

    def start(self, seed: int) -> int:
        """Where on the ring the answer to ``seed`` begins. Neighbouring seeds are far apart."""
        return (seed * 2654435761 % 2**32) * SIZE >> 32

    def answer(self, seed: int, tokens: int) -> str:
        """The whole text of an answer of so many tokens."""
        start = self.start(seed)
        rounds, rest = divmod(tokens, SIZE)
        first = self._starts[start]
        return (
            self._twice[first : self._starts[start + SIZE]] * rounds
            + self._twice[first : self._starts[start + rest]]
        )

    def tokens(self, seed: int, characters: int) -> int:
        """How many whole tokens the first so many characters of an answer hold."""
        start = self.start(seed)
        rounds, rest = divmod(characters, self._starts[SIZE])
        whole = bisect_right(self._starts, self._starts[start] + rest) - 1 - start
        return rounds * SIZE + whole

    def place(self, seed: int, said: str) -> tuple[int, str]:
        """Where on the ring the answer to ``seed`` goes on after ``said``, which is its beginning,
        and before that the rest of a word that ``said`` cuts. Raises ``ValueError`` if it is not
        its beginning."""
        tokens = self.tokens(seed, len(said))
        if self.answer(seed, tokens + 1)[: len(said)] != said:
            raise ValueError(f"that is not how the answer to seed={seed} begins")
        rest = self.answer(seed, tokens + 1)[len(said) :]
        whole = len(self.answer(seed, tokens)) == len(said)
        at = self.start(seed) + tokens + (not whole)
        return at % SIZE, "" if whole else rest


def prompt(seed: int, tokens: int) -> str:
    """A prompt of about so many tokens (of four characters) that asks for the answer to a seed."""
    asked = f"seed={seed} "
    return asked + "word " * max(0, (tokens * 4 - len(asked)) // 5)


def seed_of(body: bytes) -> int | None:
    """The seed that a request's body names, the last if it is a conversation; ``None`` if none."""
    at = body.rfind(_MARK)
    digits = body[at + len(_MARK) : at + len(_MARK) + 20] if at >= 0 else b""
    number = digits[: len(digits) - len(digits.lstrip(b"0123456789"))]
    return int(number) if number else None


def chat_chunks(vocabulary: Vocabulary, model: str) -> list[bytes]:
    """The words as the blocks of a Chat Completions stream, in the order of the ring."""
    head = orjson.dumps(
        {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 0, "model": model}
    )[:-1]
    return [
        b'data: %b,"choices":[{"index":0,"delta":{"content":%b},"logprobs":null,'
        b'"finish_reason":null}]}\n\n' % (head, orjson.dumps(word))
        for word in vocabulary.words
    ]
