"""The keyring on disk: whole, private, shared by those that change it, and watched."""

import logging
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hub.key_file import KeyFileError, Watched, load, save, update
from hub.key_json import dump
from hub.keys import RANDOM_BYTES, Key, Keyring, new_key

NOW = 1_800_000_000


def key_of(tenant: str, number: int = 0) -> Key:
    random = number.to_bytes(RANDOM_BYTES, "little")
    return new_key(random, tenant=tenant, now=NOW)[1]


ALICE, BOB = key_of("alice", 1), key_of("bob", 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_was_saved_is_loaded(path: Path) -> None:
    """And nothing else is left in the directory."""
    save(path, Keyring([ALICE, BOB]))
    assert load(path).keys == (ALICE, BOB)
    assert [one.name for one in path.parent.iterdir()] == ["keys.json"]


def test_a_file_that_is_missing_has_no_keys(path: Path) -> None:
    """Nobody has made one yet."""
    assert load(path).empty


def test_a_new_file_is_its_owners_alone(path: Path) -> None:
    """Whatever the umask allows; so are its lock, and the directory that is made for it."""
    old = os.umask(0)
    try:
        update(path.parent / "new" / "keys.json", lambda keyring: keyring.added(ALICE))
    finally:
        os.umask(old)
    assert mode(path.parent / "new") == 0o700
    assert mode(path.parent / "new" / "keys.json") == 0o600
    assert mode(path.parent / "new" / "keys.json.lock") == 0o600


@pytest.mark.parametrize("rights", [0o400, 0o600, 0o640, 0o440])
def test_who_may_read_stays_who_may_read(path: Path, rights: int) -> None:
    """A service that reads it through its group goes on to see what is changed."""
    save(path, Keyring([ALICE]))
    path.chmod(rights)
    update(path, lambda keyring: keyring.added(BOB))
    assert mode(path) == rights
    assert load(path).keys == (ALICE, BOB)


@pytest.mark.parametrize("rights", [0o604, 0o620, 0o602, 0o601, 0o666, 0o777])
def test_a_file_that_others_may_read_or_its_group_may_change_is_refused(
    path: Path, rights: int
) -> None:
    """Neither read, nor changed; the error says what to do."""
    save(path, Keyring([ALICE]))
    path.chmod(rights)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        load(path)
    with pytest.raises(KeyFileError, match=f"chmod 600 {path}"):
        update(path, lambda keyring: keyring.added(BOB))
    path.chmod(0o600)
    assert load(path).keys == (ALICE,)


def test_a_file_that_is_no_keyring_is_refused(path: Path) -> None:
    """With its place and what is wrong, and it is not overwritten."""
    path.touch(0o600)
    path.write_text('{"version": 2}')
    with pytest.raises(KeyFileError, match=f"{path} cannot be read: it is no object with"):
        load(path)
    with pytest.raises(KeyFileError, match=f"{path} cannot be read: it is no object with"):
        update(path, lambda keyring: keyring)
    assert path.read_text() == '{"version": 2}'


def test_a_place_where_no_file_can_be_is_an_error_that_names_it(path: Path) -> None:
    """With the system's words; no half of a file is left."""
    path.mkdir()
    with pytest.raises(KeyFileError, match=f"{path} cannot be read: Is a directory"):
        load(path)
    (path / "a").touch()
    with pytest.raises(KeyFileError, match=f"{path}/a/b cannot be changed: File exists"):
        update(path / "a" / "b", lambda keyring: keyring)
    with pytest.raises(OSError, match="directory"):
        save(path, Keyring())
    assert [one.name for one in path.parent.iterdir()] == ["keys.json"]


def test_who_reads_while_it_is_replaced_has_the_old_one_whole(path: Path) -> None:
    """The file is another one after a change."""
    save(path, Keyring([ALICE]))
    with path.open("rb") as reader:
        update(path, lambda keyring: keyring.added(BOB))
        assert reader.read() == dump(Keyring([ALICE]))


def test_a_change_that_fails_changes_nothing(path: Path) -> None:
    """And the next one may be made."""
    save(path, Keyring([ALICE]))
    with pytest.raises(ValueError, match="twice"):
        update(path, lambda keyring: keyring.added(ALICE))
    assert update(path, lambda keyring: keyring.added(BOB)).keys == load(path).keys == (ALICE, BOB)


def test_changes_at_the_same_time_do_not_lose_each_other(path: Path) -> None:
    """Each is made to what the one before has left."""
    keys = [key_of("alice", number) for number in range(1, 17)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: update(path, lambda keyring: keyring.added(key)), keys))
    assert {key.id for key in load(path).keys} == {key.id for key in keys}


def test_a_link_stays_a_link(path: Path) -> None:
    """What it names is changed."""
    save(path, Keyring([ALICE]))
    link = path.parent / "link.json"
    link.symlink_to(path)
    update(link, lambda keyring: keyring.added(BOB))
    assert link.is_symlink()
    assert load(path).keys == (ALICE, BOB)


def test_a_change_is_seen_once(path: Path) -> None:
    """From a file that was missing at first, through each change."""
    watched = Watched(path)
    assert watched.keyring.empty
    assert watched.changed() is None
    update(path, lambda keyring: keyring.added(ALICE))
    seen = watched.changed()
    assert seen is watched.keyring
    assert seen.keys == (ALICE,)
    assert watched.changed() is None
    update(path, lambda keyring: keyring.revoked(ALICE.id, NOW))
    seen = watched.changed()
    assert seen is not None
    assert seen.keys[0].state(NOW) == "revoked"


def test_a_file_that_was_only_touched_is_no_change(path: Path) -> None:
    """Nobody has to look at his sockets for it."""
    save(path, Keyring([ALICE]))
    watched = Watched(path)
    os.utime(path, (NOW, NOW))
    assert watched.changed() is None


def complaints(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == logging.ERROR]


@pytest.mark.parametrize("trouble", ["broken", "open", "gone", "directory"])
def test_whatever_happens_to_the_file_the_keys_stay(
    path: Path, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, without a hash; the first good file counts again, and is complained about
    again if it goes."""
    save(path, Keyring([ALICE]))
    watched = Watched(path)
    for times in (1, 2):
        match trouble:
            case "broken":
                path.write_bytes(dump(watched.keyring)[:-20])
            case "open":
                path.chmod(0o644)
            case "gone":
                path.unlink()
            case "directory":
                path.unlink()
                path.mkdir()
        for _ in range(3):
            assert watched.changed() is None
        assert watched.keyring.keys[0] == ALICE
        assert len(complaints(caplog)) == times
        assert str(path) in complaints(caplog)[-1]
        assert ALICE.hash not in caplog.text
        if trouble == "directory":
            path.rmdir()
        path.unlink(missing_ok=True)
        expected = Keyring([ALICE, key_of("bob", times + 1)])
        save(path, expected)
        seen = watched.changed()
        assert seen is not None
        assert seen.keys == expected.keys


def test_rights_that_are_set_right_are_seen(path: Path) -> None:
    """Though the file itself is as it was."""
    save(path, Keyring([ALICE]))
    watched = Watched(path)
    save(path, Keyring([BOB]))
    path.chmod(0o644)
    assert watched.changed() is None
    path.chmod(0o600)
    seen = watched.changed()
    assert seen is not None
    assert seen.keys == (BOB,)


def test_what_cannot_be_read_at_the_start_is_an_error(path: Path) -> None:
    """There are no keys of before."""
    path.touch(0o600)
    with pytest.raises(KeyFileError, match="it is not JSON"):
        Watched(path)
