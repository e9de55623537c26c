"""Where a request runs, by the rules at the top of ``route.py``."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.requests import ContextFile, Generation, Json
from hub.dispatch.breaker import Breaker
from hub.dispatch.route import (
    MATCH,
    MAX_PREFIXES,
    PIECE,
    Prefixes,
    has_room,
    pick,
    prefixes_of,
    usable,
)
from hub.dispatch.terms import Terms, Ticket
from hub.dispatch.window import Window

Beginnings = tuple[tuple[int, float], ...]


@dataclass
class Place:
    """An upstream, as the rules see it."""

    name: str
    window: Window
    breaker: Breaker = field(default_factory=Breaker)
    prefixes: Prefixes = field(default_factory=Prefixes)
    leaving: bool = False
    closed: bool = False


def place(name: str = "a", size: int = 100, held: int = 0, *, knows: Beginnings = ()) -> Place:
    """An upstream that holds so many requests, and has seen some beginnings."""
    made = Place(name, Window(size))
    made.window.in_flight = held
    made.prefixes.note(knows)
    return made


def ticket(prefixes: Beginnings = (), need: int = 1) -> Ticket:
    return Ticket(Terms(), "m", 1, need, prefixes=prefixes)


def picked(places: list[Place], wants: Ticket, share: float = 1.0) -> str | None:
    found = pick(places, wants, share)
    return None if found is None else found[0].name


def messages(*texts: str) -> Generation:
    roles = ["user", "assistant"]
    turns: list[Json] = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
    return Generation("m", turns)


def raw(text: str) -> Generation:
    return Generation("m", (), prompt=text)


PREFIXES: Beginnings = ((1, 0.2), (2, 0.3), (3, 0.7), (4, 1.0))


# Rule 1.


@pytest.mark.parametrize("why", ["leaving", "closed", "full", "open", "avoided", "tokens", "trial"])
def test_one_that_may_not_take_it_is_never_picked(why: str) -> None:
    """However much it knows of the prompt, and however little it holds."""
    bad, good = place("bad", knows=PREFIXES), place("good", held=50)
    wants = ticket(PREFIXES, need=10)
    match why:
        case "leaving":
            bad.leaving = True
        case "closed":
            bad.closed = True
        case "full":
            bad.window.in_flight = 100
        case "open":
            bad.breaker.failure(0, unreachable=True)
        case "avoided":
            wants.avoid.add("bad")
        case "tokens":
            bad.window = Window(100, 15)
            bad.window.take(6)
        case "trial":
            bad.breaker.failure(0, unreachable=True)
            bad.breaker.answered()
            bad.window.take()
    assert picked([bad, good], wants) == "good"
    assert picked([bad], wants) is None
    assert picked([], wants) is None


def test_a_half_open_one_gets_a_first_request() -> None:
    """One at a time is how it shows that it is well."""
    trial = place()
    trial.breaker.failure(0, unreachable=True)
    trial.breaker.answered()
    assert picked([trial], ticket()) == "a"


def test_a_class_with_a_ceiling_leaves_the_rest_free() -> None:
    """At eight of ten, a class that may fill four fifths has no room there; another one has."""
    one = place(size=10, held=8)
    assert picked([one], ticket(), 0.8) is None
    assert picked([one], ticket(), 0.9) == "a"


rarely = st.sampled_from([False, False, False, True])
places = st.builds(
    place,
    size=st.integers(1, 4),
    held=st.integers(0, 4),
    knows=st.integers(0, 4).map(lambda many: PREFIXES[:many]),
)


@given(st.data(), st.lists(places, max_size=5), st.sampled_from([0.5, 0.8, 1.0]))
def test_the_picked_is_one_that_may_take_it(
    data: st.DataObject, found: list[Place], share: float
) -> None:
    """Somebody is picked exactly if anybody may take it; and then by rule 2, or else by rule 3."""
    wants = ticket(PREFIXES)
    for number, one in enumerate(found):
        one.name = str(number)
        one.leaving, one.closed = data.draw(st.tuples(rarely, rarely))
        one.window.in_flight = min(one.window.in_flight, one.window.size)
        for _ in range(data.draw(st.integers(0, 3))):
            one.breaker.failure(0)
    wants.avoid = set(data.draw(st.lists(st.sampled_from("01234"), max_size=2)))
    able = [one for one in found if usable(one, wants) and has_room(one, wants, share)]
    chosen = pick(found, wants, share)
    assert (chosen is None) == (not able)
    if chosen is None:
        return
    one, match = chosen
    assert one in able
    assert match == one.prefixes.match(PREFIXES)
    longest = max(other.prefixes.match(PREFIXES) for other in able)
    rivals = able if longest < MATCH else [o for o in able if o.prefixes.match(PREFIXES) == longest]
    assert one is min(rivals, key=lambda other: other.window.in_flight / other.window.size)


# Rule 2.


def test_a_conversation_goes_on_where_it_was() -> None:
    """Also if another upstream holds less, and knows its beginning."""
    first, second = prefixes_of(messages("hi" * 9)), prefixes_of(messages("hi" * 9, "yes", "go on"))
    idle, busy = place("idle"), place("busy", held=40)
    idle.prefixes.note(first[:0])
    busy.prefixes.note(first)
    assert picked([idle, busy], ticket(second)) == "busy"
    idle.prefixes.note(first)
    busy.prefixes.note(second)
    third = prefixes_of(messages("hi" * 9, "yes", "go on", "and", "on"))
    assert picked([idle, busy], ticket(third)) == "busy"


@pytest.mark.parametrize(("known", "there"), [(1, "idle"), (2, "busy"), (3, "busy")])
def test_three_tenths_of_the_prompt_have_to_be_known(known: int, there: str) -> None:
    """A shorter beginning is not worth waiting for; exactly so much is."""
    idle, busy = place("idle"), place("busy", held=40, knows=PREFIXES[:known])
    assert picked([idle, busy], ticket(PREFIXES)) == there


@pytest.mark.parametrize(
    ("held", "least", "there"),
    [(64, 0, "busy"), (65, 0, "idle"), (192, 128, "busy"), (195, 130, "busy"), (196, 130, "idle")],
)
def test_a_load_too_uneven_overrides_what_is_known(held: int, least: int, there: str) -> None:
    """Over 64 more, and over one and a half times as many, as the least loaded."""
    idle, busy = place("idle", 400, least), place("busy", 400, held, knows=PREFIXES)
    assert picked([idle, busy], ticket(PREFIXES)) == there


def test_what_all_know_draws_nobody_to_the_first() -> None:
    """Of those that know as much, a common system prompt for example, the least loaded is taken,
    the first of equals."""
    several = [place(name, held=10, knows=PREFIXES[:3]) for name in "abc"]
    several[1].window.in_flight = several[2].window.in_flight = 5
    assert picked(several, ticket(PREFIXES)) == "b"


# Rule 3.


def test_load_is_what_is_held_for_the_window() -> None:
    """Ten of a hundred are less than two of ten; of equals the first is taken."""
    assert picked([place("a", 10, 2), place("b", 100, 10)], ticket()) == "b"
    assert picked([place("a", 10, 1), place("b", 100, 10)], ticket()) == "a"


# Prefixes.


def test_only_so_many_beginnings_are_remembered() -> None:
    """Those that were seen longest ago are forgotten; what is seen again counts as new."""
    prefixes = Prefixes()
    prefixes.note([(-1, 1.0), (-2, 1.0)])
    for key in range(MAX_PREFIXES):
        prefixes.note([(-2, 1.0), (key, 1.0)])
    assert [prefixes.match([(key, 1.0)]) for key in (-1, -2, 0, 1)] == [0, 1, 0, 1]
    prefixes.note([(key, 1.0) for key in range(100, 2 * MAX_PREFIXES)])
    # There is no other way to see what it holds.
    assert len(prefixes._seen) == MAX_PREFIXES


@given(st.lists(st.text(max_size=20), max_size=6), st.lists(st.text(max_size=20), max_size=6))
def test_a_later_turn_shares_every_earlier_message(before: list[str], after: list[str]) -> None:
    """The beginnings of a conversation are beginnings of all that goes on from it, and their shares
    rise to the whole."""
    earlier = prefixes_of(messages(*before))
    later = prefixes_of(messages(*before, *after))
    assert [key for key, _ in later[: len(earlier)]] == [key for key, _ in earlier]
    shares = [share for _, share in later]
    assert shares == sorted(shares)
    assert not shares or shares[-1] == 1.0


@given(st.text(max_size=8), st.integers(0, 3 * PIECE), st.integers(0, 3 * PIECE))
def test_raw_prompts_share_their_whole_pieces(word: str, same: int, more: int) -> None:
    """Two raw prompts share as many beginnings as they have whole pieces in common."""
    text = ((word or "x") * (same + 1))[:same]
    earlier, later = prefixes_of(raw(text)), prefixes_of(raw(text + "\0" * more))
    assert len(later) == -(-len(text + "\0" * more) // PIECE)
    shared = {key for key, _ in earlier} & {key for key, _ in later}
    assert len(shared) >= same // PIECE
    assert len(shared) == (len(later) if not more else same // PIECE)


def test_a_gap_shares_its_files_and_what_is_before_it() -> None:
    """Where one types, all whole pieces before the cursor are known already; what is behind the gap
    counts, too."""
    files = (ContextFile("a.py", "a" * PIECE), ContextFile("b.py", "b"))
    earlier = replace(raw("x" * 2 * PIECE + "f"), suffix="y" * PIECE, files=files)
    later = replace(earlier, prompt=f"{earlier.prompt}oo")
    known = Prefixes()
    known.note(prefixes_of(earlier))
    pieces = [len("a.py\n") + PIECE, len("b.py\n") + 1, 2 * PIECE]
    assert known.match(prefixes_of(later)) == sum(pieces) / (sum(pieces) + 3 + PIECE)
    assert known.match(prefixes_of(replace(earlier, suffix="z"))) < 1.0
    assert known.match(prefixes_of(earlier)) == 1.0


def test_what_differs_anywhere_is_not_shared_from_there() -> None:
    """In a text, a role, a part that is no text, or the model."""
    image: list[Json] = [{"role": "user", "content": [{"type": "image_url"}]}]
    kinds = [
        prefixes_of(messages("hello", "x")),
        prefixes_of(messages("hullo", "x")),
        prefixes_of(Generation("other", messages("hello", "x").messages)),
        prefixes_of(Generation("m", [{"role": "system", "content": "hello"}])),
        prefixes_of(Generation("m", [{"role": "user", "content": "hello", "name": "x"}])),
        prefixes_of(Generation("m", image)),
        prefixes_of(raw("hello")),
    ]
    keys = [key for prefixes in kinds for key, _ in prefixes]
    assert len({*keys}) == len(keys)


def test_an_empty_prompt_has_no_beginnings() -> None:
    """There is nothing to share, and nothing to divide by."""
    assert prefixes_of(raw("")) == ()
    assert prefixes_of(messages()) == ()
    assert Prefixes().match(()) == 0
