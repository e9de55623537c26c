"""A response that another node writes, as its readers see it here: its log, played as it grows.

Rules of this file's world:

- A mirror plays each segment once, in order. What it asks the store for is what follows the last
  event that it has, so a lost message, a repeated one or a reconnect costs it nothing but time.
- One read at a time. News that come meanwhile lead to one more.
- Whoever wants to write the response himself ``settle``\\ s the mirror first: then nothing more is
  played, and the log holds all that the store has.
"""

import asyncio
import logging
from collections.abc import Sequence

from hub.errors import HubError
from hub.live import Live
from hub.store.base import Segment, Store

logger = logging.getLogger("hub.mirror")


class Mirror:
    """Follows the log of a response from where its ``Live`` stands, until it ends, is settled or
    closed."""

    def __init__(self, store: Store, live: Live) -> None:
        self._store = store
        self._live = live
        self._again = False
        self._reading: asyncio.Future[Sequence[Segment]] | None = None
        self._unfollow = store.follow(live.id, self._wake)
        self._open = True
        self._wake()

    def close(self) -> None:
        """Play no more."""
        self._open = False
        self._unfollow()

    async def settle(self) -> None:
        """Play what there is, and then no more. Raises ``HubError`` if the store cannot be read:
        the mirror goes on then."""
        while self._reading is not None:
            await asyncio.wait((self._reading,))
        # Nobody else may write it by now, so this is all.
        self._play(await self._store.read(self._live.id, self._live.log.last))
        self.close()

    def _wake(self) -> None:
        if not self._open:
            return
        if self._reading is not None:
            self._again = True
            return
        self._again = False
        self._reading = self._store.read(self._live.id, self._live.log.last)
        self._reading.add_done_callback(self._read)

    def _read(self, reading: asyncio.Future[Sequence[Segment]]) -> None:
        self._reading = None
        error = reading.exception()
        if isinstance(error, HubError):
            # It is woken when the store is back.
            logger.debug("%s cannot be followed for now: %s", self._live.id, error)
        elif error is not None:
            raise error
        elif self._open:
            self._play(reading.result())
        if self._live.log.ended:
            self.close()
        elif self._again:
            self._wake()

    def _play(self, segments: Sequence[Segment]) -> None:
        log, transcript = self._live.log, self._live.transcript
        assert transcript is not None, "what is kept has a transcript"
        for segment in segments:
            if segment.first == log.next:
                transcript.play(segment.body)
