"""Keys: their texts, what they allow, and the keyring."""

import re
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.dispatch.terms import Class
from hub.key_json import dump, form_of, load
from hub.keys import (
    LAST_TIME,
    MOST,
    RANDOM_BYTES,
    Key,
    Keyring,
    Limits,
    matches,
    new_key,
    parse,
)

NOW = 1_800_000_000
TEXT, KEY = new_key(bytes(range(RANDOM_BYTES)), tenant="alice", now=NOW)

words = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=20)
times = st.integers(0, LAST_TIME)
limit = st.none() | st.integers(1, MOST)
keys = st.builds(
    Key,
    id=st.from_regex(r"[0-9a-f]{16}", fullmatch=True),
    hash=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    tenant=words,
    created_at=times,
    name=st.just("") | words,
    expires_at=st.none() | times,
    revoked_at=st.none() | times,
    models=st.lists(
        st.builds("{}{}".format, words.map(lambda name: name.replace("*", "+")), st.just("*"))
        | st.just("*")
    ).map(tuple),
    classes=st.lists(st.sampled_from(Class)).map(tuple),
    admin=st.booleans(),
    limits=st.builds(Limits, limit, limit, limit, limit, limit),
)
keyrings = st.lists(keys, max_size=4, unique_by=lambda key: key.id).map(Keyring)


