"""The command line. The only place that sees every part."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import click
from aiohttp import web

from hub import __version__
from hub.config import Settings, from_options, options
from hub.dispatch.dispatcher import Dispatcher, Upstream
from hub.engines import sim_server
from hub.engines.base import Engine
from hub.engines.discover import LOCAL_SERVERS, find_local
from hub.engines.sim import SimEngine
from hub.engines.sim_model import DEFAULT_PROFILE, PROFILES
from hub.engines.upstream import UpstreamEngine
from hub.errors import HubError
from hub.hub import Hub
from hub.policy import Policy
from hub.server.app import Server
from hub.server.courier import Courier
from hub.server.webhooks import Endpoint, deliveries_of, parse_endpoint
from hub.store.base import Store
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore

DEFAULT_WINDOW = 32
"""Requests in flight at an upstream that does not say how many slots it has."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hub")
def main() -> None:
    """A streaming hub in front of OpenAI-compatible model servers.

    \b
    hub serve                                 serve, on a local model server or a simulated one
    hub serve --upstream http://host:8000/v1  serve, in front of this model server
    hub sim                                   a simulated model server, for trials and tests
    """


@main.command()
@options
def serve(**values: Any) -> None:
    """Serve chats: the page, the HTTP API and WebSocket lanes, on one port.

    Every option can also be set in the environment (HUB_PORT for --port) and in a TOML file
    (port = 8765); a flag wins over the environment, the environment over the file.
    """
    settings = from_options(values)
    _log(settings.log_level)
    _run(_serve(settings))


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
    _log("info")
    engine = SimEngine(PROFILES[profile], speed=speed, seed=seed, faults=faults)
    _run(_simulate(engine, host, port))


async def _serve(settings: Settings) -> None:
    engines = await _engines(settings)
    dispatcher = Dispatcher(
        [Upstream(e, settings.window or e.slots or DEFAULT_WINDOW) for e in engines],
        batch_size=settings.batch_size,
        flush_interval=settings.flush_interval / 1000,
        queue_size=settings.queue_size,
    )
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
        Policy(
            default_model=await _default_model(engines[0]),
            reasoning_events=settings.reasoning_events,
            grace=settings.grace,
            retention=settings.retention * 86400,
            store_bytes=settings.store_size << 20,
            remembered=settings.memory << 20,
            jobs=settings.background,
        ),
        deliveries=lambda live: deliveries_of(
            endpoints, live.id, live.recorder.status, time.time()
        ),
        on_kept=courier.wake,
    )
    server = Server(
        hub,
        host=settings.host,
        port=settings.port,
        max_message=settings.max_message,
        connection_lifetime=settings.connection_lifetime * 60,
    )
    try:
        port = await _listen(server.start, settings.host, settings.port)
    except click.ClickException:
        await store.close()
        raise
    hub.start()
    courier.start()
    url = f"http://{settings.host}:{port}"
    click.echo(f"hub {__version__} serves {url} (page), {url}/v1 (API). Ctrl-C stops it.")
    signals = _signals()
    await signals.get()
    click.echo(f"Stopping: what runs has {settings.drain:g} s to end. Ctrl-C again to stop now.")
    stopping = asyncio.ensure_future(server.stop(settings.drain))
    again = asyncio.ensure_future(signals.get())
    await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
    if again.done():
        await dispatcher.close()
    again.cancel()
    await stopping
    await courier.stop()
    await store.close()
    for engine in engines:
        await engine.close()


async def _engines(settings: Settings) -> list[Engine]:
    """The engines that the settings name, or what is there; says which."""
    if settings.sim:
        return [_simulated(settings, settings.sim)]
    urls = list(settings.upstream)
    if not urls:
        found = await find_local()
        if found is None:
            ports = ", ".join(f"{name} at {url}" for name, url in LOCAL_SERVERS)
            click.echo(
                f"No model server found on this machine ({ports}): the answers are simulated. "
                "--upstream URL names one."
            )
            return [_simulated(settings, DEFAULT_PROFILE.name)]
        click.echo(
            f"Found {found.name} at {found.url}. --upstream URL takes another, --sim simulates one."
        )
        urls = [found.url]
    engines: list[Engine] = []
    for url in urls:
        engine = UpstreamEngine(
            url,
            api_key=settings.upstream_key,
            models=settings.models,
            idle_timeout=settings.idle_timeout,
            continues=settings.upstream_continues,
        )
        slots = await engine.probe_slots()
        says = f", which has {slots} slots" if slots else ""
        click.echo(f"Engine: {engine.name}{says}.")
        engines.append(engine)
    return engines


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


def _simulated(settings: Settings, profile: str) -> Engine:
    click.echo(f"Engine: simulated, {profile} at {settings.sim_speed:g} times its speed.")
    return SimEngine(
        PROFILES[profile],
        speed=settings.sim_speed,
        seed=settings.sim_seed,
        faults=settings.sim_faults,
    )


async def _default_model(engine: Engine) -> str:
    """The name of the model that answers where a request names none; empty if it is not known."""
    try:
        return (await engine.models())[0]
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
    await _signals().get()
    await runner.cleanup()
    await engine.close()


async def _listen(start: Callable[[], Coroutine[Any, Any, int]], host: str, port: int) -> int:
    try:
        return await start()
    except OSError as error:
        raise click.ClickException(
            f"Cannot listen on {host}:{port} (--host, --port): {error.strerror}."
        ) from None


def _signals() -> asyncio.Queue[int]:
    """A queue of the SIGINTs and SIGTERMs that arrive from now on."""
    loop = asyncio.get_running_loop()
    # Unbounded: it is filled by whoever may kill the process anyway.
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, signals.put_nowait, number)
    return signals


def _log(level: str) -> None:
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


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
