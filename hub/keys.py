"""API keys: what one is, what it allows, and how it is recognised. Pure.

    hub_4f1c9e0b7a2d6358_Jq…                the text that a client sends
        └── id ────────┘ └── secret

The id is public: it names the key in lists, in the log and in the file. The secret has 256 random
bits, and only its SHA-256 is kept: so many bits cannot be guessed from a fast hash either, and a
slow one would be paid at every request. A key belongs to a tenant, whose responses it may use;
several keys may have one tenant.
"""

from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from hashlib import sha256
from hmac import compare_digest
from re import compile
from typing import Any, Literal, Protocol

from hub.dispatch.terms import Class

State = Literal["active", "expired", "revoked"]

ID_BYTES = 8
SECRET_BYTES = 32
RANDOM_BYTES = ID_BYTES + SECRET_BYTES
"""What ``new_key`` needs."""
MOST = 10**12
"""The largest limit."""
LAST_TIME = 253_402_300_799
"""The end of the year 9999."""


class KeysError(Exception):
    """Why keys cannot be read or written, in a sentence for whoever runs hub."""


_ID = compile(r"[0-9a-f]{16}")
_HASH = compile(r"[0-9a-f]{64}")
_TEXT = compile(r"hub_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")


def is_id(value: object) -> bool:
    """Whether it can be a key's id."""
    return isinstance(value, str) and bool(_ID.fullmatch(value))


def _is_whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_words(value: object, least: int, most: int) -> bool:
    return isinstance(value, str) and value.isprintable() and least <= len(value) <= most


def _is_time(value: object) -> bool:
    return _is_whole(value, 0, LAST_TIME)


def _is_model(value: object) -> bool:
    return _is_words(value, 1, 256) and "*" not in str(value)[:-1]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a key may use; ``None`` for as much as there is. Raises ``ValueError`` for a limit
    that is no whole number from 1 to ``MOST``."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    """Responses in hand at a time."""
    queued: int | None = None
    """Most of its requests that wait."""
    sockets: int | None = None
    """WebSockets at a time."""

    def __post_init__(self) -> None:
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value is not None and not _is_whole(value, 1, MOST):
                raise ValueError(f"'{spec.name}' must be a whole number from 1 to {MOST}")


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Key:
    """One key, as hub keeps it. Times are Unix times in whole seconds. Raises ``ValueError`` that
    names the field which cannot be so."""

    id: str
    hash: str = field(repr=False)
    """SHA-256 of the secret, in hexadecimal digits."""
    tenant: str
    created_at: int
    name: str = ""
    """For people."""
    expires_at: int | None = None
    """From when on it is refused."""
    revoked_at: int | None = None
    models: tuple[str, ...] = ()
    """The models that it may ask, by the names that clients use, or how they begin, with ``*``
    behind it; empty for all."""
    classes: tuple[Class, ...] = ()
    """The classes that its requests may be of; empty for all."""
    admin: bool = False
    """Whether it may see what concerns other tenants: all of ``/health``, ``/metrics``, the
    laboratory's settings."""
    limits: Limits = UNLIMITED

    def __post_init__(self) -> None:
        for name, (valid, words) in _FIELDS.items():
            if not valid(getattr(self, name)):
                raise ValueError(f"'{name}' must be {words}")

    def state(self, now: float) -> State:
        """Only an active key is good for anything. What is revoked stays so, whatever the clock
        says."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "active"

    def allows_model(self, name: str) -> bool:
        """Whether it may ask the model. Where a request names none, ask for the one that would
        answer."""
        return not self.models or any(
            name.startswith(one[:-1]) if one.endswith("*") else name == one for one in self.models
        )

    def allows_class(self, rank: Class) -> bool:
        """Whether its requests may be of the class."""
        return not self.classes or rank in self.classes


_TIME = "a Unix time in whole seconds"
_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "id": (is_id, "16 hexadecimal digits"),
    "hash": (
        lambda value: isinstance(value, str) and bool(_HASH.fullmatch(value)),
        "64 hexadecimal digits",
    ),
    "tenant": (lambda value: _is_words(value, 1, 128), "1 to 128 printable characters"),
    "created_at": (_is_time, _TIME),
    "name": (lambda value: _is_words(value, 0, 128), "up to 128 printable characters"),
    "expires_at": (lambda value: value is None or _is_time(value), _TIME),
    "revoked_at": (lambda value: value is None or _is_time(value), _TIME),
    "models": (
        lambda value: isinstance(value, tuple) and all(map(_is_model, value)),
        "names of models, which may end in *",
    ),
    "classes": (
        lambda value: isinstance(value, tuple) and all(isinstance(one, Class) for one in value),
        f"some of {', '.join(rank.label for rank in Class)}",
    ),
    "admin": (lambda value: isinstance(value, bool), "true or false"),
    "limits": (lambda value: isinstance(value, Limits), "an object"),
}
"""Field -> whether a value is valid, and what a valid one is."""


def new_key(random: bytes, *, tenant: str, now: float, **particulars: Any) -> tuple[str, Key]:
    """A key's text, which is to be shown to its owner once, and the key, which is to be kept.

    ``random`` is ``RANDOM_BYTES`` bytes of ``secrets.token_bytes`` that are used for nothing else;
    ``particulars`` are further fields of ``Key``. Raises ``ValueError``, as ``Key`` does.
    """
    assert len(random) == RANDOM_BYTES, "a key needs all of its random bytes"
    id = random[:ID_BYTES].hex()
    secret = urlsafe_b64encode(random[ID_BYTES:]).rstrip(b"=").decode()
    key = Key(id, _hash(secret), tenant, int(now), **particulars)
    return f"hub_{id}_{secret}", key


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret in a key's text; ``None`` if it is not one."""
    found = _TEXT.fullmatch(text)
    return None if found is None else (found[1], found[2])


