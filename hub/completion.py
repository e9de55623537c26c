"""The reading of one completion by a client, and the lane that it is asked for on.

``CompletionClient`` (``completion_client.py``) makes and feeds both; the calls of ``Completion``
with an underscore are for this module and that one alone.
"""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import orjson

from hub.run import Error, Json

MAX_TYPED = 1024
"""Characters, typed and deleted, from which on the whole context is sent."""

WORTHLESS = {"superseded", "cancelled", "lost"}
"""The reasons after which a completion has no text."""


class Completion:
    """The reading of one completion. Made by ``CompletionClient.complete``."""

    def __init__(self, lane: str, asked: Json, stop: Callable[[str], None]) -> None:
        """``stop`` has what runs on the lane stopped. Raises ``TypeError`` if ``asked`` is not
        JSON."""
        self._stop = stop
        self._prefix: str = asked["prefix"]
        self._else = {key: value for key, value in asked.items() if key != "prefix"}
        self._body = orjson.dumps(asked)
        self._news: asyncio.Event | None = None
        self.lane = lane
        self.version: int | None = None
        """Its number on the wire, once it was sent."""
        self.text = ""
        """The text so far: what follows the prefix. Of no use if ``reason`` is in ``WORTHLESS``."""
        self.reason: str | None = None
        """Why it ended, once it has: ``stop``, ``length``, ``line``, ``indent``, ``budget`` or
        ``suffix``; ``superseded``, ``cancelled`` or ``lost`` (with the connection); ``failed``."""
        self.reused = False
        """Answered from what was predicted before, without a new request to a model server."""
        self.usage: Json | None = None
        self.error: Error | None = None
        """Why it failed, if it has."""

    async def pieces(self) -> AsyncGenerator[str, None]:
        """The text as it comes; what waited is one piece. Ends also where there is no use in it:
        look at ``reason``. Raises the error of one that failed."""
        after = 0
        while True:
            if piece := self.text[after:]:
                after += len(piece)
                yield piece
            elif self.reason is None:
                await self._changed()
            elif self.error is not None:
                raise self.error
            else:
                return

    def __aiter__(self) -> AsyncIterator[str]:
        return self.pieces()

    async def done(self) -> str | None:
        """The whole text; ``None`` if it was superseded, cancelled or lost.

        Raises ``HubError`` or ``ClientError`` if it failed or was refused.
        """
        while self.reason is None:
            await self._changed()
        if self.error is not None:
            raise self.error
        return None if self.reason in WORTHLESS else self.text

    def cancel(self) -> None:
        """Stop it, and the model server's work for it. No effect on one that has ended."""
        if self.reason is None:
            self._stop(self.lane)

    async def _changed(self) -> None:
        if self._news is None:
            self._news = asyncio.Event()
        await self._news.wait()

    def _tell(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def _take(self, delta: str) -> None:
        self.text += delta
        self._tell()

    def _end(self, reason: str, *, error: Error | None = None) -> None:
        assert self.reason is None, "a completion ends once"
        self.reason, self.error, self._body = reason, error, b""
        self._tell()


class Place:
    """A lane on the wire: the newest completion there, and what the server knows."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pending: Completion | None = None
        """To be sent, once it is due."""
        self.due = 0.0
        self.running: Completion | None = None
        """Was sent, and has not ended."""
        self.stop = False
        """The server is to be told that nothing is wanted here any more."""
        self.base: tuple[str, Json] | None = None
        """What the server knows of the lane: the prefix, and all else."""
        self.typed = False
        """What runs was sent as what was typed."""

    def end(self, reason: str) -> bool:
        """End what is wanted here. Whether the server works on it."""
        ran = self.running is not None
        for one in (self.pending, self.running):
            if one is not None:
                one._end(reason)
        self.pending = self.running = None
        return ran

    def ask(self, version: int) -> bytes:
        """The message that asks for what is pending, which then runs."""
        completion = self.pending
        assert completion is not None, "there is something to ask for"
        base, self.base = self.base, (completion._prefix, completion._else)
        self.pending, self.running, self.stop = None, completion, False
        completion.version = version
        head = {"stream_id": self.name, "version": version}
        change = None
        if base is not None and base[1] == completion._else:
            change = typed_between(base[0], completion._prefix)
        self.typed = change is not None
        if change is not None:
            return orjson.dumps({"type": "completion.type", **head, **change})
        create = orjson.dumps({"type": "completion.create", **head})
        return create[:-1] + b"," + completion._body[1:]


def typed_between(old: str, new: str) -> Json | None:
    """What was typed and deleted at the end of ``old`` to make it ``new``; ``None`` if that is more
    than ``MAX_TYPED``."""
    least = min(len(old), len(new))
    same = bisect_left(range(least), True, key=lambda at: old[: at + 1] != new[: at + 1])
    deleted, inserted = len(old) - same, new[same:]
    if deleted + len(inserted) > MAX_TYPED:
        return None
    change: Json = {"insert": inserted}
    return {**change, "delete": deleted} if deleted else change
