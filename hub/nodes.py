"""The nodes that share a store: who is alive, and what each says of itself.

Every node *beats*: in one step it tells its state, which holds for ``TTL`` seconds, and is told
those of all. A dead node is out when its last state has run out; one that is shut down leaves at
once. Beats come every ``INTERVAL`` seconds, and sooner where they matter: when the member (whoever
uses this) has something to say that others wait for, and when another node says that it had
(``tell``).

Where the store is not shared, or not to be had, nobody is asked: this node is alone, or among those
that it has known last.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import orjson

from hub.errors import HubError
from hub.store.base import Store

logger = logging.getLogger("hub.nodes")

INTERVAL = 1.0
TTL = 5.0
PAUSE = 0.05
"""Seconds between two beats at least."""
FIRST = 8
"""Beats at the start, at most, until what a node may have is settled."""
NEWS = "beat"
"""The kind of the message that asks others to beat."""


class Member(Protocol):
    """What takes part in a node's name."""

    def join(self) -> None:
        """It is not alone from now on. ``say`` and ``hear`` follow."""
        ...

    def say(self) -> Mapping[str, Any]:
        """Its state, which others are told now (JSON)."""
        ...

    @property
    def gave(self) -> bool:
        """Whether others wait for what it said last."""
        ...

    def hear(self, node: str, said: Mapping[str, Any]) -> bool:
        """What all said at the moment at which its last state was told, by the nodes' names; its
        own is ``node``. Gives whether it has something else to say already."""
        ...


class Nodes:
    """See the top of this file. ``start`` before anything is dispatched, and ``close`` after."""

    def __init__(self, store: Store, member: Member) -> None:
        self._store = store
        self._member = member
        self._soon = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._away = False
        self.states: Mapping[str, Any] = {store.node: {}}
        """What each node has said last, by the nodes' names: its own, too."""
        self.on_beat: list[Callable[[], None]] = []
        """Called after every beat, also where the store could not be reached."""

    @property
    def count(self) -> int:
        """How many nodes are alive, as far as it is known."""
        return max(1, len(self.states))

    async def start(self) -> None:
        """Beat from now on, and return when it is settled what this node may have."""
        if not self._store.shared:
            return
        self._member.join()
        self._store.hear(self._heard)
        for _ in range(FIRST):
            await self._beat()
            if not self._soon.is_set():
                break
        if self.count > 1:
            self._store.tell(NEWS, "")
        self._beating = asyncio.create_task(self._beats())

    async def close(self) -> None:
        """Leave, so that others take over what this node had. No effect if it never started."""
        beating, self._beating = self._beating, None
        if beating is None:
            return
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        with suppress(HubError):
            await self._store.beat(b"{}", 0)
        self._store.tell(NEWS, "")

    async def _beats(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL - PAUSE):
                    await self._soon.wait()
            try:
                await self._beat()
            except Exception:
                # Boundary: whatever is wrong with one state, this node must not fall silent.
                logger.exception("a beat has failed")
            await asyncio.sleep(PAUSE)

    async def _beat(self) -> None:
        self._soon.clear()
        try:
            said = await self._store.beat(orjson.dumps(self._member.say()), TTL)
        except HubError as error:
            if not self._away:
                logger.warning("the other nodes are out of sight: %s", error.message)
            self._away = True
        else:
            self._away = False
            self._note({node: _read(state) for node, state in said.items()})
        for told in self.on_beat:
            told()

    def _note(self, states: Mapping[str, Any]) -> None:
        if states.keys() != self.states.keys():
            logger.info("nodes: %d", len(states))
        self.states = states
        gave = self._member.gave
        if self._member.hear(self._store.node, states):
            self._soon.set()
        if gave:
            self._store.tell(NEWS, "")

    def _heard(self, kind: str, body: str) -> None:
        if kind == NEWS:
            self._soon.set()


def _read(state: bytes) -> Any:
    """A state; nothing of what another version says and this one does not understand."""
    try:
        return orjson.loads(state)
    except orjson.JSONDecodeError:
        return None
