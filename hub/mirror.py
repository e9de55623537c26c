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
from collections.abc import Callable, Sequence

from hub.archive import Archive
from hub.errors import HubError
from hub.live import Live
from hub.store.base import Segment, Store

logger = logging.getLogger("hub.mirror")

RETRY = 1.0
"""Seconds until a store that is away is asked again."""
AT_ONCE = 500
"""Mirrors that the store is asked for at a time."""


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


class Mirrors:
    """Those of one node: of what others own, or nobody yet, and somebody here has asked for."""

    def __init__(self, store: Store, archive: Archive, *, owned: Callable[[str], bool]) -> None:
        """``owned``: whether a response is this node's. Then its mirror is about to become the
        response itself, and stays."""
        self._store = store
        self._archive = archive
        self._owned = owned
        self._mirrors: dict[str, Mirror] = {}
        self._unchecked: dict[str, Live] | None = None
        """Those that are being checked, while that goes on."""

    def __len__(self) -> int:
        return len(self._mirrors)

    @property
    def read(self) -> list[str]:
        """The ids of those that have readers."""
        return [id for id in self._mirrors if (live := self._archive.held(id)) and live.readers]

    def add(self, live: Live) -> None:
        """Have a response that is held here show what the store has of it, as it grows."""
        live.elsewhere = True
        mirror = self._mirrors[live.id] = Mirror(self._store, live)

        def ended() -> None:
            if self._mirrors.get(live.id) is mirror:
                self.close(live.id)

        live.log.when_sealed(ended)

    async def settle(self, live: Live) -> None:
        """Have the log of a response hold all that the store has, for its new owner. Raises
        ``HubError`` if the store cannot be read."""
        if live.id not in self._mirrors:
            self.add(live)
        await self._mirrors[live.id].settle()

    def close(self, id: str) -> None:
        """Play no more of it. No effect if it is not mirrored."""
        mirror = self._mirrors.pop(id, None)
        if mirror is not None:
            mirror.close()

    def drop(self, live: Live) -> None:
        """Nobody reads it any more: forget it, unless that was done and it was opened again."""
        held = self._archive.held(live.id) is live
        if held and live.id in self._mirrors and not self._owned(live.id):
            self.close(live.id)
            self._archive.forget(live.id)

    def look(self) -> None:
        """Forget those that nobody reads."""
        for id in [*self._mirrors]:
            live = self._archive.held(id)
            if live is not None and not live.readers:
                self.drop(live)

    async def check(self) -> None:
        """Let go of what was deleted, as soon as the store can be asked. Asked for again meanwhile,
        it begins anew: it never runs twice."""
        running = self._unchecked is not None
        self._unchecked = {id: live for id in self._mirrors if (live := self._archive.held(id))}
        if running:
            return
        try:
            while some := self._unchecked:
                lives = [live for id, live in some.items() if id in self._mirrors][:AT_ONCE]
                if not lives:
                    return
                gone = await self._gone(lives)
                if gone is None:
                    await asyncio.sleep(RETRY)
                    continue
                for live in lives:
                    # If it has begun anew, these may have been deleted since.
                    some.pop(live.id)
                    if live in gone and self._archive.held(live.id) is live:
                        self.let_go(live.id)
        finally:
            self._unchecked = None

    async def _gone(self, lives: Sequence[Live]) -> set[Live] | None:
        """Those that the store does not have. ``None`` if it cannot be asked."""
        try:
            found = await asyncio.gather(*(self._store.get(one.tenant, one.id) for one in lives))
        except HubError as error:
            logger.debug("the mirrors cannot be checked for now: %s", error)
            return None
        return {live for live, record in zip(lives, found, strict=True) if record is None}

    def let_go(self, id: str) -> None:
        """Have those who read it look for it again, and forget what is remembered of it."""
        live = self._archive.held(id)
        self.close(id)
        self._archive.forget(id)
        if live is not None:
            live.moved()

    def let_all_go(self, *, waited_for: bool) -> None:
        """The same for all of them; for those whose readers cannot come back only if also what is
        ``waited_for`` goes."""
        for id in [id for id in self._mirrors if not self._owned(id)]:
            live = self._archive.held(id)
            if live is None or waited_for or not live.waiters:
                self.let_go(id)
