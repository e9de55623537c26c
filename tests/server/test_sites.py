"""Which pages may use hub, and under which names it is served."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.server.sites import (
    EVERY,
    LOOPBACK_NAMES,
    Sites,
    allowed_headers,
    parse_host,
    parse_origin,
    same_site,
)

APP = "https://app.example"
LABELS = st.from_regex(r"[a-z0-9]{1,5}(\.[a-z0-9]{1,5}){0,2}", fullmatch=True)

TRICKS = [
    "null",
    "",
    "*",
    "http://app.example",
    "https://evil-app.example",
    "https://app.example.evil",
    "https://evil.example?https://app.example",
    "https://app.example@evil.example",
    "https://app.example:444",
    "https://app.example:443@evil",
    "https://app.example:",
    "https://app.example/",
    "https://sub.app.example",
    "https://app.example, https://evil.example",
    "https://app.example\x00",
    "https://app\u3002example",
    "app.example",
    "//app.example",
    "https://[::1",
    "https://app.example:99999",
]


@pytest.mark.parametrize("origin", TRICKS)
def test_only_the_very_origin_that_was_listed_may(origin: str) -> None:
    assert not Sites([parse_origin(APP)]).lists(origin)


@pytest.mark.parametrize("origin", [APP, "https://app.example:443", "HTTPS://App.Example"])
def test_one_origin_has_several_spellings(origin: str) -> None:
    assert Sites([parse_origin(APP)]).lists(origin)


def test_every_origin_is_every_origin_but_null() -> None:
    everybody = Sites([EVERY])
    assert everybody.lists("https://evil.example")
    assert everybody.lists("chrome-extension://abcdef")
    assert not everybody.lists("null")
    assert not everybody.lists("*")
    assert not Sites().lists("https://evil.example")


@given(LABELS, LABELS, st.one_of(st.none(), st.integers(1, 65535)))
def test_a_page_is_hubs_own_if_and_only_if_host_and_port_are_the_requests(
    name: str, other: str, port: int | None
) -> None:
    host = name if port is None else f"{name}:{port}"
    assert same_site(f"http://{host}", "http", host)
    assert same_site(f"https://{host}", "https", host)
    assert same_site(f"https://{host}", "http", host), "a proxy may speak TLS"
    assert not same_site(f"http://{host}", "https", host)
    assert same_site(f"http://{other}", "http", name) == (name == other)
    assert not same_site(f"http://{name}:1234", "http", f"{name}:4321")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://hub.example", "hub.example:443"),
        ("http://hub.example:80", "hub.example"),
        ("http://[::1]:8765", "[0:0:0:0:0:0:0:1]:8765"),
        ("http://HUB.example", "hub.example."),
    ],
)
def test_the_usual_port_and_the_spelling_make_no_other_site(origin: str, host: str) -> None:
    assert same_site(origin, "http", host)


@pytest.mark.parametrize("origin", ["null", "*", "tauri://hub", "hub", "http://", "http://hub:x"])
def test_what_is_no_pages_address_is_not_hubs_own(origin: str) -> None:
    assert not same_site(origin, "http", "hub")
    assert not same_site("http://hub", "http", None)


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_header_breaks_it(origin: str, host: str) -> None:
    sites = Sites([APP], LOOPBACK_NAMES)
    sites.lists(origin)
    same_site(origin, "https", host)
    assert not sites.serves(host) or set(host.lower()) <= set("localhost127.0:[]123456789.")


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8765", "LOCALHOST.", "127.0.0.1:1", "[::1]", "[::1]:8765"]
)
def test_on_this_machine_its_own_names_are_served(host: str) -> None:
    assert Sites(hosts=LOOPBACK_NAMES).serves(host)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil-localhost", "127.0.0.1.nip.io", "127.0.0.2",
     "192.168.0.1:8765", "", ":80", "localhost:", "localhost:x", "localhost@evil", "[::1", "[::2]",
     "localhost, evil", "::1"],
)  # fmt: skip
def test_and_no_other(host: str) -> None:
    """A page whose name resolves to this machine has its own name in ``Host``."""
    assert not Sites(hosts=LOOPBACK_NAMES).serves(host)


def test_an_address_cannot_be_rebound() -> None:
    sites = Sites(hosts=["hub.example"], any_ip=True)
    assert sites.serves("192.168.0.1:8765")
    assert sites.serves("[2001:db8::1]:8765")
    assert sites.serves("hub.example")
    assert not sites.serves("evil.example")
    assert sites.serves(None), "no browser leaves it out"


def test_without_names_any_is_served() -> None:
    assert Sites().serves("evil.example")


def test_a_page_may_send_what_clients_of_hub_send_and_nothing_else() -> None:
    asked = "authorization, Content-Type,x-hub-lane, X-Stainless-OS, cookie, x-evil"
    assert allowed_headers(asked) == "authorization, content-type, x-hub-lane, x-stainless-os"
    assert allowed_headers("") == ""
    assert allowed_headers("x-hub-\udc8f, x-hub-é") == "", "it could not be written into a header"


@pytest.mark.parametrize("text", ["app.example", "https://", "null", "https://a/b", "://a", "1:a"])
def test_what_is_no_origin_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="is no origin"):
        parse_origin(text)


def test_hosts_are_read() -> None:
    assert parse_host("Hub.Example.") == "hub.example"
    assert parse_host("::1") == parse_host("[::1]") == "::1"
    for text in ("", "a b", "http://a", "[a]"):
        with pytest.raises(ValueError, match="is no host"):
            parse_host(text)
    with pytest.raises(ValueError, match="has a port"):
        parse_host("hub.example:80")
