"""The keyring in Redis: changed by many, seen by all, and kept whatever happens to Redis."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from click.testing import CliRunner

from hub import key_place
from hub.cli import main
from hub.config import Settings
from hub.key_redis import NAME, Watched, load, named, update
from hub.keys import Keyring, KeysError
from tests.redis_server import RedisServer, needs_redis, redis_process, redis_server, running_redis
from tests.test_key_file import ALICE, BOB, NOW, complaints, key_of

__all__ = ["redis_process", "redis_server"]

NOBODY = "redis://127.0.0.1:1/0"
"""Port 1 is privileged, and nobody listens there."""


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


@pytest.fixture
def mortal() -> Iterator[RedisServer]:
    """One that may be killed."""
    with running_redis() as server:
        yield server


@needs_redis
def test_what_was_changed_is_loaded(url: str) -> None:
    """Where there is nothing, there are no keys."""
    assert load(url).empty
    update(url, lambda keyring: keyring.added(ALICE))
    assert update(url, lambda keyring: keyring.added(BOB)).keys == load(url).keys == (ALICE, BOB)


@needs_redis
def test_changes_at_the_same_time_do_not_lose_each_other(url: str) -> None:
    """Each is made to what the one before has left."""
    keys = [key_of("alice", number) for number in range(1, 17)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: update(url, lambda keyring: keyring.added(key)), keys))
    assert {key.id for key in load(url).keys} == {key.id for key in keys}


@needs_redis
def test_a_change_that_fails_changes_nothing(url: str) -> None:
    update(url, lambda keyring: keyring.added(ALICE))
    with pytest.raises(ValueError, match="twice"):
        update(url, lambda keyring: keyring.added(ALICE))
    assert load(url).keys == (ALICE,)


@needs_redis
def test_what_is_no_keyring_is_refused_and_not_overwritten(redis_server: RedisServer) -> None:
    redis_server.ask("SET", NAME, '{"version": 2}')
    for use in (load, Watched):
        with pytest.raises(KeysError, match="cannot be read: it is no object with"):
            use(redis_server.url)
    with pytest.raises(KeysError, match="cannot be read"):
        update(redis_server.url, lambda keyring: keyring)
    assert b'{"version": 2}' in redis_server.ask("GET", NAME)
    redis_server.ask("DEL", NAME)
    redis_server.ask("RPUSH", NAME, "a list")
    with pytest.raises(KeysError, match="WRONGTYPE"):
        load(redis_server.url)


@needs_redis
def test_a_change_is_seen_once(url: str) -> None:
    """From where nothing was at first, through each change."""
    with closing(Watched(url)) as watched:
        assert watched.keyring.empty
        assert watched.changed() is None
        update(url, lambda keyring: keyring.added(ALICE))
        seen = watched.changed()
        assert seen is watched.keyring
        assert seen.keys == (ALICE,)
        assert watched.changed() is None
        update(url, lambda keyring: keyring.revoked(ALICE.id, NOW))
        seen = watched.changed()
        assert seen is not None
        assert seen.keys[0].state(NOW) == "revoked"


@needs_redis
@pytest.mark.parametrize("trouble", ["dead", "empty", "broken"])
def test_whatever_happens_to_redis_the_keys_stay(
    mortal: RedisServer, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, without a hash; what can be read again counts again."""
    update(mortal.url, lambda keyring: keyring.added(ALICE))
    with closing(Watched(mortal.url)) as watched:
        match trouble:
            case "dead":
                mortal.signal(signal.SIGKILL)
            case "empty":
                mortal.ask("FLUSHALL")
            case "broken":
                mortal.ask("SET", NAME, "{")
        for _ in range(3):
            assert watched.changed() is None
        assert watched.keyring.keys == (ALICE,)
        assert len(complaints(caplog)) == 1
        assert mortal.url in complaints(caplog)[0]
        assert ALICE.hash not in caplog.text
        if trouble == "dead":
            mortal.start()
        else:
            mortal.ask("DEL", NAME)
        update(mortal.url, lambda keyring: Keyring([ALICE, BOB]))
        seen = watched.changed()
        assert seen is not None
        assert seen.keys == (ALICE, BOB)


def test_where_nobody_is_is_an_error_that_names_it_without_secrets() -> None:
    secret = "redis://user:secret@127.0.0.1:1/0"
    for use in (load, Watched):
        with pytest.raises(KeysError, match=NOBODY) as error:
            use(secret)
        assert "secret" not in str(error.value)
    with pytest.raises(KeysError, match="cannot be changed"):
        update(NOBODY, lambda keyring: keyring)
    with pytest.raises(KeysError, match="is no URL of Redis"):
        load("redis://127.0.0.1:1/0?no_such_option=1")
    with pytest.raises(KeysError, match="no URL of Redis"):
        load("redis://127.0.0.1:1/0?protocol=9")


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h", "redis://h:6379/0"),
        ("rediss://u:p@H:7/2?x=1", "rediss://h:7/2"),
        ("redis://[::1]:7", "redis://[::1]:7/0"),
        ("unix://u:p@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        ("redis://h:99999999/1", "redis://h:6379/1"),
    ],
)
def test_people_see_no_secrets(url: str, place: str) -> None:
    assert named(url) == key_place.named(url) == place


@pytest.mark.parametrize(
    ("keys", "store", "place"),
    [
        (None, "redis://h/1", "redis://h/1"),
        (None, "valkey://h/1", "redis://h/1"),
        ("/k.json", "redis://h/1", "/k.json"),
        ("valkeys://k/2", "/somewhere", "rediss://k/2"),
        ("redis://k/2", "redis://h/1", "redis://k/2"),
        (None, "/somewhere", "/data/hub/keys.json"),
        (None, "memory", "/data/hub/keys.json"),
    ],
)
def test_keys_are_where_they_are_said_to_be_else_in_a_store_that_is_shared(
    keys: str | None, store: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert key_place.place_of(Settings(keys=keys, store=store)) == place


def test_a_place_that_is_none_is_an_error_of_its_option() -> None:
    for option in ("--keys", "--store"):
        result = CliRunner().invoke(main, ["keys", "list", option, "http://u:secret@h"])
        assert result.exit_code == 2
        assert option in result.stderr
        assert "secret" not in result.stderr


@needs_redis
def test_the_commands_change_what_all_nodes_see(url: str) -> None:
    """Named by the store or by the keys."""
    with closing(Watched(url)) as watched:
        made = CliRunner().invoke(main, ["keys", "create", "--tenant", "a"], env={"HUB_STORE": url})
        assert made.exit_code == 0, made.output
        assert url in made.stderr
        seen = watched.changed()
        assert seen is not None
        key = seen.find(made.stdout.strip(), time.time())
        assert key is not None
        listed = CliRunner().invoke(main, ["keys", "list", "--keys", url])
        assert key.id in listed.stdout
        assert CliRunner().invoke(main, ["keys", "revoke", key.id, "--store", url]).exit_code == 0
        seen = watched.changed()
        assert seen is not None
        assert seen.get(key.id) is not None
        assert seen.find(made.stdout.strip(), time.time()) is None


def test_without_the_client_it_is_said_how_to_get_it() -> None:
    """And files of keys need none."""
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from hub.keys import KeysError\n"
        "from hub import key_place\n"
        "try: key_place.load('redis://127.0.0.1:1/0')\n"
        "except KeysError as error: print(error)\n"
        "print(key_place.load('/nowhere/keys.json').empty)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].endswith("pip install 'hub-stream[redis]'")
    assert done.stdout.splitlines()[1] == "True"
