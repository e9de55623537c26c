"""Where a response is found: while it lives, when it has ended, and when only the store has it.

Ended responses stay in memory within a bound, least recently used first to go; the store has them
all the same. Those that are not to be stored are forgotten when they end.
"""

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

import orjson

from hub.api.requests import Json, Request
from hub.api.responses import parse_create
from hub.errors import Fault, HubError
from hub.live import Live
from hub.store.base import PATIENCE, Idempotency, IdempotencyConflict, Record, Store

logger = logging.getLogger("hub.archive")

_ID = re.compile(r"resp_[0-9a-f]{32}")

MAX_CHAIN = 1000
"""Responses of one chain that are followed back."""


class Archive:
    """See the top of this file. A tenant's responses do not exist for another."""

    def __init__(
        self,
        store: Store,
        *,
        remembered: int,
        revive: Callable[[Record, Request, Sequence[Json] | None], Live],
        on_loaded: Callable[[Live], None] = lambda live: None,
    ) -> None:
        """``remembered`` is in bytes. ``revive`` makes a response of what was kept of it: its
        request, and the items of the chain before it, ``None`` if they are lost. Its log is
        then played. ``on_loaded`` is called with one that has not ended, when it is held here."""
        self._store = store
        self._bound = remembered
        self._revive = revive
        self._on_loaded = on_loaded
        self._live: dict[str, Live] = {}
        self._ended: OrderedDict[str, tuple[Live, int]] = OrderedDict()
        """What has ended, and what it weighs."""
        self._ended_bytes = 0
        self._keys: dict[tuple[str, str], tuple[bytes, Live]] = {}
        """The idempotency keys of foreground responses that live; the store has the others."""
        self._loading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One for each id that is being loaded."""

    @property
    def live(self) -> list[Live]:
        """All that have not ended."""
        return [*self._live.values()]

    @property
    def remembered(self) -> int:
        """How many ended responses are in memory."""
        return len(self._ended)

    # Keeping.

    def add(self, live: Live) -> None:
        """Hold a response that lives."""
        self._live[live.id] = live

    def know(self, live: Live, idempotency: Idempotency) -> None:
        """Find a foreground response by its key, while it lives."""
        if not live.log.sealed:
            assert (live.tenant, idempotency.key) not in self._keys, "it was not looked up"
            live.key = idempotency.key
            self._keys[live.tenant, live.key] = (idempotency.digest, live)

    def ended(self, live: Live) -> None:
        """It has ended: remember it, if it may be asked for again. What was forgotten before is
        not: another node may go on with it."""
        if self._live.get(live.id) is live:
            self._let_go(live)
            if live.recorder.request.store:
                self._remember(live)

    def _let_go(self, live: Live) -> None:
        del self._live[live.id]
        if live.key is not None:
            del self._keys[live.tenant, live.key]
            live.key = None

    def _remember(self, live: Live) -> None:
        size = live.weigh()
        self._ended[live.id] = live, size
        self._ended_bytes += size
        while self._ended_bytes > self._bound and len(self._ended) > 1:
            self._drop(next(iter(self._ended)))

    def expire(self, created_before: float) -> None:
        """Forget what has ended and is older than that (Unix time), as the store does."""
        for id, (live, _) in [*self._ended.items()]:
            if live.recorder.created_at < created_before:
                self._drop(id)

    def sweep(self, now: float, max_bytes: int | None) -> None:
        """Have the store forget what has expired. What fails is left to the next sweep."""

        def swept(done: asyncio.Future[int]) -> None:
            error = None if done.cancelled() else done.exception()
            if isinstance(error, HubError):
                logger.debug("what has expired stays for now: %s", error)
            elif error is not None:
                raise error

        self._store.expire(now, max_bytes).add_done_callback(swept)

    def forget(self, id: str) -> None:
        """Hold it no more."""
        if id in self._live:
            self._let_go(self._live[id])
        self._drop(id)

    def _drop(self, id: str) -> None:
        if id in self._ended:
            self._ended_bytes -= self._ended.pop(id)[1]

    def forget_ended(self) -> None:
        """Hold nothing that has ended any more."""
        self._ended.clear()
        self._ended_bytes = 0

    # Finding.

    def held(self, id: str) -> Live | None:
        """The response of that id that lives, whoever asks."""
        return self._live.get(id)

    def find(self, id: str, tenant: str) -> Live | None:
        """The response of that id, if it is in memory."""
        live = self._live.get(id)
        if live is None and id in self._ended:
            live, _ = self._ended[id]
        if live is None or live.tenant != tenant:
            return None
        if id in self._ended:
            self._ended.move_to_end(id)
        return live

    async def open(self, id: str, tenant: str) -> Live:
        """The response of that id, wherever it is. Raises ``HubError`` ``response_not_found``, and
        ``store_unavailable`` for one that another node writes while that cannot be seen."""
        live = self.find(id, tenant)
        if live is not None:
            if live.elsewhere and not live.log.sealed and self._store.lag > PATIENCE:
                raise HubError("store_unavailable", "The store is out of reach.", retry_after=1.0)
            return live
        record = await self.record(id, tenant)
        if record is None:
            raise not_found(id)
        return await self.load(record)

    async def glance(self, id: str, record: Record | None) -> Live:
        """The response of a record, to be looked at once: where nodes share the store, it is not
        held for that. Raises ``HubError`` ``response_not_found``."""
        if record is None:
            raise not_found(id)
        return await (self.revived(record) if self._store.shared else self.load(record))

    async def record(self, id: str, tenant: str) -> Record | None:
        """What the store has of that id. What cannot be one of hub's ids does not reach it."""
        return await self._store.get(tenant, id) if _ID.fullmatch(id) else None

    async def repeated(self, idempotency: Idempotency, tenant: str) -> Live | None:
        """The response that an earlier request with this key made, if there was one.

        Raises ``HubError`` ``idempotency_conflict`` if that was another request.
        """
        live = self.known(idempotency, tenant)
        if live is not None:
            return live
        try:
            id = await self._store.repeated(tenant, idempotency)
        except IdempotencyConflict:
            raise conflict() from None
        return None if id is None else await self.open(id, tenant)

    def known(self, idempotency: Idempotency, tenant: str) -> Live | None:
        """The same of a foreground response that lives, without waiting."""
        digest, live = self._keys.get((tenant, idempotency.key), (idempotency.digest, None))
        if digest != idempotency.digest:
            raise conflict()
        return live

    async def load(self, record: Record) -> Live:
        """Bring a kept response back: its log is written again from its transcript.

        Raises ``HubError`` ``response_not_found`` if it was deleted since it was found.
        """
        loading = self._loading.setdefault(record.id, asyncio.Lock())
        async with loading:
            live = self.find(record.id, record.tenant)
            if live is not None:
                return live
            live = await self.revived(record)
            if live.recorder.ended:
                self._remember(live)
            else:
                self.add(live)
                self._on_loaded(live)
            return live

    async def revived(self, record: Record) -> Live:
        """A kept response as it stands in the store, not held here."""
        request = parse_create(orjson.loads(record.request))
        context = await self._context(request, record.tenant)
        segments = await self._store.read(record.id)
        if await self.record(record.id, record.tenant) is None:
            raise not_found(record.id)
        live = self._revive(record, request, context)
        assert live.transcript is not None
        for segment in segments:
            live.transcript.play(segment.body)
        return live

    async def _context(self, request: Request, tenant: str) -> Sequence[Json] | None:
        if request.previous_response_id is None:
            return ()
        try:
            return await self.history(request.previous_response_id, tenant)
        except HubError as error:
            if error.row.fault is Fault.CLIENT:
                # Without its parent it can be read, though not gone on with.
                return None
            raise

    async def history(self, id: str, tenant: str) -> list[Json]:
        """The items of a chain up to and with the output of its response ``id``, for the next one.

        Raises ``HubError`` ``previous_response_not_found``, also if that has not ended, has failed,
        or goes on from one that is lost.
        """
        pieces: list[Sequence[Json]] = []
        parent: str | None = id
        while parent is not None:
            live = self.find(parent, tenant)
            if live is not None:
                if not live.log.sealed or live.recorder.status == "failed" or live.orphaned:
                    raise no_parent(id)
                pieces.append(live.history())
                break
            record = await self.record(parent, tenant)
            if record is None or record.result is None or record.status == "failed":
                raise no_parent(id)
            if len(pieces) >= MAX_CHAIN:
                raise HubError("invalid_value", f"A chain has {MAX_CHAIN} responses at most.")
            items = parse_create(orjson.loads(record.request)).items
            pieces.append([*items, *orjson.loads(record.result)["output"]])
            parent = record.previous_response_id
        return [item for piece in reversed(pieces) for item in piece]


def conflict() -> HubError:
    """The error for an idempotency key that was used for another request."""
    return HubError("idempotency_conflict", "This Idempotency-Key was used for another request.")


def not_found(id: str) -> HubError:
    """The error for a response that does not exist, or not for this tenant."""
    return HubError("response_not_found", f"Response with id '{id[:64]}' not found.")


def no_parent(id: str) -> HubError:
    """The error for a ``previous_response_id`` that cannot be gone on from."""
    return HubError(
        "previous_response_not_found",
        f"Previous response with id '{id[:64]}' not found.",
        param="previous_response_id",
    )
