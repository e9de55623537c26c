"""The command line. The only place that sees every part."""

import asyncio
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import click
from aiohttp import web

from hub import __version__, exposure, logs
from hub.bench.commands import bench
from hub.chat import chat
from hub.config import Settings
from hub.dispatch.dispatcher import Dispatcher
from hub.engines import sim_server
from hub.engines.base import Engine
from hub.engines.sim import SimEngine
from hub.engines.sim_model import DEFAULT_PROFILE, PROFILES
from hub.errors import HubError
from hub.hub import Hub
from hub.key_commands import keys
from hub.key_file import KeyFileError, Watched
from hub.lsp.command import lsp
from hub.options import from_options, options
from hub.policy import Policy
from hub.server.app import Server
from hub.server.courier import Courier
from hub.server.door import Door
from hub.server.webhooks import Endpoint, deliveries_of, parse_endpoint
from hub.store.base import Store
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.upstreams import Upstreams, not_reloaded

logger = logging.getLogger("hub")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hub")
def main() -> None:
    """A streaming hub in front of OpenAI-compatible model servers.

    \b
    hub serve                                 serve, on a local model server or a simulated one
    hub serve --upstream http://host:8000/v1  serve, in front of this model server
    hub chat                                  chat in the terminal
    hub keys create --tenant NAME             an API key for this tenant
    hub lsp                                   complete code in an editor (a language server)
    hub sim                                   a simulated model server, for trials and tests
    """


