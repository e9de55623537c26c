"""The gate: who gets in, what he may, and what becomes of a key that is revoked. Without a loop."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hub.api.responses import parse_create
from hub.dispatch.terms import Class
from hub.errors import HubError
from hub.keys import RANDOM_BYTES, Key, Keyring, Limits, new_key
from hub.live import Live
from hub.server.auth import ANYBODY, MAX_TICKETS, TICKET, TICKET_LIFETIME, Gate, Principal
from tests.server.lives import live_of


class World:
    """A gate, its clock, and what it has stopped."""

    def __init__(self, *keys: Key) -> None:
        self.time = 1000.0
        self.stopped: list[Live] = []
        self.gate = Gate(
            Keyring(keys) if keys else None,
            now=lambda: self.time,
            clock=lambda: self.time,
            default_model="sim",
            stop=self.stopped.append,
        )

    def ask(self, who: Principal, rank: Class = Class.CHAT, **fields: Any) -> Live:
        """A response that somebody asks for, admitted and begun."""
        request = parse_create({"input": "hi", "store": False, **fields})
        terms = self.gate.terms(who, {}, rank)
        self.gate.admit(terms, request)
        live = live_of(request, terms)
        self.gate.hold(live)
        return live


def key(number: int = 1, **particulars: Any) -> tuple[str, Key]:
    return new_key(bytes([number]) * RANDOM_BYTES, now=0, **{"tenant": "ada", **particulars})


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def refused(code: str) -> "_Code":
    return _Code(code)


class _Code:
    """Expects a ``HubError`` of one code."""

    def __init__(self, code: str) -> None:
        self._code = code

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> bool:
        assert isinstance(error, HubError), "it was not refused"
        assert error.code == self._code
        return True


def test_without_a_keyring_everybody_may_do_everything() -> None:
    world = World()
    who = world.gate.principal(bearer("whatever"))
    assert (who.tenant, who.admin) == ("", True)
    world.ask(who, model="anything")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer "},
        bearer("nonsense"),
        bearer(key(2)[0]),
        {"Authorization": key()[0]},
        {"Authorization": f"Basic {key()[0]}"},
        bearer(key()[0][:-1]),
    ],
)
def test_with_one_nobody_gets_in_without_a_good_key(headers: dict[str, str]) -> None:
    world = World(key()[1])
    with refused("invalid_api_key"):
        world.gate.principal(headers)
    with refused("invalid_api_key"):
        world.gate.caller(headers)
    assert world.gate.refused == 2


def test_a_good_key_acts_for_its_tenant() -> None:
    text, one = key()
    world = World(one)
    who = world.gate.principal({"Authorization": f"bearer {text} "})
    assert (who.tenant, who.admin) == ("ada", False)
    terms = world.gate.terms(who, {"X-Hub-Class": "background"}, Class.CHAT)
    assert (terms.tenant, terms.key, terms.rank) == ("ada", one.id, Class.BACKGROUND)


def test_an_expired_key_is_refused() -> None:
    text, one = key(expires_at=1001)
    world = World(one)
    world.gate.principal(bearer(text))
    world.time = 1001
    with refused("invalid_api_key"):
        world.gate.principal(bearer(text))


def test_a_ticket_is_good_once_and_not_for_long() -> None:
    text, one = key()
    world = World(one)
    who = world.gate.principal(bearer(text))
    offered = {"Sec-WebSocket-Protocol": f"hub, {TICKET}{world.gate.ticket(who)}"}
    assert world.gate.caller(offered) == (who, "hub")
    with refused("invalid_api_key"):
        world.gate.caller(offered)
    late = {"Sec-WebSocket-Protocol": f"hub, {TICKET}{world.gate.ticket(who)}"}
    world.time += TICKET_LIFETIME + 1
    with refused("invalid_api_key"):
        world.gate.caller(late)


def test_a_ticket_dies_with_its_key() -> None:
    text, one = key()
    world = World(one)
    ticket = world.gate.ticket(world.gate.principal(bearer(text)))
    world.gate.change(Keyring([one]).revoked(one.id, 1000))
    with refused("invalid_api_key"):
        world.gate.caller({"Sec-WebSocket-Protocol": f"hub, {TICKET}{ticket}"})


def test_unused_tickets_are_bounded_and_push_out_those_of_the_same_key_only() -> None:
    (text, one), (other_text, other) = key(1), key(2, tenant="bob")
    world = World(one, other)
    who, other_who = (world.gate.principal(bearer(x)) for x in (text, other_text))
    others = world.gate.ticket(other_who)
    tickets = [world.gate.ticket(who) for _ in range(MAX_TICKETS + 1)]
    assert len({*tickets}) == len(tickets)
    with refused("invalid_api_key"):
        world.gate.caller({"Sec-WebSocket-Protocol": TICKET + tickets[0]})
    for ticket, whose in ((others, other_who), (tickets[1], who), (tickets[-1], who)):
        assert world.gate.caller({"Sec-WebSocket-Protocol": TICKET + ticket})[0] == whose


def test_a_model_that_a_key_may_not_use_is_not_there_for_it() -> None:
    text, one = key(models=("llama*",))
    world = World(one)
    who = world.gate.principal(bearer(text))
    world.ask(who, model="llama-3")
    with refused("model_not_found"):
        world.ask(who, model="gpt")
    # The default one answers where none is named.
    with refused("model_not_found"):
        world.ask(who)


def test_a_class_that_a_key_may_not_use_is_refused() -> None:
    text, one = key(classes=(Class.CHAT,))
    world = World(one)
    who = world.gate.principal(bearer(text))
    world.ask(who)
    with refused("class_not_allowed"):
        world.ask(who, Class.COMPLETION)


def test_a_key_has_so_many_responses_at_a_time() -> None:
    text, one = key(limits=Limits(concurrent=1))
    world = World(one)
    who = world.gate.principal(bearer(text))
    live = world.ask(who)
    with refused("rate_limit_exceeded"):
        world.ask(who)
    live.started()
    live.cancelled()
    world.ask(who)


def test_what_moves_to_another_node_is_not_counted_here_any_more() -> None:
    text, one = key(limits=Limits(concurrent=1))
    world = World(one)
    who = world.gate.principal(bearer(text))
    live = world.ask(who)
    with refused("rate_limit_exceeded"):
        world.ask(who)
    live.moved()
    world.ask(who)


def test_tokens_are_charged_when_a_response_has_ended() -> None:
    text, one = key(limits=Limits(tokens_per_minute=60))
    world = World(one)
    who = world.gate.principal(bearer(text))
    live = world.ask(who)
    live.started()
    for _ in range(200):
        live.sink.text("x")
    live.sink.finish("stop")
    live.completed()
    world.gate.ended(live)
    with refused("rate_limit_exceeded"):
        world.ask(who)
    world.time += 300
    world.ask(who)


def test_what_is_still_to_begin_counts_like_what_has_begun() -> None:
    """However long its context or the store takes: else many at once would all be let in."""
    text, one = key(limits=Limits(concurrent=1))
    world = World(one)
    who = world.gate.principal(bearer(text))
    terms = world.gate.terms(who, {}, Class.CHAT)
    request = parse_create({"input": "hi", "store": False})
    world.gate.admit(terms, request)
    with world.gate.coming(terms, request), refused("rate_limit_exceeded"):
        world.gate.admit(terms, request)
    world.gate.admit(terms, request)


def test_who_came_in_while_nobody_was_asked_for_a_key_has_to_go_when_there_are_some() -> None:
    world = World()
    closed: list[str] = []
    for name in ("gone", "open"):
        leave = world.gate.open_socket(ANYBODY, partial(closed.append, name))
        if name == "gone":
            leave()
    world.gate.look()
    assert closed == []
    world.gate.change(Keyring([key()[1]]))
    assert closed == ["open"]


def test_a_key_has_so_many_sockets() -> None:
    text, one = key(limits=Limits(sockets=1))
    world = World(one)
    who = world.gate.principal(bearer(text))
    gone = world.gate.open_socket(who, lambda: None)
    with refused("rate_limit_exceeded"):
        world.gate.open_socket(who, lambda: None)
    gone()
    world.gate.open_socket(who, lambda: None)


@pytest.mark.parametrize("how", ["revoked", "expired", "removed"])
def test_what_belongs_to_a_key_that_is_no_good_any_more_is_ended(how: str) -> None:
    """Its sockets and what it has in hand, but for background work; nobody else's."""
    (text, one), (other_text, other) = key(1, expires_at=2000), key(2, tenant="bob")
    world = World(one, other)
    who, other_who = (world.gate.principal(bearer(x)) for x in (text, other_text))
    closed: list[str] = []
    world.gate.open_socket(who, lambda: closed.append("ada"))
    world.gate.open_socket(other_who, lambda: closed.append("bob"))
    live, promised = world.ask(who), world.ask(who, store=True, background=True)
    world.ask(other_who)
    ring = Keyring([one, other])
    if how == "expired":
        world.time = 2000
        world.gate.look()
    else:
        ring = Keyring([other]) if how == "removed" else ring.revoked(one.id, 1000)
        world.gate.change(ring)
    assert (closed, world.stopped) == (["ada"], [live])
    assert not promised.log.sealed
    with refused("invalid_api_key"):
        world.ask(who)
    world.ask(other_who)


def test_new_limits_hold_from_the_next_request_on() -> None:
    text, one = key()
    world = World(one)
    who = world.gate.principal(bearer(text))
    world.ask(who)
    world.gate.change(Keyring([replace(one, limits=Limits(concurrent=1))]))
    with refused("rate_limit_exceeded"):
        world.ask(who)
