"""Who asks, and whether he may: keys, tickets, and what each key has in hand.

Without a keyring everybody may do everything, and all are one tenant: that is for a machine of
one's own. With one, a request shows a key (``Authorization: Bearer …``) and acts for its tenant. A
browser cannot set headers on a WebSocket, and a key in a URL would be in every log; so a page asks
``POST /v1/tickets`` with its key, and names the ticket as a subprotocol, once, within seconds.

A revoked or expired key is good for nothing from the next look at the keyring on: its sockets are
closed with 1008, and what it has in hand is cancelled, but for background work that was promised.
"""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from hub.api.requests import Request
from hub.dispatch.terms import Class, Terms
from hub.errors import HubError
from hub.keys import Key, Keyring
from hub.live import Live
from hub.quota import Quota
from hub.server.terms import terms_of

logger = logging.getLogger("hub.auth")

TICKET_LIFETIME = 30.0
"""Seconds."""
MAX_TICKETS = 4096
"""Tickets that nobody has used yet; the oldest are forgotten."""
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


class _InHand:
    """What one key has used, and what it has in hand."""

    def __init__(self, key: Key) -> None:
        self.quota = Quota(key.limits)
        self.lives: set[Live] = set()
        self.sockets: set[Callable[[], None]] = set()
        """Each closes one."""


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
        self._tickets: dict[str, tuple[float, str]] = {}
        """Ticket -> until when it is good, and for which key."""
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
        until, id = self._tickets.pop(tickets[0], (0.0, ""))
        key = self._keyring.get(id)
        if self._clock() > until or key is None or key.state(self._now()) != "active":
            raise self._refusal(True)
        return Principal(key.tenant, key), spoken

    def ticket(self, principal: Principal) -> str:
        """A ticket for one WebSocket, good for ``TICKET_LIFETIME`` seconds."""
        ticket = secrets.token_urlsafe(24)
        while len(self._tickets) >= MAX_TICKETS:
            del self._tickets[next(iter(self._tickets))]
        id = "" if principal.key is None else principal.key.id
        self._tickets[ticket] = self._clock() + TICKET_LIFETIME, id
        return ticket

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

    def admit(self, terms: Terms, request: Request) -> None:
        """Let a request begin, and count it. Raises ``HubError``: ``model_not_found`` for a model
        that the key may not use, ``class_not_allowed``, ``rate_limit_exceeded``."""
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
        used = self._of(key)
        waiting = sum(1 for live in used.lives if not live.recorder.dispatched)
        stored = sum(1 for live in used.lives if live.background and not live.recorder.dispatched)
        in_hand = len(used.lives) - stored
        if (refused := used.quota.admit(self._clock(), in_hand, waiting)) is not None:
            raise refused

    def hold(self, live: Live) -> None:
        """A response has begun: count it until its end."""
        if (used := self._in_hand.get(live.terms.key)) is not None and not live.log.sealed:
            used.lives.add(live)
            live.log.when_sealed(lambda: used.lives.discard(live))

    def ended(self, live: Live) -> None:
        """A response has ended that a model server was asked for: charge its key."""
        if (used := self._in_hand.get(live.terms.key)) is not None:
            usage = live.recorder.reported_usage
            prompt = 0 if usage is None else usage.input_tokens
            used.quota.spend_tokens(self._clock(), prompt + live.tokens)

    def open_socket(self, principal: Principal, close: Callable[[], None]) -> Callable[[], None]:
        """Count a WebSocket. ``close`` closes it, if its key is revoked; call what is returned when
        it is gone. Raises ``HubError`` ``rate_limit_exceeded`` if there are too many."""
        if principal.key is None:
            return lambda: None
        used = self._of(principal.key)
        if (refused := used.quota.admit_socket(len(used.sockets))) is not None:
            raise refused
        used.sockets.add(close)
        return lambda: used.sockets.discard(close)

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

    # Changes.

    def change(self, keyring: Keyring) -> None:
        """The keyring is another one now."""
        self._keyring = keyring
        self.look()

    def look(self) -> None:
        """Let go of what belongs to keys that are good for nothing any more. To be called now and
        then: keys expire by themselves."""
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
            for close in [*used.sockets]:
                close()
            for live in [*used.lives]:
                if not live.background:
                    self._stop(live)
