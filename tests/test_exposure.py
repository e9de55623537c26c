"""What the settings say of who can reach hub, and what is refused."""

from pathlib import Path

import click
import pytest

from hub.config import Settings
from hub.exposure import PER_ADDRESS, check, door, is_loopback, renew, sites
from tests.server.certificates import make_certificate

ELSEWHERE = "0.0.0.0"


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("no such name", False),
    ],
)
async def test_what_resolves_to_this_machine_is_this_machine(host: str, local: bool) -> None:
    assert await is_loopback(host) == local


@pytest.mark.parametrize(
    ("settings", "local", "keyed"),
    [
        (Settings(), True, False),
        (Settings(host=ELSEWHERE), False, True),
        (Settings(host=ELSEWHERE, open_to_everyone=True), False, False),
        (Settings(origin=("*",)), True, True),
        (Settings(origin=("https://app.example",)), True, False),
    ],
)
def test_what_lets_in_only_who_was_asked_starts(
    settings: Settings, local: bool, keyed: bool
) -> None:
    check(settings, local=local, keyed=keyed)


def test_others_need_keys_or_a_word_that_they_do_not() -> None:
    """The message says what to do."""
    with pytest.raises(click.ClickException, match="hub keys create --tenant NAME") as refused:
        check(Settings(host=ELSEWHERE), local=False, keyed=False)
    assert "--open-to-everyone" in refused.value.message
    assert "--host 127.0.0.1" in refused.value.message


def test_every_page_needs_keys() -> None:
    with pytest.raises(click.ClickException, match="needs keys"):
        check(Settings(origin=("*",)), local=True, keyed=False)


@pytest.mark.parametrize("keyed", [True, False])
def test_on_this_machine_its_own_names_and_those_that_were_added_are_served(keyed: bool) -> None:
    """Keys or not: a page that was let in once has one."""
    names = sites(Settings(host_name=("hub.test",)), local=True, keyed=keyed)
    assert all(map(names.serves, ("localhost:1", "127.0.0.1", "[::1]:1", "hub.test")))
    assert not names.serves("evil.example")
    assert not names.serves("192.0.2.1")


def test_elsewhere_any_name_is_served_to_who_has_a_key_unless_some_were_named() -> None:
    anywhere = Settings(host=ELSEWHERE)
    assert sites(anywhere, local=False, keyed=True).serves("any.example")
    named = Settings(host=ELSEWHERE, host_name=("hub.example",))
    some = sites(named, local=False, keyed=True)
    assert some.serves("hub.example")
    assert some.serves("192.0.2.1:8765"), "an address cannot be rebound"
    assert not some.serves("any.example")


def test_without_keys_no_name_is_served_that_could_be_another_sites() -> None:
    here = sites(Settings(host="hub.lan"), local=False, keyed=False)
    assert here.serves("hub.lan:8765")
    assert here.serves("192.0.2.1")
    assert not here.serves("any.example")


def test_an_address_has_a_limit_where_there_are_several() -> None:
    assert door(Settings(), local=True).limits.per_address == 0
    assert door(Settings(), local=False).limits.per_address == PER_ADDRESS
    assert door(Settings(sockets_per_address=0), local=False).limits.per_address == 0
    assert door(Settings(sockets_per_address=7), local=True).limits.per_address == 7
    assert door(Settings(sockets=9), local=True).limits.sockets == 9
    assert door(Settings(), local=True).limits.sockets > 0, "the system has one"


@pytest.mark.parametrize(
    ("settings", "option"),
    [
        (Settings(trusted_proxy=("10.0.0.0/99",)), "--trusted-proxy"),
        (Settings(origin=("app.example",)), "--origin"),
        (Settings(host_name=("http://hub",)), "--host-name"),
        (Settings(tls_cert="missing.pem", tls_key="missing.key"), "--tls-cert"),
    ],
)
def test_a_bad_value_is_an_error_that_names_the_option(settings: Settings, option: str) -> None:
    def start() -> None:
        sites(settings, local=True, keyed=False)
        door(settings, local=True)

    with pytest.raises(click.BadParameter) as wrong:
        start()
    assert wrong.value.param_hint == f"'{option}'"


@pytest.mark.parametrize("half", [{"tls_cert": "a.pem"}, {"tls_key": "a.key"}])
def test_half_of_a_certificate_is_none(half: dict[str, str]) -> None:
    with pytest.raises(click.UsageError, match="need each other"):
        door(Settings(**half), local=True)  # type: ignore[arg-type]


def test_a_certificate_is_read_again_and_a_broken_one_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = make_certificate(tmp_path)
    settings = Settings(tls_cert=str(made.cert), tls_key=str(made.key))
    entrance = door(settings, local=True)
    first = entrance.tls
    assert first is not None
    renew(entrance, settings)
    second = entrance.tls
    assert second is not first
    made.cert.write_text("half a certificate")
    with pytest.raises(click.BadParameter, match="PEM is needed"):
        renew(entrance, settings)
    assert entrance.tls is second
    renew(entrance, Settings())
    assert entrance.tls is second
    assert "a restart is needed for: tls_cert, tls_key" in caplog.text
