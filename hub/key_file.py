"""The keyring on disk: a JSON file that is replaced as a whole, and watched.

Whoever can change the file can let himself in, and so it is believed only if nobody but its owner
can, and others cannot read it. Its group may: a service often has its secrets through it. Commands
that change it wait for each other at a lock file beside it, since the file itself is another one
after each change.
"""

import logging
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hub.key_json import dump
from hub.key_json import load as parse
from hub.keys import Keyring, KeysError

logger = logging.getLogger("hub.keys")

_FORBIDDEN = stat.S_IWGRP | stat.S_IRWXO
_KEPT = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP


class KeyFileError(KeysError):
    """What is wrong with the file."""


def load(path: Path) -> Keyring:
    """The keyring in a file; an empty one if there is no file. Raises ``KeyFileError``."""
    try:
        return _read(path)
    except FileNotFoundError:
        return Keyring()


def save(path: Path, keyring: Keyring) -> None:
    """Replace the file: whenever the machine stops, it is the old one or the new one.

    Only its owner may read a new file; one that was there keeps its owner and group, so that a
    service goes on reading what an administrator changes. Raises ``OSError``. To change what is
    there use ``update``.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            _keep_owner(descriptor, path)
            file.write(dump(keyring))
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def update(path: Path, change: Callable[[Keyring], Keyring]) -> Keyring:
    """Change the keyring in a file, which is made if it is missing, and return it.

    Others that do the same at the same time wait. What ``change`` raises leaves the file as it is.
    Raises ``KeyFileError``.
    """
    # The file that a link names is replaced, not the link.
    path = path.resolve()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(lock, path)
            keyring = change(load(path))
            save(path, keyring)
            return keyring
        finally:
            os.close(lock)
    except OSError as error:
        raise KeyFileError(f"The keys in {path} cannot be changed: {error.strerror}.") from error


class Watched:
    """A keyring that follows its file.

    Whatever happens to the file, the keys that were read last stay, until there is a file that can
    be read: neither a slip of an editor nor a lost file lets anybody in, or everybody out.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ``KeyFileError``."""
        self._path = path
        self._seen = _mark(path)
        self._complaint = ""
        self.keyring = load(path)
        """As it was read last."""

    def changed(self) -> Keyring | None:
        """The keyring, if it is another one since the last time.

        Ask once a second, in a thread: it may wait for the disk. It costs one look at the file's
        times. What is wrong with the file is logged once.
        """
        mark = _mark(self._path)
        if mark == self._seen:
            return None
        try:
            keyring = _read(self._path)
        except (KeyFileError, FileNotFoundError) as error:
            complaint = str(error) if isinstance(error, KeyFileError) else f"{self._path} has gone."
            if complaint != self._complaint:
                logger.error("%s The keys of before stay.", complaint)
            # Not marked as seen: the reason may go without the file changing.
            self._complaint = complaint
            return None
        self._seen, self._complaint = mark, ""
        if keyring.keys == self.keyring.keys:
            return None
        self.keyring = keyring
        return keyring


def _read(path: Path) -> Keyring:
    """Raises ``KeyFileError``, or ``FileNotFoundError``."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if sys.platform != "win32" and mode & _FORBIDDEN:
                raise KeyFileError(
                    f"Others than its owner may read or change {path}: it is not believed. "
                    f"Look whether its keys are yours, then: chmod 600 {path}"
                )
            return parse(file.read())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise KeyFileError(f"The keys in {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise KeyFileError(f"The keys in {path} cannot be read: {error}.") from None


def _mark(path: Path) -> tuple[int, ...] | None:
    """What tells a file from what it was; ``None`` if it cannot be looked at.

    The time of the last change of its rights counts, too: that may be what was wrong with it.
    """
    with suppress(OSError):
        now = path.stat()
        return now.st_mtime_ns, now.st_ctime_ns, now.st_size, now.st_ino
    return None


def _keep_owner(file: int, path: Path) -> None:
    """Give the file the owner, the group and the rights of what is at ``path``, if it may be."""
    with suppress(FileNotFoundError, PermissionError):
        old = path.stat()
        os.fchown(file, old.st_uid, old.st_gid)
        os.fchmod(file, old.st_mode & _KEPT)


def _lock(file: int, path: Path) -> None:
    if sys.platform == "win32":
        raise KeyFileError(f"{path} cannot be locked on this system.")
    import fcntl  # There is none on Windows.

    fcntl.flock(file, fcntl.LOCK_EX)
