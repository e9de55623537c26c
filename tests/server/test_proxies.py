"""Who a request comes from, through proxies that are trusted and others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.server.proxies import Client, Proxies, parse_proxy

TRUSTED = ["10.0.0.1", "10.1.2.3", "fd00::1", "::ffff:10.9.9.9"]
STRANGERS = ["192.0.2.1", "198.51.100.7", "2001:db8::1", "11.0.0.1"]
PROXIES = Proxies(map(parse_proxy, ["10.0.0.0/8", "fd00::/8"]))
ANYTHING = st.one_of(st.sampled_from([*TRUSTED, *STRANGERS]), st.text(max_size=12))


def seen(peer: str | None, *forwarded: str, proxies: Proxies = PROXIES, **more: str) -> Client:
    headers = {name.replace("_", "-"): [value] for name, value in more.items()}
    headers["X-Forwarded-For"] = [*forwarded]
    return proxies.client(peer, "http", ["hub:1"], headers)


@given(
    peer=st.sampled_from(STRANGERS),
    forged=st.lists(ANYTHING, max_size=4),
    scheme=st.text(max_size=6),
    host=st.text(max_size=6),
)
def test_what_a_stranger_says_of_itself_counts_for_nothing(
    peer: str, forged: list[str], scheme: str, host: str
) -> None:
    client = seen(peer, *forged, X_Forwarded_Proto=scheme, X_Forwarded_Host=host)
    assert client == Client(peer, "http", "hub:1")


@given(
    forged=st.lists(ANYTHING, max_size=4),
    client=st.sampled_from(STRANGERS),
    hops=st.lists(st.sampled_from(TRUSTED), min_size=1, max_size=4),
    lines=st.booleans(),
)
def test_the_client_is_the_first_that_no_trusted_proxy_is_whatever_it_has_made_up(
    forged: list[str], client: str, hops: list[str], lines: bool
) -> None:
    """Each proxy adds the address that it saw; the last one is the peer."""
    values = [*forged, client, *hops[:-1]]
    found = seen(hops[-1], *(values if lines else [", ".join(values)]))
    assert found == Client(client, "http", "hub:1", True)


@given(ANYTHING, st.lists(st.text(max_size=30), max_size=4))
def test_no_header_breaks_it(peer: str, values: list[str]) -> None:
    seen(peer, *values, X_Forwarded_Proto="".join(values), X_Forwarded_Host="".join(values))


@pytest.mark.parametrize(
    ("said", "address"),
    [
        ("192.0.2.1:4711", "192.0.2.1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("unknown", "10.0.0.1"),
        ("192.0.2.1, unknown", "10.0.0.1"),
        ("10.4.4.4", "10.4.4.4"),
        ("", "10.0.0.1"),
    ],
)
def test_spellings(said: str, address: str) -> None:
    """What is no address ends the walk: nobody knows what it hides."""
    assert seen("10.0.0.1", said).address == address


def test_scheme_and_host_are_the_nearest_proxys() -> None:
    client = seen("10.0.0.1", X_Forwarded_Proto="http, HTTPS", X_Forwarded_Host="forged, app:8")
    assert (client.scheme, client.host) == ("https", "app:8")
    assert seen("10.0.0.1", X_Forwarded_Proto="ftp").scheme == "http"


def test_nobody_is_trusted_unless_named() -> None:
    assert not Proxies().trusts("127.0.0.1")
    assert not PROXIES.trusts(None)
    assert seen("127.0.0.1", "192.0.2.1", proxies=Proxies()).address == "127.0.0.1"
    assert Proxies([parse_proxy("::1")]).trusts("::1")


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.0/33", "10.0.0.1/8"])
def test_what_is_no_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is no network"):
        parse_proxy(text)
