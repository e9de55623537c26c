"""The keyring in Redis, for nodes that share a store: one string, replaced as a whole, and watched.

It is the JSON of ``hub.key_json``, at ``hub:keyring``. Whoever may write there can let himself in:
who that is, is Redis's business (passwords, its ACL, TLS). Commands that change it at the same time
are made one after another (WATCH, MULTI): whoever was too late does it again.

The client is needed only here and by the store, and is no part of hub's own requirements.
"""

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from hub.key_json import dump
from hub.key_json import load as parse
from hub.keys import Keyring, KeysError

logger = logging.getLogger("hub.keys")

NAME = "hub:keyring"
TIMEOUT = 2.0
"""Seconds that Redis may take to answer."""
TRIES = 100
"""Times that a change is made again, because others were faster."""


def load(url: str) -> Keyring:
    """The keyring that is there; an empty one if there is none. Raises ``KeysError``."""
    with _Redis(url) as redis:
        return redis.read() or Keyring()


def update(url: str, change: Callable[[Keyring], Keyring]) -> Keyring:
    """Change the keyring that is there, which is made if it is missing, and return it.

    Of several that do so at the same time, each changes what the one before has left: ``change``
    may be called again. What it raises leaves everything as it is. Raises ``KeysError``.
    """
    with _Redis(url) as redis:
        return redis.update(change)


class _Away(KeysError):
    """Redis is out of reach, or refuses. How it says so differs from time to time."""


class Watched:
    """A keyring that follows what is in Redis: ``WatchedKeys``."""

    def __init__(self, url: str) -> None:
        """Read it. Raises ``KeysError``."""
        self._redis = _Redis(url)
        self._complaint = ""
        found = self._redis.read()
        self._there = found is not None
        self.keyring = found or Keyring()
        """As it was read last."""

    def changed(self) -> Keyring | None:
        """The keyring, if it is another one since the last time. Ask in a thread: it waits for
        Redis, for ``TIMEOUT`` seconds, twice at most. What is wrong is logged once."""
        try:
            keyring = self._redis.read()
            if keyring is None and self._there:
                raise KeysError(f"The keys in {self._redis.place} have gone.")
        except KeysError as error:
            complaint = "away" if isinstance(error, _Away) else str(error)
            if complaint != self._complaint:
                logger.error("%s The keys of before stay.", error)
            self._complaint = complaint
            return None
        self._complaint = ""
        if keyring is None or keyring.keys == self.keyring.keys:
            return None
        self._there = True
        self.keyring = keyring
        return keyring

    def close(self) -> None:
        """Let go of the connection. Nobody asks any more."""
        self._redis.close()


class _Redis:
    """A connection that is made when it is needed, and again when it was lost."""

    def __init__(self, url: str) -> None:
        """Raises ``KeysError`` if it is no URL of Redis, or its client is missing."""
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError:
            raise KeysError(
                "Keys in Redis need its client: pip install 'hub-stream[redis]'"
            ) from None
        self.place = named(url)
        self._lost = redis.RedisError
        self._too_late = redis.WatchError
        try:
            # Any: its types leave open whether an answer has to be awaited.
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=TIMEOUT,
                socket_connect_timeout=TIMEOUT,
                # A connection that was lost meanwhile is noticed when it is used.
                retry=Retry(NoBackoff(), 1),
            )
            # Not connected: whether it has options that the client does not know.
            self._client.connection_pool.make_connection()
        except (TypeError, ValueError, redis.RedisError):
            # What it says may repeat a password.
            raise KeysError(f"The keys' place {self.place} is no URL of Redis.") from None

    def __enter__(self) -> "_Redis":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def read(self) -> Keyring | None:
        try:
            return self._parsed(self._client.get(NAME))
        except self._lost as error:
            raise _Away(f"The keys in {self.place} cannot be read: {error}") from None

    def update(self, change: Callable[[Keyring], Keyring]) -> Keyring:
        try:
            with self._client.pipeline() as together:
                for _ in range(TRIES):
                    together.watch(NAME)
                    keyring = change(self._parsed(together.get(NAME)) or Keyring())
                    together.multi()
                    together.set(NAME, dump(keyring))
                    try:
                        together.execute()
                    except self._too_late:
                        continue
                    return keyring
        except self._lost as error:
            raise KeysError(f"The keys in {self.place} cannot be changed: {error}") from None
        raise KeysError(f"The keys in {self.place} cannot be changed: others change them.")

    def _parsed(self, data: bytes | None) -> Keyring | None:
        if data is None:
            return None
        try:
            return parse(data)
        except ValueError as error:
            raise KeysError(f"The keys in {self.place} cannot be read: {error}.") from None


def named(url: str) -> str:
    """The address for people: without user, password and options."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{unquote(parts.path)}"
    try:
        port = parts.port or 6379
    except ValueError:
        port = 6379
    host = parts.hostname or "localhost"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}:{port}{parts.path or '/0'}"