class _Reloadable(click.Command):
    """A command that can read its settings again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["hub.args"] = [*args]
        return super().parse_args(ctx, args)


@main.command(cls=_Reloadable)
@options
def serve(**values: Any) -> None:
    """Serve chats: the page, the HTTP API and WebSocket lanes, on one port.

    Every option can also be set in the environment (HUB_PORT for --port) and in a TOML file
    (port = 8765); a flag wins over the environment, the environment over the file.

    On SIGHUP the file is read again: upstreams are added and drained, and the rules of the queue
    changed, without losing a request.
    """
    settings = from_options(values)
    logs.start(settings.log_level, settings.log_format)
    # How long the loop waits for the interpreter while a large request is parsed (``Parser``).
    sys.setswitchinterval(0.001)
    context = click.get_current_context()

    def again() -> Settings:
        with context.command.make_context("serve", [*context.meta["hub.args"]]) as fresh:
            return from_options(fresh.params)

    _run(_serve(settings, again))


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: a free one."
)
@click.option(
    "--profile",
    default=DEFAULT_PROFILE.name,
    show_default=True,
    type=click.Choice(sorted(PROFILES)),
    help="Whose timing to simulate.",
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Run this many times as fast.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of timing and texts.")
@click.option(
    "--faults", is_flag=True, help="Let requests ask for faults by their model's name (sim+hang)."
)
def sim(host: str, port: int, profile: str, speed: float, seed: int, faults: bool) -> None:
    """Serve the simulated engine as a model server of its own (Chat Completions over HTTP)."""
    logs.start("info", "text")
    engine = SimEngine(PROFILES[profile], speed=speed, seed=seed, faults=faults)
    _run(_simulate(engine, host, port))


main.add_command(bench)
main.add_command(chat)
main.add_command(keys)
main.add_command(lsp)


async def _serve(settings: Settings, again: Callable[[], Settings]) -> None:
    watched = _keys(settings)
    local, keyed = await exposure.is_loopback(settings.host), not watched.keyring.empty
    exposure.check(settings, local=local, keyed=keyed)
    exposure.more_files()
    sites = exposure.sites(settings, local=local, keyed=keyed)
    door = exposure.door(settings, local=local)
    upstreams = Upstreams(settings, click.echo)
    dispatcher = Dispatcher(await upstreams.open(), settings.rules)
    endpoints = _endpoints(settings)
    store = _store(settings)
    try:
        await store.start(time.time())
    except HubError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"Store: {store.place}.")
    courier = Courier(store, endpoints, allow_private=settings.webhook_private)
    hub = Hub(
        dispatcher,
        store,
        _policy(settings, await _default_model(dispatcher.upstreams[0].engine)),
        deliveries=lambda live: deliveries_of(
            endpoints, live.id, live.recorder.status, time.time()
        ),
        on_kept=courier.wake,
    )
    hub.on_ended.append(logs.ended)
    if settings.log_prompts:
        hub.on_ended.append(logs.texts)
    server = Server(
        hub,
        host=settings.host,
        port=settings.port,
        max_message=settings.max_message,
        connection_lifetime=settings.connection_lifetime * 60,
        lab=settings.lab,
        webhooks=courier.statistics,
        keys=watched,
        door=door,
        sites=sites,
    )
    _spare_the_collector()
    try:
        port = await _listen(server.start, settings.host, settings.port)
    except click.ClickException:
        await store.close()
        raise
    hub.start()
    courier.start()
    url = f"{'http' if door.tls is None else 'https'}://{settings.host}:{port}"
    click.echo(f"hub {__version__} serves {url} (page), {url}/v1 (API). Ctrl-C stops it.")
    signals = _signals()
    while await signals.get() == signal.SIGHUP:
        settings = await _reload(settings, again, upstreams, dispatcher, door)
    signals = _signals(reload=False)
    click.echo(f"Stopping: what runs has {settings.drain:g} s to end. Ctrl-C again to stop now.")
    stopping = asyncio.ensure_future(server.stop(settings.drain))
    impatient = asyncio.ensure_future(signals.get())
    await asyncio.wait((stopping, impatient), return_when=asyncio.FIRST_COMPLETED)
    if impatient.done():
        await dispatcher.close()
    impatient.cancel()
    await stopping
    await courier.stop()
    await store.close()
    for upstream in dispatcher.upstreams:
        await upstream.engine.close()


async def _reload(
    old: Settings,
    again: Callable[[], Settings],
    upstreams: Upstreams,
    dispatcher: Dispatcher,
    door: Door,
) -> Settings:
    """Read the settings again and go by them; if they are wrong, by the old ones."""
    try:
        new = again()
        await asyncio.to_thread(exposure.renew, door, new)
        await upstreams.reload(new, dispatcher)
    except click.ClickException as error:
        logger.error("the settings were not reloaded: %s", error.format_message())
        return old
    if names := not_reloaded(old, new):
        logger.warning("a restart is needed for: %s", ", ".join(names))
    click.echo("The settings were read again.")
    return new


def _policy(settings: Settings, default_model: str) -> Policy:
    return Policy(
        default_model=default_model,
        reasoning_events=settings.reasoning_events,
        grace=settings.grace,
        retention=settings.retention * 86400,
        store_bytes=settings.store_size << 20,
        remembered=settings.memory << 20,
        jobs=settings.background,
        output_tokens=settings.max_output_tokens,
        response_bytes=settings.max_response << 20,
        live_bytes=settings.live_memory << 20,
        lanes=settings.lanes,
        active_lanes=settings.active_lanes,
        waiting=settings.waiting,
        reader_patience=settings.reader_patience,
        reader_lag=settings.reader_lag << 20,
    )


def _keys(settings: Settings) -> Watched:
    """Who may use hub."""
    path = settings.keys_file
    if settings.keys and not path.exists():
        raise click.ClickException(f"There are no keys in {path} (--keys): hub keys create.")
    try:
        watched = Watched(path)
    except KeyFileError as error:
        raise click.ClickException(str(error)) from None
    count = len(watched.keyring.keys)
    words = f"{count} in {path}" if count else "none, so whoever reaches hub may use it"
    click.echo(f"Keys: {words}.")
    return watched


def _store(settings: Settings) -> Store:
    directory = settings.store_directory
    return MemoryStore() if directory is None else SqliteStore(directory)


def _endpoints(settings: Settings) -> list[Endpoint]:
    try:
        return [
            parse_endpoint(text, allow_private=settings.webhook_private)
            for text in settings.webhook
        ]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--webhook'") from None


async def _default_model(engine: Engine) -> str:
    """The name of the model that answers where a request names none; empty if it is not known."""
    try:
        return next(iter(await engine.models()), "")
    except HubError as error:
        click.echo(f"Warning: {engine.name} does not answer yet: {error.message}", err=True)
        return ""


async def _simulate(engine: SimEngine, host: str, port: int) -> None:
    runner = sim_server.create_runner(engine)
    await runner.setup()

    async def start() -> int:
        await web.TCPSite(runner, host, port, backlog=1024).start()
        chosen: int = runner.addresses[0][1]
        return chosen

    port = await _listen(start, host, port)
    click.echo(f"A simulated model server ({engine.profile.name}) serves http://{host}:{port}/v1.")
    await _signals(reload=False).get()
    await runner.cleanup()
    await engine.close()


async def _listen(start: Callable[[], Coroutine[Any, Any, int]], host: str, port: int) -> int:
    try:
        return await start()
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port} (--host, --port): {error.strerror}."
        ) from None


def _signals(*, reload: bool = True) -> asyncio.Queue[int]:
    """A queue of the signals to stop, or to ``reload``, that arrive from now on.

    In a terminal SIGHUP means that it was closed, and stops.
    """
    loop = asyncio.get_running_loop()
    # Unbounded: it is filled by whoever may kill the process anyway.
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    hangup = signal.SIGHUP if reload and not sys.stdin.isatty() else signal.SIGTERM
    loop.add_signal_handler(signal.SIGHUP, signals.put_nowait, hangup)
    return signals


def _spare_the_collector() -> None:
    """Make the garbage collector's pauses short: what was loaded so far is looked at no more, and
    all that lives is looked at rarely.

    By default one request of 20,000 items caused a full collection or more, of 60 ms each. Nothing
    waits for the collector: an ended response is no circle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 5, 100)


def _run(main: Coroutine[Any, Any, None]) -> None:
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
        runner.run(main)
