"""``hub keys``: what its commands print, and what they leave in the file."""

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hub.cli import main
from hub.dispatch.terms import Class
from hub.key_file import load
from hub.keys import Limits


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments], env={"HUB_KEYS": str(path)})


def create(path: Path, *arguments: str) -> str:
    result = run(path, "create", "--tenant", "alice", *arguments)
    assert result.exit_code == 0, result.output
    return result.stdout.removesuffix("\n")


def test_a_new_key_alone_is_on_standard_output(path: Path) -> None:
    """It opens the keyring; what to do with it is said elsewhere, without the key."""
    result = run(path, "create", "--tenant", "alice")
    text = result.stdout.removesuffix("\n")
    key = load(path).find(text, time.time())
    assert key is not None
    assert (key.tenant, key.name, key.admin, key.limits) == ("alice", "", False, Limits())
    assert key.expires_at is None
    assert text not in result.stderr
    assert key.hash not in result.output
    assert key.id in result.stderr
    assert str(path) in result.stderr
    assert "Authorization: Bearer" in result.stderr


def test_no_two_keys_are_the_same(path: Path) -> None:
    """Of one tenant, either."""
    assert len({create(path) for _ in range(5)}) == len(load(path).keys) == 5


def test_every_option_is_kept(path: Path) -> None:
    """Lists are separated by commas; days are counted from now."""
    text = create(
        path,
        *("--name", "Alice's laptop", "--models", "llama-*, qwen", "--classes", "chat,completion"),
        *("--requests-per-minute", "60", "--tokens-per-minute", "10000", "--concurrent", "4"),
        *("--queued", "10", "--sockets", "2", "--expires", "0.5", "--admin"),
    )
    now = time.time()
    key = load(path).find(text, now)
    assert key is not None
    assert key.name == "Alice's laptop"
    assert key.models == ("llama-*", "qwen")
    assert key.classes == (Class.CHAT, Class.COMPLETION)
    assert key.limits == Limits(60, 10000, 4, 10, 2)
    assert key.admin
    assert key.expires_at is not None
    assert key.expires_at - key.created_at in (43199, 43200)
    assert load(path).find(text, now + 43300) is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--tenant", ""], "'tenant' must be 1 to 128 printable characters"),
        (["--tenant", "a\nb"], "'tenant' must be"),
        (["--tenant", "a", "--name", "\x1b[2J"], "'name' must be"),
        (["--tenant", "a", "--models", "a,,b"], "'models' must be names of models"),
        (["--tenant", "a", "--classes", "chat,vip"], "'vip' is none of completion, chat,"),
        (["--tenant", "a", "--queued", "0"], "--queued"),
        (["--tenant", "a", "--queued", "9" * 20], "'queued' must be a whole number from 1 to"),
        (["--tenant", "a", "--expires", "0"], "--expires"),
        (["--tenant", "a", "--expires", "nan"], "--expires"),
        ([], "--tenant"),
    ],
)
def test_an_option_that_is_wrong_makes_no_key(path: Path, arguments: list[str], why: str) -> None:
    """The error names it."""
    result = run(path, "create", *arguments)
    assert result.exit_code == 2
    assert why in result.stderr
    assert result.stdout == ""
    assert not path.exists()


def test_a_list_tells_all_but_the_hash(path: Path) -> None:
    """A row for each key, also for what is revoked; what has no bounds says so."""
    create(path, "--name", "laptop", "--requests-per-minute", "6000", "--models", "a*", "--admin")
    create(path, "--expires", "1")
    first, second = load(path).keys
    run(path, "revoke", second.id)
    head, *rows = run(path, "list").stdout.splitlines()
    assert head.split() == ["ID", "TENANT", "NAME", "CREATED", "EXPIRES", "STATE", "LIMITS"]
    assert rows[0].startswith(f"{first.id}  alice   laptop  20")
    assert rows[0].endswith("  never       active   admin, a*, 6,000 requests/min")
    assert rows[1].startswith(f"{second.id}  alice ")
    assert rows[1].endswith("  revoked  none")
    assert first.hash not in run(path, "list").output


def test_a_list_for_programs(path: Path) -> None:
    """The file's fields and the state, without the hash."""
    assert json.loads(run(path, "list", "--json").stdout) == []
    create(path, "--classes", "chat", "--sockets", "2")
    (key,) = load(path).keys
    result = run(path, "list", "--json")
    assert json.loads(result.stdout) == [
        {
            "id": key.id,
            "tenant": "alice",
            "created_at": key.created_at,
            "classes": ["chat"],
            "limits": {"sockets": 2},
            "state": "active",
        }
    ]


def test_a_list_of_nothing_says_where_it_looked(path: Path) -> None:
    """And makes no file."""
    result = run(path, "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert str(path) in result.stderr
    assert not path.exists()


@pytest.mark.parametrize("by", ["id", "text"])
def test_a_revoked_key_lets_nobody_in(path: Path, by: str) -> None:
    """By its id, or by its text for who has found it; again changes nothing."""
    text, other = create(path), create(path)
    (key, _) = load(path).keys
    for _ in range(2):
        result = run(path, "revoke", key.id if by == "id" else text)
        assert result.exit_code == 0
        assert key.id in result.stderr
        assert text not in result.output
    assert load(path).find(text, time.time()) is None
    assert load(path).find(other, time.time()) is not None


def test_an_unknown_key_is_not_revoked(path: Path) -> None:
    """The error does not repeat what may be a secret."""
    text = create(path)
    for id in ("0" * 16, "nobody", text + "x", text.replace("hub_", "")):
        result = run(path, "revoke", id)
        assert result.exit_code == 1
        assert f"There is no such key in {path}" in result.output
        assert id not in result.output
    assert load(path).find(text, time.time()) is not None


@pytest.mark.parametrize(
    "arguments", [["create", "--tenant", "a"], ["list"], ["revoke", "0" * 16]], ids=lambda a: a[0]
)
def test_a_file_that_cannot_be_used_is_an_error_that_names_it(
    path: Path, arguments: list[str]
) -> None:
    """And no key is printed that is kept nowhere."""
    path.touch(0o600)
    path.write_text("{}")
    result = run(path, *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert str(path) in result.stderr


def test_keys_are_where_the_store_is(tmp_path: Path) -> None:
    """Unless the option or the environment says otherwise; the option wins."""
    create = ["keys", "create", "--tenant", "a"]
    home = {"XDG_DATA_HOME": str(tmp_path / "data"), "HUB_KEYS": ""}
    assert CliRunner().invoke(main, create, env=home).exit_code == 0
    assert len(load(tmp_path / "data" / "hub" / "keys.json").keys) == 1
    other = [*create, "--keys", str(tmp_path / "other.json")]
    environment = {"HUB_KEYS": str(tmp_path / "wrong.json")}
    assert CliRunner().invoke(main, other, env=environment).exit_code == 0
    assert len(load(tmp_path / "other.json").keys) == 1
    assert not (tmp_path / "wrong.json").exists()


@pytest.mark.parametrize("command", [[], ["create"], ["list"], ["revoke"]])
def test_help_reads_well(command: list[str]) -> None:
    """In a terminal of 100 characters."""
    result = CliRunner().invoke(main, ["keys", *command, "--help"], prog_name="hub")
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 100
