"""The counts of open sockets, in all and for each address."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hub.server.crowd import ADDRESS, TOTAL, Crowd, place_of

ADDRESSES = st.sampled_from(["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "::1", None])


@given(
    moves=st.lists(st.tuples(st.booleans(), ADDRESSES), max_size=60),
    total=st.integers(0, 6),
    per_address=st.integers(0, 3),
)
def test_neither_limit_is_ever_passed_and_whoever_fits_is_let_in(
    moves: list[tuple[bool, str | None]], total: int, per_address: int
) -> None:
    """And nothing is kept of an address that has nothing open."""
    crowd = Crowd(total, per_address)
    inside: list[str | None] = []
    for comes, address in moves:
        if not comes:
            if inside:
                crowd.leave(inside.pop(len(inside) // 2))
        else:
            of = Counter(place_of(one) for one in inside if one is not None)
            full = bool(total) and len(inside) == total
            crowded = address is not None and 0 < per_address <= of[place_of(address)]
            refused = crowd.enter(address)
            assert refused == (TOTAL if full else ADDRESS if crowded else None)
            if refused is None:
                inside.append(address)
        assert crowd.inside == len(inside)
        assert crowd.addresses == len({place_of(one) for one in inside if one is not None})


def test_what_is_claimed_counts_for_its_address_and_not_in_all() -> None:
    crowd = Crowd(total=1, per_address=2)
    assert crowd.enter(None) is None
    assert crowd.claim("10.0.0.1") is None
    assert crowd.claim("10.0.0.1") is None
    assert crowd.claim("10.0.0.1") == ADDRESS
    crowd.release("10.0.0.1")
    assert crowd.claim("10.0.0.1") is None
    assert crowd.inside == 1


def test_a_customers_ipv6_addresses_are_one_and_ipv4_in_ipv6_is_ipv4() -> None:
    assert place_of("2001:db8:0:1::5") == place_of("2001:db8:0:1:ffff::")
    assert place_of("2001:db8:0:1::5") != place_of("2001:db8:0:2::5")
    assert place_of("::ffff:10.1.2.3") == "10.1.2.3"
    assert place_of("10.1.2.3") != place_of("10.1.2.4")
    assert place_of("fe80::1%eth0") == "fe80::"
    assert place_of("not an address") == "not an address"
