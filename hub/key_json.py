"""A keyring as JSON. Pure.

    {"version": 1, "keys": [{"id": …, "hash": …, "tenant": …, "created_at": …, …}]}

A key's fields are those of ``Key`` and ``Limits``; those that are as by default are left out. An
unknown field is an error, not a later version's: to go on without a limit that somebody has set
would be worse than to stop.
"""

from collections.abc import Iterable
from dataclasses import MISSING, fields
from typing import Any

import orjson

from hub.dispatch.terms import Class
from hub.keys import Key, Keyring, Limits, is_id

VERSION = 1
_LONGEST_NAME = 32
_CLASSES = {rank.label: rank for rank in Class}
_KEY = {spec.name: spec for spec in fields(Key)}
_LIMITS = {spec.name: spec for spec in fields(Limits)}


def dump(keyring: Keyring) -> bytes:
    """``load`` makes the same keyring of it."""
    form = {"version": VERSION, "keys": [form_of(key) for key in keyring.keys]}
    return orjson.dumps(form, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def load(data: bytes) -> Keyring:
    """Raises ``ValueError`` that names the key, by its id, and the field; no hash is repeated."""
    try:
        form = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(form, dict) or form.get("version") != VERSION:
        raise ValueError(f"it is no object with the 'version' {VERSION}")
    _check_names(form, ("version", "keys"))
    keys = form.get("keys")
    if not isinstance(keys, list):
        raise ValueError("'keys' must be a list")
    return Keyring(_key(one, number) for number, one in enumerate(keys, 1))


def form_of(key: Key) -> dict[str, Any]:
    """The JSON object of one key."""
    form = {
        name: getattr(key, name)
        for name, spec in _KEY.items()
        if getattr(key, name) != spec.default
    }
    if key.classes:
        form["classes"] = [rank.label for rank in key.classes]
    if "limits" in form:
        limits = {name: getattr(key.limits, name) for name in _LIMITS}
        form["limits"] = {name: limit for name, limit in limits.items() if limit is not None}
    return form


def _key(form: Any, number: int) -> Key:
    if not isinstance(form, dict):
        raise ValueError(f"key number {number} is no object")
    id = form.get("id")
    try:
        return _read(form)
    except ValueError as error:
        whose = f"key {id}" if is_id(id) else f"key number {number}"
        raise ValueError(f"{whose}: {error}") from None


def _read(form: dict[str, Any]) -> Key:
    _check_names(form, _KEY)
    for name, spec in _KEY.items():
        if name not in form and spec.default is MISSING:
            raise ValueError(f"'{name}' is missing")
    # What has the wrong type stays as it is, for ``Key`` to refuse.
    values = dict(form)
    for name in ("models", "classes"):
        if isinstance(form.get(name), list):
            values[name] = tuple(form[name])
    if isinstance(values.get("classes"), tuple):
        values["classes"] = tuple(
            _CLASSES.get(one) if isinstance(one, str) else None for one in values["classes"]
        )
    if isinstance(form.get("limits"), dict):
        _check_names(form["limits"], _LIMITS)
        values["limits"] = Limits(**form["limits"])
    return Key(**values)


def _check_names(form: dict[str, Any], known: Iterable[str]) -> None:
    for name in form:
        if name not in known:
            raise ValueError(f"the field {name[:_LONGEST_NAME]!r} is unknown")
