"""Where the settings come from: the command line, the environment, and a file.

A field of ``Settings`` is one option: ``--flush-interval`` on the command line,
``HUB_FLUSH_INTERVAL`` in the environment, ``flush_interval`` in a TOML file; the first of these
that is there wins, then the default. click checks each value and names the option in its error.
"""

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hub.config import Settings

_READ = (
    ("--upstream", "upstreams"),
    ("--rule", "rules"),
    ("--fim", "ways"),
    ("--store", "shared_store"),
)
"""Options whose texts are read further, and the properties that do that."""


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command with an option per field, and ``--config``."""
    for spec in reversed(dataclasses.fields(Settings)):
        default = None if spec.default is dataclasses.MISSING else spec.default
        command = click.option(
            f"--{spec.name.replace('_', '-')}",
            default=default,
            envvar=f"HUB_{spec.name.upper()}",
            show_envvar=False,
            show_default=default not in (None, (), "") and default is not False,
            help=spec.metadata["help"],
            **spec.metadata["click"],
        )(command)
    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        envvar="HUB_CONFIG",
        is_eager=True,
        expose_value=False,
        callback=_load,
        help="TOML file with settings, named as the options are, with underscores.",
    )(command)


def _load(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Make a TOML file's settings the defaults of the options."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{path} is not valid TOML: {error}", param=option) from None
    known = {spec.name for spec in dataclasses.fields(Settings)}
    for name in values:
        if name not in known:
            raise click.BadParameter(f"{path} has an unknown setting '{name}'", param=option)
    context.default_map = values


def from_options(values: dict[str, Any]) -> Settings:
    """The settings that click has read and checked. Raises ``click.BadParameter``."""
    for pair in values["model_map"]:
        if not all(pair.partition("=")):
            raise click.BadParameter(
                f"'{pair}' is not NAME=UPSTREAM_NAME", param_hint="'--model-map'"
            )
    key = (values["upstream_key"] or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise click.BadParameter(
            "a key has printable ASCII characters only", param_hint="'--upstream-key'"
        )
    if values["upstream"] and values["sim"]:
        raise click.UsageError("'--upstream' and '--sim' exclude each other.")
    settings = Settings(**values)
    for option, name in _READ:
        try:
            getattr(settings, name)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint=f"'{option}'") from None
    if settings.workers > 1 and settings.shared_store is None:
        raise click.UsageError(
            "'--workers' needs a store that processes can share: --store redis://…"
        )
    return settings