@given(st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_a_new_key_is_found_by_its_text_and_by_nothing_else(random: bytes) -> None:
    """The text goes unchanged through a header, and a WebSocket subprotocol (RFC 9110's token);
    neither the key nor its file holds the secret."""
    text, key = new_key(random, tenant="alice", now=NOW + 0.5)
    assert re.fullmatch(r"[A-Za-z0-9_-]{64,128}", text)
    parsed = parse(text)
    assert parsed is not None
    assert parsed[0] == key.id
    assert matches(key, parsed[1])
    keyring = Keyring([key])
    assert keyring.find(text, NOW) is key
    assert keyring.find(text[:-1] + ("A" if text[-1] != "A" else "B"), NOW) is None
    assert keyring.find(text.replace(key.id, "f" * 16), NOW) is None or key.id == "f" * 16
    assert parsed[1] not in repr(key)
    assert parsed[1].encode() not in dump(keyring)
    assert key.hash not in repr(key)


def test_a_key_of_random_bytes_is_always_the_same() -> None:
    """SHA-256 of the secret's text, which other programs can compute."""
    assert TEXT == "hub_0001020304050607_CAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJic"
    assert KEY.id == "0001020304050607"
    assert KEY.hash == "cdc70b1db2b0b1b983705de0030a928a1c1e5cf15845da378dc6aad7040eb4a7"


@given(
    st.text()
    | st.text().map(lambda text: f"hub_{'0' * 16}_{text}")
    | st.builds("hub_{}_{}".format, st.text(max_size=20), st.text("aZ_-=", max_size=50))
)
def test_any_text_is_a_key_or_none(text: str) -> None:
    """Also lone surrogates, of bytes in a header that are no UTF-8."""
    assert parse(text) is None or len(text) == 4 + 16 + 1 + 43
    assert Keyring([KEY]).find(text + "\udcff", NOW) is None


@pytest.mark.parametrize("change", [f" {TEXT}", f"{TEXT}\n", TEXT.upper(), TEXT[4:], "", "hub__"])
def test_what_is_no_key(change: str) -> None:
    """A key is taken as it was given out."""
    assert parse(change) is None


def test_an_unknown_key_is_compared_as_a_known_one_is() -> None:
    """And nothing matches what it is compared with."""
    assert Keyring().find(TEXT, NOW) is None
    assert Keyring().find(TEXT.replace(KEY.id, "0" * 16), NOW) is None
    assert Keyring([KEY]).find(TEXT.replace(KEY.id, "0" * 16), NOW) is None


@pytest.mark.parametrize(
    ("changes", "now", "state"),
    [
        ({}, 0, "active"),
        ({}, LAST_TIME, "active"),
        ({"expires_at": NOW}, NOW - 0.001, "active"),
        ({"expires_at": NOW}, NOW, "expired"),
        ({"revoked_at": NOW}, NOW - 1, "revoked"),
        ({"revoked_at": NOW, "expires_at": NOW - 9}, NOW, "revoked"),
    ],
)
def test_only_an_active_key_is_found(changes: dict[str, int], now: float, state: str) -> None:
    """From the second of its expiry on it is not; once revoked never again."""
    key = replace(KEY, **changes)  # type: ignore[arg-type]
    assert key.state(now) == state
    assert Keyring([key]).find(TEXT, now) == (key if state == "active" else None)


@pytest.mark.parametrize(
    ("models", "name", "allowed"),
    [
        ((), "anything", True),
        (("a", "b"), "b", True),
        (("a", "b"), "ab", False),
        (("a",), "A", False),
        (("llama-*",), "llama-3", True),
        (("llama-*",), "llama-", True),
        (("llama-*",), "llama", False),
        (("*",), "", True),
        (("a",), "", False),
    ],
)
def test_the_models_of_a_key(models: tuple[str, ...], name: str, allowed: bool) -> None:
    """None named is all; a star stands for any rest."""
    assert replace(KEY, models=models).allows_model(name) is allowed


def test_the_classes_of_a_key() -> None:
    """None named is all."""
    assert all(KEY.allows_class(rank) for rank in Class)
    key = replace(KEY, classes=(Class.CHAT,))
    assert [rank for rank in Class if key.allows_class(rank)] == [Class.CHAT]


@given(keyrings)
def test_a_keyring_is_the_same_after_json(keyring: Keyring) -> None:
    """All fields of all keys, in their order."""
    assert load(dump(keyring)).keys == keyring.keys


def test_what_is_as_by_default_is_left_out() -> None:
    """The file is for people to read, too."""
    assert form_of(KEY).keys() == {"id", "hash", "tenant", "created_at"}
    assert dump(Keyring()) == b'{\n  "version": 1,\n  "keys": []\n}\n'


JSON = dump(Keyring([KEY])).decode()


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ('"colour": 1', "the field 'colour' is unknown"),
        ('"limits": {"per_day": 1}', "the field 'per_day' is unknown"),
        ('"limits": {"queued": 0}', "'queued' must be a whole number from 1 to"),
        ('"limits": {"queued": true}', "'queued' must be a whole number from 1 to"),
        ('"limits": {"sockets": 1e12}', "'sockets' must be a whole number from 1 to"),
        ('"limits": 3', "'limits' must be an object"),
        ('"limits": null', "'limits' must be an object"),
        ('"tenant": ""', "'tenant' must be 1 to 128 printable characters"),
        ('"tenant": "a\\nb"', "'tenant' must be 1 to 128 printable characters"),
        ('"tenant": 7', "'tenant' must be 1 to 128 printable characters"),
        ('"name": "\\u001b[2J"', "'name' must be up to 128 printable characters"),
        ('"created_at": -1', "'created_at' must be a Unix time in whole seconds"),
        ('"created_at": 1e3', "'created_at' must be a Unix time in whole seconds"),
        ('"expires_at": "soon"', "'expires_at' must be a Unix time in whole seconds"),
        ('"revoked_at": false', "'revoked_at' must be a Unix time in whole seconds"),
        ('"models": "a"', "'models' must be names of models, which may end in *"),
        ('"models": ["a*b"]', "'models' must be names of models, which may end in *"),
        ('"models": [""]', "'models' must be names of models, which may end in *"),
        ('"models": [[]]', "'models' must be names of models, which may end in *"),
        ('"classes": ["vip"]', "'classes' must be some of completion, chat, background"),
        ('"classes": [{}]', "'classes' must be some of completion, chat, background"),
        ('"classes": [1]', "'classes' must be some of completion, chat, background"),
        ('"admin": 1', "'admin' must be true or false"),
        ('"hash": "00"', "'hash' must be 64 hexadecimal digits"),
        ('"hash": null', "'hash' must be 64 hexadecimal digits"),
    ],
)
def test_a_field_that_is_wrong_is_named_with_its_key(field: str, why: str) -> None:
    """Whoever wrote the file finds it; the hash is not repeated."""
    # Of a name that is there twice the last one counts.
    wrong = JSON.replace("    }\n", f", {field}    }}\n")
    with pytest.raises(ValueError, match=re.escape(f"key {KEY.id}: {why}")) as caught:
        load(wrong.encode())
    assert KEY.hash not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b"[" * 5000, "it is not JSON"),
        (b"[]", "no object with the 'version' 1"),
        (b"{}", "no object with the 'version' 1"),
        (b'{"version": 2, "keys": []}', "no object with the 'version' 1"),
        (b'{"version": 1}', "'keys' must be a list"),
        (b'{"version": 1, "keys": {}}', "'keys' must be a list"),
        (b'{"version": 1, "keys": [], "admin": 1}', "the field 'admin' is unknown"),
        (b'{"version": 1, "keys": [7]}', "key number 1 is no object"),
        (b'{"version": 1, "keys": [{}]}', "key number 1: 'id' is missing"),
        (JSON.replace(KEY.id, KEY.hash).encode(), "key number 1: 'id' must be 16 hexadecimal"),
        (JSON.replace('"hash"', '"hush"').encode(), f"key {KEY.id}: the field 'hush' is unknown"),
        (JSON.replace('"hash":', f'"{KEY.hash}":').encode(), "is unknown"),
    ],
)
def test_a_file_that_is_wrong_is_told_why(data: bytes, why: str) -> None:
    """Never with a hash, also where one stands at the wrong place."""
    with pytest.raises(ValueError, match=why) as caught:
        load(data)
    assert KEY.hash not in str(caught.value)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@given(
    st.dictionaries(
        st.sampled_from([*Key.__dataclass_fields__, "other"]),
        anything | st.dictionaries(st.sampled_from([*Limits.__dataclass_fields__]), scalars),
    )
)
def test_any_json_is_a_keyring_or_a_value_error(changes: dict[str, object]) -> None:
    """What ``Key`` takes of it is kept as it was."""
    try:
        data = orjson.dumps({"version": 1, "keys": [form_of(KEY) | changes]})
    except TypeError:  # integers of more than 64 bits, surrogates
        return
    try:
        keyring = load(data)
    except ValueError:
        return
    assert load(dump(keyring)).keys == keyring.keys


