"""What a connection remembers of its own responses, so that later ones can continue them. Pure.

A response with ``store: false`` can be continued on the connection that made it, and nowhere else.
The cache keeps the newest entries within a number and a size; the rules of forgetting are those of
OpenAI's WebSocket mode: a continuation that fails on the lane of its parent evicts the parent, a
failed fork from another lane does not.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from hub.api.requests import Json

MAX_ENTRIES = 128
MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Entry:
    """The history up to and with one response."""

    lane: str | None
    items: Sequence[Json]
    size: int
    """Bytes that this response added to the history."""


class ResponseCache:
    """Least recently used entries go first."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_bytes: int = MAX_BYTES) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, id: str, lane: str | None, items: Sequence[Json], size: int) -> None:
        """Remember a response. The newest always stays, whatever its size.

        One that is here already, since it was read again, keeps its lane and is the newest.
        """
        if id in self._entries:
            self._entries.move_to_end(id)
            return
        self._entries[id] = Entry(lane, items, size)
        self._bytes += size
        while len(self._entries) > 1 and (
            len(self._entries) > self._max_entries or self._bytes > self._max_bytes
        ):
            _, old = self._entries.popitem(last=False)
            self._bytes -= old.size

    def get(self, id: str) -> Sequence[Json] | None:
        """The history that a continuation of ``id`` starts from; ``None`` if it is not here."""
        entry = self._entries.get(id)
        if entry is None:
            return None
        self._entries.move_to_end(id)
        return entry.items

    def failed(self, parent: str, lane: str | None) -> None:
        """A continuation of ``parent`` on ``lane`` has failed."""
        entry = self._entries.get(parent)
        if entry is not None and entry.lane == lane:
            del self._entries[parent]
            self._bytes -= entry.size
