"""Who asks, and whether he may: keys, tickets, and what each key has in hand.

Without a keyring everybody may do everything, and all are one tenant: that is for a machine of
one's own. With one, a request shows a key (``Authorization: Bearer …``) and acts for its tenant. A
browser cannot set headers on a WebSocket, and a key in a URL would be in every log; so a page asks
``POST /v1/tickets`` with its key, and names the ticket as a subprotocol, once, within seconds.

A revoked or expired key is good for nothing from the next look at the keyring on: its sockets are
closed with 1008, and what it has in hand is cancelled, but for background work that was promised.

Limits hold for what the key does at all nodes together, as far as the others tell (``Elsewhere``).
"""

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

from hub.api.requests import Request
from hub.dispatch.terms import Class, Terms
from hub.errors import HubError
from hub.keys import UNLIMITED, Key, Keyring
from hub.live import Live
from hub.quota import Quota
from hub.server.terms import terms_of

logger = logging.getLogger("hub.auth")

TICKET_LIFETIME = 30.0
"""Seconds."""
MAX_TICKETS = 64
"""Tickets of one key that nobody has used yet; the oldest are forgotten."""
SUBPROTOCOL = "hub"
"""What a WebSocket of a browser speaks, and is answered with."""
TICKET = "hub.ticket."
"""What a ticket begins with as a subprotocol."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    tenant: str = ""
    """Whose responses he may see."""
    key: Key | None = None

    @property
    def admin(self) -> bool:
        """Whether he may see and change what concerns everybody."""
        return self.key is None or self.key.admin


ANYBODY = Principal()


class InHand(NamedTuple):
    """What a key has in hand."""

    concurrent: int = 0
    waiting: int = 0
    sockets: int = 0


class Elsewhere(Protocol):
    """The other nodes. They are told of keys with limits only."""

    def has(self, key: str) -> InHand:
        """What a key has in hand there."""
        ...

    def used(self, key: str, requests: int = 0, tokens: int = 0) -> None:
        """A key has used so much here, and what it has in hand may have changed."""
        ...


class _InHand:
    """What one key has used, and what it has in hand."""

    def __init__(self, key: Key) -> None:
        self.quota = Quota(key.limits)
        self.lives: set[Live] = set()
        self.coming: dict[object, bool] = {}
        """Admitted requests whose responses have not begun yet, and whether in the background."""
        self.sockets: set[Callable[[], None]] = set()
        """Each closes one."""
        self.answers: set[Callable[[], None]] = set()
        """Each cuts one off that is read."""


class Gate:
    """See the top of this file. All calls are plain."""

    def __init__(
        self,
        keyring: Keyring | None,
        *,
        now: Callable[[], float],
        clock: Callable[[], float],
        default_model: str = "",
        stop: Callable[[Live], None],
    ) -> None:
        """``now`` tells Unix time and ``clock`` seconds; ``default_model`` answers where a request
        names none; ``stop`` cancels a response. Without a ``keyring`` nobody is asked for a key."""
        self._keyring = keyring
        self._now = now
        self._clock = clock
        self._default_model = default_model
        self._stop = stop
        self._in_hand: dict[str, _InHand] = {}
        self._tickets: dict[str, dict[str, float]] = {}
        """Key -> its tickets, each with until when it is good."""
        self.elsewhere: Elsewhere | None = None
        """Without, this node is alone."""
        self._keyless: set[Callable[[], None]] = set()
        """Each closes a WebSocket that was opened while nobody was asked for a key."""
        self.refused = 0
        """Requests without a good key."""

    # Who asks.

    def principal(self, headers: Mapping[str, str]) -> Principal:
        """Who sends a request. Raises ``HubError`` ``invalid_api_key``."""
        if self._keyring is None:
            return ANYBODY
        scheme, _, text = headers.get("Authorization", "").partition(" ")
        key = self._keyring.find(text.strip(), self._now())
        if key is None or scheme.lower() != "bearer":
            raise self._refusal(bool(text.strip()))
        return Principal(key.tenant, key)

    def caller(self, headers: Mapping[str, str]) -> tuple[Principal, str | None]:
        """Who opens a WebSocket, and the subprotocol to answer with. Raises ``HubError``
        ``invalid_api_key``."""
        offered = [one.strip() for one in headers.get("Sec-WebSocket-Protocol", "").split(",")]
        spoken = SUBPROTOCOL if SUBPROTOCOL in offered else None
        tickets = [one.removeprefix(TICKET) for one in offered if one.startswith(TICKET)]
        if self._keyring is None or not tickets:
            return self.principal(headers), spoken
        id, _, secret = tickets[0].partition(".")
        until = self._tickets.get(id, {}).pop(secret, 0.0)
        key = self._keyring.get(id)
        if self._clock() > until or key is None or key.state(self._now()) != "active":
            raise self._refusal(True)
        return Principal(key.tenant, key), spoken

    def ticket(self, principal: Principal) -> str:
        """A ticket for one WebSocket, good for ``TICKET_LIFETIME`` seconds."""
        id = "" if principal.key is None else principal.key.id
        secret = secrets.token_urlsafe(24)
        own = self._tickets.setdefault(id, {})
        while len(own) >= MAX_TICKETS:
            del own[next(iter(own))]
        own[secret] = self._clock() + TICKET_LIFETIME
        return f"{id}.{secret}"

    def _refusal(self, shown: bool) -> HubError:
        self.refused += 1
        words = "This API key is not valid." if shown else "An API key is required."
        return HubError("invalid_api_key", f"{words} Send it as 'Authorization: Bearer …'.")

    # What he may.

    def terms(self, principal: Principal, headers: Mapping[str, str], rank: Class) -> Terms:
        """On what terms the requests wait that come with such headers. Raises ``HubError``."""
        terms = terms_of(headers, rank)
        if principal.key is None:
            return terms
        return replace(terms, tenant=principal.tenant, key=principal.key.id)

    def admit(self, terms: Terms, request: Request, number: int = 1) -> None:
        """Let a request begin, and count it, as so many if it asks for a ``number`` of responses.
        Raises ``HubError``: ``model_not_found`` for a model that the key may not use,
        ``class_not_allowed``, ``rate_limit_exceeded``, ``invalid_value`` for too great a number."""
        if not terms.key:
            return
        key = self._active(terms.key)
        model = request.model or self._default_model
        if not key.allows_model(model):
            # Who may not use a model need not know that it is there.
            raise HubError(
                "model_not_found", f"No model '{model[:64]}' is served here.", param="model"
            )
        if not key.allows_class(terms.rank):
            raise HubError(
                "class_not_allowed", f"This key has no requests of the class {terms.rank.label}."
            )
        used, there = self._of(key), InHand()
        # Otherwise not counted: any number of jobs may wait.
        if key.limits.concurrent is not None or key.limits.queued is not None:
            there = self._everywhere(key.id)
        refused = used.quota.admit(self._clock(), there.concurrent, there.waiting, number)
        if refused is not None:
            raise refused
        self._tell(key.id, requests=number)

    @contextmanager
    def coming(self, terms: Terms, request: Request) -> Iterator[None]:
        """Count what was admitted just now until its response has begun, or never will: whatever
        is waited for meanwhile, no more are admitted than the key may have."""
        coming = self._in_hand[terms.key].coming if terms.key else {}
        place = object()
        coming[place] = request.background
        try:
            yield
        finally:
            del coming[place]
            self._tell(terms.key)

    def hold(self, live: Live) -> None:
        """A response has begun: count it until its end, or until another node goes on with it."""
        if (used := self._in_hand.get(live.terms.key)) is not None and not live.log.sealed:
            used.lives.add(live)
            moved = partial(self._let_go, used, live)
            live.when_moved(moved)

            def ended() -> None:
                # It refers back to the response.
                live.stay(moved)
                moved()

            live.log.when_sealed(ended)

    def _let_go(self, used: _InHand, live: Live) -> None:
        if live in used.lives:
            used.lives.remove(live)
            self._tell(live.terms.key)

    def ended(self, live: Live) -> None:
        """A response has ended that a model server was asked for: charge its key."""
        if (used := self._in_hand.get(live.terms.key)) is not None:
            usage = live.recorder.reported_usage
            prompt = 0 if usage is None else usage.input_tokens
            used.quota.spend_tokens(self._clock(), prompt + live.tokens)
            self._tell(live.terms.key, tokens=prompt + live.tokens)

    def open_socket(self, principal: Principal, close: Callable[[], None]) -> Callable[[], None]:
        """Count a WebSocket. ``close`` closes it, if its key is revoked; call what is returned when
        it is gone. Raises ``HubError`` ``rate_limit_exceeded`` if there are too many."""
        if principal.key is None:
            self._keyless.add(close)
            return lambda: self._keyless.discard(close)
        id, used = principal.key.id, self._of(principal.key)
        sockets = len(used.sockets)
        if self.elsewhere is not None:
            sockets += self.elsewhere.has(id).sockets
        if (refused := used.quota.admit_socket(sockets)) is not None:
            raise refused
        used.sockets.add(close)
        self._tell(id)

        def gone() -> None:
            used.sockets.discard(close)
            self._tell(id)

        return gone

    @contextmanager
    def reading(self, principal: Principal, cut: Callable[[], None]) -> Iterator[None]:
        """While an answer is read, have ``cut`` called if the key of its reader is revoked: what he
        reads may be a response that goes on."""
        answers = set() if principal.key is None else self._of(principal.key).answers
        answers.add(cut)
        try:
            yield
        finally:
            answers.discard(cut)

    def _active(self, id: str) -> Key:
        key = None if self._keyring is None else self._keyring.get(id)
        if key is None or key.state(self._now()) != "active":
            raise self._refusal(True)
        return key

    def _of(self, key: Key) -> _InHand:
        used = self._in_hand.get(key.id)
        if used is None:
            used = self._in_hand[key.id] = _InHand(key)
        elif used.quota.limits != key.limits:
            used.quota = Quota(key.limits)
        return used

    # The other nodes.

    def in_hand(self, id: str) -> InHand:
        """What a key has in hand at this node."""
        if (used := self._in_hand.get(id)) is None:
            return InHand()
        behind = [live for live in used.lives if not live.recorder.dispatched]
        stored = sum(live.background for live in behind) + sum(used.coming.values())
        return InHand(
            len(used.lives) + len(used.coming) - stored,
            len(behind) + len(used.coming),
            len(used.sockets),
        )

    def _everywhere(self, id: str) -> InHand:
        here = self.in_hand(id)
        there = InHand() if self.elsewhere is None else self.elsewhere.has(id)
        return InHand(*map(sum, zip(here, there, strict=True)))

    def _tell(self, id: str, requests: int = 0, tokens: int = 0) -> None:
        used = self._in_hand.get(id)
        if self.elsewhere is not None and used is not None and used.quota.limits != UNLIMITED:
            self.elsewhere.used(id, requests, tokens)

    def missing(self) -> dict[str, tuple[float, float]]:
        """What the keys with limits have used up, by their ids: see ``Quota.missing``."""
        now = self._clock()
        held = self._in_hand.items()
        return {id: one.quota.missing(now) for id, one in held if one.quota.limits != UNLIMITED}

    def debit(self, id: str, requests: int, tokens: int) -> None:
        """A key has used so much at another node."""
        if (quota := self._quota(id)) is not None:
            quota.debit(self._clock(), requests, tokens)

    def lower(self, id: str, requests: float, tokens: float) -> None:
        """Another node says that a key has used up at least so much."""
        if (quota := self._quota(id)) is not None:
            quota.lower(self._clock(), requests, tokens)

    def _quota(self, id: str) -> Quota | None:
        key = None if self._keyring is None else self._keyring.get(id)
        if key is None or key.state(self._now()) != "active":
            return None
        return self._of(key).quota

    # Changes.

    def change(self, keyring: Keyring) -> None:
        """The keyring is another one now."""
        self._keyring = keyring
        self.look()

    def look(self) -> None:
        """Let go of what belongs to keys that are good for nothing any more. To be called now and
        then: keys expire by themselves."""
        if self._keyring is not None:
            for close in [*self._keyless]:
                close()
        for id, used in [*self._in_hand.items()]:
            key = None if self._keyring is None else self._keyring.get(id)
            if key is not None and key.state(self._now()) == "active":
                continue
            del self._in_hand[id]
            logger.info(
                "key %s is no longer valid: %d sockets, %d responses are ended",
                id,
                len(used.sockets),
                len(used.lives),
            )
            for close in [*used.sockets, *used.answers]:
                close()
            for live in [*used.lives]:
                if not live.background:
                    self._stop(live)
