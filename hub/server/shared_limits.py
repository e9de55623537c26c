"""What keys use at other nodes, so that their limits hold for all nodes together.

Each node has the buckets of every key (``hub.quota``). What it lets through it tells the others, at
once, then at most every ``INTERVAL`` seconds, and they debit their own:

    used     {"node": …, "keys": {<id>: [requests, tokens, concurrent, waiting, sockets], …}}

The first two are what has come on since the last message, the others are what the key has in hand
there now: those are said again every second as long as there are any, and forgotten with their
node, or if they are not said again. A node that starts asks for what is used up already, and waits
a moment for the answers; so a restart refills no bucket:

    limits   <node>
    levels   {"to": <node>, "node": …, "keys": {<id>: [requests, tokens, …as above], …}}

**Tolerance.** A node does not know yet what the others have let through within the last
``INTERVAL`` seconds and the time that a message takes. Beyond a key's limit there is at most that.
Messages may be lost, with a connection to the store: what they would have told is never debited.
Nodes that cannot reach each other go by their own buckets, each up to the whole limit.

Nobody is told anything while this node is alone, nor of keys without limits.
"""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from hub.nodes import Nodes
from hub.server.auth import Gate, InHand
from hub.store.base import Store

logger = logging.getLogger("hub.limits")

INTERVAL = 0.05
REPEAT = 0.9
"""Seconds after which what is in hand is said again; with the next beat."""
FORGET = 5.0
"""Seconds for which it counts if it is not."""
PATIENCE = 0.5
"""Seconds for which a node that starts waits for the answers of the others."""
USED, ASK, LEVELS = "used", "limits", "levels"
"""Kinds of messages."""


class SharedLimits:
    """See the top of this file. ``start`` before requests come, and ``close``."""

    def __init__(self, gate: Gate, store: Store, nodes: Nodes) -> None:
        self._gate = gate
        self._store = store
        self._nodes = nodes
        self._fresh: dict[str, list[int]] = {}
        """What keys have used that the others were not told of: requests and tokens."""
        self._elsewhere: dict[str, dict[str, tuple[InHand, float]]] = {}
        """Key -> what it has in hand at other nodes, and when they said so."""
        self._known: set[str] = {store.node}
        """The nodes of the last beat."""
        self._heard_at = -FORGET
        self._repeated_at = 0.0
        self._timer: asyncio.Handle | None = None
        self._answered: set[str] = set()
        self._answer = asyncio.Event()

    async def start(self) -> None:
        """Take the others into account from now on."""
        if not self._store.shared:
            return
        self._store.hear(self._heard)
        self._nodes.on_beat.append(self._beat)
        self._gate.elsewhere = self
        self._known = {*self._nodes.states}
        others = self._known - {self._store.node}
        if not others:
            return
        self._store.tell(ASK, self._store.node)
        try:
            async with asyncio.timeout(PATIENCE):
                while not others <= self._answered:
                    self._answer.clear()
                    await self._answer.wait()
        except TimeoutError:
            return

    def close(self) -> None:
        """Tell nobody anything any more."""
        self._gate.elsewhere = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Elsewhere.

    def has(self, key: str) -> InHand:
        there = [said for said, _ in self._elsewhere.get(key, {}).values()]
        return InHand(*map(sum, zip(*there, strict=True))) if there else InHand()

    def used(self, key: str, requests: int = 0, tokens: int = 0) -> None:
        if self._alone:
            return
        fresh = self._fresh.setdefault(key, [0, 0])
        fresh[0] += requests
        fresh[1] += tokens
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_soon(self._send)

    @property
    def _alone(self) -> bool:
        return self._nodes.count == 1 and self._now() - self._heard_at > FORGET

    # Telling.

    def _send(self) -> None:
        self._timer = None
        if not self._fresh:
            return
        fresh, self._fresh = self._fresh, {}
        self._tell(USED, ((key, requests, tokens) for key, (requests, tokens) in fresh.items()))
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._send)

    def _tell(self, kind: str, keys: Iterable[tuple[str, float, float]], **more: str) -> None:
        rows = {key: [*used, *self._gate.in_hand(key)] for key, *used in keys}
        body = {"node": self._store.node, **more, "keys": rows}
        self._store.tell(kind, orjson.dumps(body).decode())

    def _beat(self) -> None:
        """Say again what is in hand, and forget what others no longer say."""
        now, nodes = self._now(), {*self._nodes.states}
        gone, self._known = self._known - nodes, nodes
        for key, there in [*self._elsewhere.items()]:
            for node, (_, said_at) in [*there.items()]:
                if node in gone or now - said_at > FORGET:
                    del there[node]
            if not there:
                del self._elsewhere[key]
        if now - self._repeated_at >= REPEAT and not self._alone:
            self._repeated_at = now
            for key in self._gate.missing():
                if any(self._gate.in_hand(key)):
                    self.used(key)

    # Hearing.

    def _heard(self, kind: str, body: str) -> None:
        if kind == ASK:
            self._heard_at = self._now()
            self._tell(LEVELS, self._levels(), to=body)
        elif kind in (USED, LEVELS):
            self._heard_at = self._now()
            try:
                self._go_by(kind, orjson.loads(body))
            except (KeyError, TypeError, ValueError) as error:
                # The nodes may be of different versions, while they are replaced one by one.
                logger.warning("a message '%s' was not understood: %r", kind, error)

    def _levels(self) -> Iterator[tuple[str, float, float]]:
        for key, (requests, tokens) in self._gate.missing().items():
            if requests or tokens or any(self._gate.in_hand(key)):
                yield key, requests, tokens

    def _go_by(self, kind: str, said: Mapping[str, Any]) -> None:
        node = said["node"]
        if kind == LEVELS and said["to"] != self._store.node:
            return
        for key, (requests, tokens, *there) in said["keys"].items():
            self._note(node, key, InHand(*there))
            if kind == USED:
                self._gate.debit(key, requests, tokens)
            else:
                self._gate.lower(key, requests, tokens)
        if kind == LEVELS:
            self._answered.add(node)
            self._answer.set()

    def _note(self, node: str, key: str, there: InHand) -> None:
        if any(there):
            self._elsewhere.setdefault(key, {})[node] = (there, self._now())
        else:
            self._elsewhere.get(key, {}).pop(node, None)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
