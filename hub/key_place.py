"""Where the keyring is: in a file, or in Redis. A place is a path or a URL."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hub import key_file, key_redis
from hub.config import Settings
from hub.keys import Keyring, WatchedKeys


def place_of(settings: Settings) -> str:
    """Where the settings have it: where ``keys`` says; else in the store, if nodes share that; else
    in the file beside the default store. Raises ``ValueError`` if a URL is none of Redis."""
    if settings.keys:
        url = replace(settings, store=settings.keys).shared_store
    else:
        url = settings.shared_store
    return url or str(settings.keys_file)


def named(place: str) -> str:
    """The place for people, without secrets."""
    return key_redis.named(place) if _is_url(place) else place


def load(place: str) -> Keyring:
    """The keyring that is there; an empty one if there is none. Raises ``KeysError``."""
    return key_redis.load(place) if _is_url(place) else key_file.load(Path(place))


def update(place: str, change: Callable[[Keyring], Keyring]) -> Keyring:
    """Change the keyring that is there, or make one, and return it. What ``change`` raises leaves
    it as it is; it may be called more than once. Raises ``KeysError``."""
    if _is_url(place):
        return key_redis.update(place, change)
    return key_file.update(Path(place), change)


def watch(place: str) -> WatchedKeys:
    """A keyring that follows what is there. Raises ``KeysError``."""
    return key_redis.Watched(place) if _is_url(place) else key_file.Watched(Path(place))


def _is_url(place: str) -> bool:
    return "://" in place
