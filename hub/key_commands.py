"""``hub keys``: create, list and revoke API keys."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from functools import wraps
from math import isnan
from typing import Any

import click
import orjson

from hub.config import Settings
from hub.dispatch.terms import Class
from hub.key_json import form_of
from hub.key_place import load, named, place_of, update
from hub.keys import RANDOM_BYTES, Key, KeysError, Limits, new_key, parse

_CLASSES = {rank.label: rank for rank in Class}
_LIMIT = click.IntRange(min=1)
_WORDS = {
    "requests_per_minute": "requests/min",
    "tokens_per_minute": "tokens/min",
    "concurrent": "at a time",
    "queued": "waiting",
    "sockets": "sockets",
}
"""Limit -> what a list calls it."""


def _placed(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with the options that say where the keys are; it is told the ``place``."""

    @click.option(
        "--keys",
        envvar="HUB_KEYS",
        metavar="PLACE",
        help="Where the keys are: a file, or redis://HOST:PORT/0. Default: in the store, if that "
        "is in Redis; else $XDG_DATA_HOME/hub/keys.json or ~/.local/share/hub/keys.json.",
    )
    @click.option(
        "--store",
        envvar="HUB_STORE",
        metavar="PLACE",
        help="The store, as hub serve was told it.",
    )
    @wraps(command)
    def run(*, keys: str | None, store: str | None, **values: Any) -> None:
        try:
            place = place_of(Settings(keys=keys or None, store=store or ""))
        except ValueError as error:
            hint = "'--keys'" if keys else "'--store'"
            raise click.BadParameter(str(error), param_hint=hint) from None
        command(place=place, **values)

    return run


@click.group()
def keys() -> None:
    """API keys of hub: who may use it, and how much.

    A running hub goes by a change within a second or two; of several that share a store in Redis,
    all do. The options --keys and --store can also be set as HUB_KEYS and HUB_STORE.
    """


def _limits(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command with an option per limit."""
    texts = {
        "requests_per_minute": "Most requests per minute.",
        "tokens_per_minute": "Most tokens per minute, of prompts and answers.",
        "concurrent": "Most responses at a time.",
        "queued": "Most of its requests that wait.",
        "sockets": "Most WebSockets at a time.",
    }
    for spec in reversed(fields(Limits)):
        name = f"--{spec.name.replace('_', '-')}"
        command = click.option(name, type=_LIMIT, metavar="N", help=texts[spec.name])(command)
    return command


@keys.command()
@_placed
@click.option("--tenant", required=True, help="To whom it belongs, and whose responses it sees.")
@click.option("--name", default="", help="What it is for, for people.")
@click.option(
    "--models", default="", metavar="A,B*", help="The models that it may ask. Default: all."
)
@click.option(
    "--classes",
    default="",
    metavar="A,B",
    help=f"The classes of its requests ({', '.join(_CLASSES)}). Default: all.",
)
@_limits
@click.option(
    "--expires",
    type=click.FloatRange(0, 36500, min_open=True),
    metavar="DAYS",
    help="When it ends. Default: never.",
)
@click.option(
    "--admin", is_flag=True, help="It may see what concerns others: /metrics, all of /health."
)
def create(
    place: str,
    tenant: str,
    name: str,
    models: str,
    classes: str,
    expires: float | None,
    admin: bool,
    **limits: int | None,
) -> None:
    """Create a key and print it, this once: hub keeps only its hash.

    KEY=$(hub keys create --tenant alice)
    """
    now = time.time()
    try:
        text, key = new_key(
            secrets.token_bytes(RANDOM_BYTES),
            tenant=tenant,
            now=now,
            name=name,
            expires_at=_end(now, expires),
            models=tuple(_listed(models)),
            classes=tuple(_ranks(classes)),
            admin=admin,
            limits=Limits(**limits),
        )
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    _trying(lambda: update(place, lambda keyring: keyring.added(key)))
    click.echo(
        f"Key {key.id} of tenant '{tenant}' is in {named(place)}. "
        "Nobody can show it again: keep it now.\n"
        "Send it as the header 'Authorization: Bearer KEY', or give it to an SDK as its api_key.",
        err=True,
    )
    click.echo(text)


@keys.command("list")
@_placed
@click.option("--json", "as_json", is_flag=True, help="One JSON array.")
def list_(place: str, as_json: bool) -> None:
    """List all keys, also those that have expired or were revoked."""
    now = time.time()
    found = _trying(lambda: load(place)).keys
    if as_json:
        forms = [form_of(key) | {"state": key.state(now)} for key in found]
        for form in forms:
            del form["hash"]
        click.echo(orjson.dumps(forms, option=orjson.OPT_INDENT_2))
        return
    if not found:
        click.echo(f"There are no keys in {named(place)}.", err=True)
        return
    rows: list[tuple[str, ...]] = [
        ("ID", "TENANT", "NAME", "CREATED", "EXPIRES", "STATE", "LIMITS")
    ]
    rows += [_row(key, now) for key in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@keys.command()
@_placed
@click.argument("id")
def revoke(place: str, id: str) -> None:
    """Revoke the key with this ID: it lets nobody in any more."""
    # Who has found a key somewhere has no id. It is not repeated.
    id = parsed[0] if (parsed := parse(id)) else id
    try:
        _trying(lambda: update(place, lambda keyring: keyring.revoked(id, time.time())))
    except KeyError:
        raise click.ClickException(
            f"There is no such key in {named(place)}. 'hub keys list' lists them."
        ) from None
    click.echo(f"Key {id} is revoked.", err=True)


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",")] if text else []


def _ranks(text: str) -> list[Class]:
    labels = _listed(text)
    for label in labels:
        if label not in _CLASSES:
            raise click.BadParameter(
                f"'{label}' is none of {', '.join(_CLASSES)}", param_hint="'--classes'"
            )
    return [_CLASSES[label] for label in labels]


def _end(now: float, days: float | None) -> int | None:
    if days is None:
        return None
    if isnan(days):  # It is in any range.
        raise click.BadParameter("'nan' is no number", param_hint="'--expires'")
    return int(now + days * 86400)


def _trying(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except KeysError as error:
        raise click.ClickException(str(error)) from None


def _row(key: Key, now: float) -> tuple[str, ...]:
    expires = "never" if key.expires_at is None else _day(key.expires_at)
    return (
        key.id,
        key.tenant,
        key.name,
        _day(key.created_at),
        expires,
        key.state(now),
        ", ".join(_allowed(key)) or "none",
    )


def _allowed(key: Key) -> Sequence[str]:
    """What sets a key apart from one that may do as it likes."""
    limits = ((getattr(key.limits, name), words) for name, words in _WORDS.items())
    return [
        *(["admin"] if key.admin else []),
        *key.models,
        *(rank.label for rank in key.classes),
        *(f"{limit:,} {words}" for limit, words in limits if limit is not None),
    ]


def _day(when: int) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%d")