def test_an_id_is_there_once() -> None:
    """Which of two would count nobody could tell."""
    with pytest.raises(ValueError, match=f"key {KEY.id} is there twice"):
        Keyring([KEY]).added(replace(KEY, tenant="bob"))
    with pytest.raises(ValueError, match=f"key {KEY.id} is there twice"):
        load(orjson.dumps({"version": 1, "keys": [form_of(KEY), form_of(KEY)]}))


def test_a_keyring_is_changed_by_making_another() -> None:
    """A revoked key stays in it, with the time of its first revocation, and in its place."""
    other = replace(KEY, id="f" * 16)
    before = Keyring([KEY]).added(other)
    after = before.revoked(KEY.id, NOW + 1.9)
    assert before.keys == (KEY, other)
    assert after.keys == (replace(KEY, revoked_at=NOW + 1), other)
    assert after.revoked(KEY.id, NOW + 5).keys == after.keys
    assert before.find(TEXT, NOW) is KEY
    assert after.find(TEXT, NOW) is None
    assert after.get(KEY.id) == after.keys[0]
    assert after.get("") is None
    with pytest.raises(KeyError):
        before.revoked("0" * 16, NOW)


def test_a_keyring_of_revoked_keys_is_not_empty() -> None:
    """It lets nobody in; an empty one means that there are no keys yet."""
    assert Keyring().empty
    assert not Keyring([KEY]).revoked(KEY.id, NOW).empty