def matches(key: Key, secret: str) -> bool:
    """Whether it is the key's secret. The time that it takes does not depend on the key."""
    return compare_digest(_hash(secret), key.hash)


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


_NOBODY = Key("0" * 16, "0" * 64, "nobody", 0, revoked_at=0)
"""What the secret of an unknown id is compared with, so that time does not tell who is known."""


class Keyring:
    """Keys by their ids. It never changes: what changes it gives another. Raises ``ValueError`` if
    an id is there twice."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys: dict[str, Key] = {}
        for key in keys:
            if key.id in self._keys:
                raise ValueError(f"key {key.id} is there twice")
            self._keys[key.id] = key

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys, also those that are good for nothing any more, in the order of creation."""
        return tuple(self._keys.values())

    @property
    def empty(self) -> bool:
        """Whether there never was a key. One whose keys are all revoked is not empty: it lets
        nobody in."""
        return not self._keys

    def get(self, id: str) -> Key | None:
        """The key with this id, in any state: ask for its ``state``."""
        return self._keys.get(id)

    def find(self, text: str, now: float) -> Key | None:
        """The key that a client has shown; ``None`` if it is unknown, wrong, expired or revoked,
        and a client is not told which."""
        parsed = parse(text)
        if parsed is None:
            return None
        id, secret = parsed
        key = self._keys.get(id, _NOBODY)
        return key if matches(key, secret) and key.state(now) == "active" else None

    def added(self, key: Key) -> "Keyring":
        """A keyring with one more. Raises ``ValueError`` if its id is taken."""
        return Keyring([*self.keys, key])

    def revoked(self, id: str, now: float) -> "Keyring":
        """A keyring in which the key is revoked, since now or since earlier. Raises ``KeyError``
        if it is unknown."""
        key = self._keys[id]
        if key.revoked_at is not None:
            return self
        revoked = replace(key, revoked_at=int(now))
        return Keyring([revoked if one is key else one for one in self.keys])


class WatchedKeys(Protocol):
    """A keyring that follows the place where it is kept.

    Whatever happens to that, the keys of before stay, until there are others that can be read.
    """

    @property
    def keyring(self) -> Keyring:
        """As it was read last."""
        ...

    def changed(self) -> Keyring | None:
        """The keyring, if it is another one since the last time. Ask once a second, in a thread."""
        ...
