"""The windows of a dispatcher that other nodes' dispatchers use, too.

The rule is in ``hub.division``, what becomes of a window in ``upstream.py``. Here claims become
what nodes say of themselves when they beat (``hub.nodes``), and what they say becomes shares:

    {"<server>": [demand, held], …}

A server is named by a hash of its address, the second upstream with the same address by that and
its number.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.division import Claim


class Shares:
    """See the top of this file: a ``Member`` of ``Nodes``."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher

    def join(self) -> None:
        """Take no more than one place of each window from now on, until the others were heard."""
        self._dispatcher.on_added = self._divide
        for upstream in self._dispatcher.upstreams:
            self._divide(upstream)

    def say(self) -> Mapping[str, Any]:
        """The claims of now."""
        waiting = self._dispatcher.waiting()
        claims = {name: one.claim(waiting[one]) for name, one in self._shared()}
        return {name: [claim.demand, claim.held] for name, claim in claims.items()}

    @property
    def gave(self) -> bool:
        """Whether the last claims gave something away."""
        return any(one.share is not None and one.share.gave for _, one in self._shared())

    def hear(self, node: str, said: Mapping[str, Any]) -> bool:
        """Go by what all nodes said when the last claims were told; this one is ``node``. Gives
        whether the others should have the next ones soon."""
        now = asyncio.get_running_loop().time()
        restless = False
        for name, upstream in self._shared():
            claims = {other: claim for other, claim in _claims(name, said)}
            if node in claims:
                upstream.settle(node, claims, now)
            restless = restless or upstream.restless
        self._dispatcher.look()
        return restless

    def _divide(self, upstream: Upstream) -> None:
        if upstream.server:
            upstream.divide(asyncio.get_running_loop().time())

    def _shared(self) -> Iterator[tuple[str, Upstream]]:
        seen: dict[str, int] = {}
        for upstream in self._dispatcher.upstreams:
            if upstream.server:
                number = seen[upstream.server] = seen.get(upstream.server, 0) + 1
                yield upstream.server if number == 1 else f"{upstream.server}-{number}", upstream


def _claims(server: str, said: Mapping[str, Any]) -> Iterator[tuple[str, Claim]]:
    """What nodes say of a server. What is not understood, another version's, is no claim."""
    for node, claims in said.items():
        match claims.get(server) if isinstance(claims, dict) else None:
            case [int(demand), int(held)] if demand >= 0 and held >= 0:
                yield node, Claim(demand, held)
