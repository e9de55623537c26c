"""What a process of hub is: its event loop, the signals that it obeys, how it collects garbage."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import click

T = TypeVar("T")


async def listen(start: Callable[[], Coroutine[Any, Any, T]], host: str, port: int) -> T:
    """Start what listens there. Raises ``click.ClickException`` if it cannot."""
    try:
        return await start()
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port} (--host, --port): {error.strerror}."
        ) from None


def signals(*, reload: bool = True, replace: bool = False) -> asyncio.Queue[int]:
    """A queue of the signals to stop, to ``reload`` or to ``replace``, that arrive from now on.

    In a terminal SIGHUP means that it was closed, and stops.
    """
    loop = asyncio.get_running_loop()
    # Unbounded: it is filled by whoever may kill the process anyway.
    arrived: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, arrived.put_nowait, number)
    hangup = signal.SIGHUP if reload and not sys.stdin.isatty() else signal.SIGTERM
    loop.add_signal_handler(signal.SIGHUP, arrived.put_nowait, hangup)
    if replace:
        loop.add_signal_handler(signal.SIGUSR2, arrived.put_nowait, signal.SIGUSR2)
    return arrived


def spare_the_collector() -> None:
    """Make the garbage collector's pauses short: what was loaded so far is looked at no more, and
    all that lives is looked at rarely.

    By default one request of 20,000 items caused a full collection or more, of 60 ms each. Nothing
    waits for the collector: an ended response is no circle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 5, 100)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where it is installed, on asyncio's own loop otherwise."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if sys.platform != "win32":
        try:
            import uvloop
        except ImportError:
            logging.getLogger("hub").info("uvloop is not installed: running on asyncio's loop")
        else:
            factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
