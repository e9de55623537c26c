"""How a command of ``hub bench`` runs: its loop, the line that tells how far it is, its files."""

import asyncio
import gc
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson

from hub.bench import report
from hub.bench.tally import Sofar

T = TypeVar("T")
Progress = Callable[[Sofar], None]

ERASE = "\r\x1b[K"
"""Back to the line's beginning, and clear it (ECMA-48: EL)."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed, with few pauses for the collector: they would look
    like the server's."""
    gc.set_threshold(50_000, 50, 50)
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop
    except ImportError:
        pass
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


@contextmanager
def live_line(title: str = "") -> Iterator[Progress | None]:
    """What rewrites one line of the terminal while a run goes on; ``None`` if stderr is none. The
    line is gone at the end."""
    if not sys.stderr.isatty():
        yield None
        return
    # A line that is as long as the terminal is wide would begin another one.
    columns = shutil.get_terminal_size().columns - 1

    def tell(far: Sofar) -> None:
        click.echo(ERASE + report.progress(far, title)[:columns], err=True, nl=False)

    try:
        yield tell
    finally:
        click.echo(ERASE, err=True, nl=False)


def write_json(file: Path | None, found: object) -> None:
    """Write figures, if there is a file to write to."""
    if file is not None:
        # nan, which means that there were no samples, becomes null.
        write(file, orjson.dumps(found, option=orjson.OPT_INDENT_2))


def write(file: Path, content: bytes) -> None:
    """Raises ``click.ClickException`` if the file cannot be written."""
    try:
        file.write_bytes(content)
    except OSError as error:
        raise click.ClickException(f"Cannot write {file}: {error.strerror}.") from None
