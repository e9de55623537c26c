"""What one reader has had of a response, compared with the truth. Pure, but for what it notes.

Every character is a function of the response and its place, so a reader checks its own text by
itself. Sequence numbers rise; by how much is hub's to say, which merges deltas. But the place in
the text after an event of a number is the same for all readers: it is compared, too.
"""

import random
from typing import Any

from hub.api.recorder import TERMINAL_EVENTS
from hub.bench.chaos_book import (
    DISORDER,
    MISSING,
    NUMBERS,
    REPEATED,
    RESULTS,
    TWICE,
    WRONG_RESULT,
    Asked,
    Book,
    Trail,
)

Json = dict[str, Any]
TEXT = "response.output_text.delta"


class Reading:
    """See the top of this file."""

    def __init__(self, asked: Asked, book: Book) -> None:
        self.asked = asked
        self.book = book
        self.trail = Trail(book)
        self.cursor = -1
        """The sequence number of the last event."""
        self.position = 0
        """Characters of the text."""
        self.node: int | None = None
        """Where it has read last."""
        self.end: str | None = None
        """The status with which it ended, and the error's code."""
        self._marks = [(-1, 0)]

    def take(self, event: Json) -> bool:
        """Read an event. Whether it had news: text, or the end."""
        number = event.get("sequence_number")
        if type(number) is not int or number <= self.cursor or self.end is not None:
            self._blame(NUMBERS, event=event)
            return False
        self.cursor = number
        if event["type"] == "response.created":
            id = event["response"]["id"]
            self.asked.id = self.asked.id or id
            if id != self.asked.id:
                self._blame(TWICE, other=id)
        elif event["type"] == TEXT:
            self._text(event["delta"])
        elif event["type"] in TERMINAL_EVENTS:
            self._ended(event["response"])
        known = self.asked.places.setdefault(number, self.position)
        if known != self.position:
            self._blame(NUMBERS, number=number, others_had=known)
            self.asked.places[number] = self.position
        self._marks.append((self.cursor, self.position))
        return event["type"] == TEXT or self.end is not None

    def go_back(self, dice: random.Random) -> None:
        """Forget what was had after some moment."""
        del self._marks[dice.randint(1, len(self._marks)) :]
        self.cursor, self.position = self._marks[-1]
        self.trail.step(f"back to {self.cursor}, character {self.position}")

    def start_late(self, dice: random.Random) -> None:
        """Begin where others have been."""
        if self.asked.places and dice.random() < 0.5:
            cursor = dice.choice([*self.asked.places])
            self._marks.append((cursor, self.asked.places[cursor]))
            self.cursor, self.position = self._marks[-1]

    def _text(self, delta: str) -> None:
        expected, position, book = self.asked.expected, self.position, self.book
        book.characters += len(delta)
        if not expected.startswith(delta, position):
            wrong = {"came": delta[:80], "expected": expected[position : position + 80]}
            if (found := expected.find(delta, position)) >= 0:
                self._blame(MISSING, found - position, **wrong)
                position = found
            elif (found := expected.rfind(delta, 0, position)) >= 0:
                self._blame(REPEATED, len(delta), **wrong)
                position = found
            else:
                self._blame(DISORDER, len(delta), **wrong)
        self.position = position + len(delta)

    def _ended(self, response: Json) -> None:
        self.end = end_of(response)
        self.asked.ends.add(self.end)
        if len(self.asked.ends) > 1:
            self._blame(RESULTS, ends=sorted(self.asked.ends))
        if not whole(self.end):
            return
        if left := len(self.asked.expected) - self.position:
            self._blame(MISSING, left, at="the end", end=self.end)
        if said(response) != self.asked.expected:
            self._blame(WRONG_RESULT, said=said(response)[-80:], end=self.end)

    def _blame(self, what: str, amount: int = 1, **more: Any) -> None:
        self.book.blame(
            what,
            self.asked,
            amount,
            cursor=self.cursor,
            position=self.position,
            node=self.node,
            trail=self.trail.told(),
            **more,
        )


def end_of(response: Json) -> str:
    """The end of a response object in one word or two."""
    error = response.get("error")
    details = response.get("incomplete_details")
    reason = error["code"] if error else details["reason"] if details else ""
    return f"{response['status']} {reason}".strip()


def whole(end: str) -> bool:
    """Whether everything was said. A node that finds all tokens there ends it by their number."""
    return end in ("completed", "incomplete max_output_tokens")


def said(response: Json) -> str:
    """The text of a response object."""
    messages = [item for item in response["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in messages for part in item["content"])
