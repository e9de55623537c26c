"""The command line. The only place that sees every part."""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from aiohttp import web

from hub import __version__, exposure, logs
from hub.bench.commands import bench
from hub.chat import chat
from hub.config import Settings
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.shares import Shares
from hub.engines import sim_server
from hub.engines.base import Engine
from hub.engines.sim import SimEngine
from hub.engines.sim_model import DEFAULT_PROFILE, PROFILES
from hub.errors import HubError
from hub.hub import Hub
from hub.key_commands import keys
from hub.key_place import named, place_of, watch
from hub.keys import KeysError, WatchedKeys
from hub.lsp.command import lsp
from hub.nodes import Nodes
from hub.options import from_options, options
from hub.policy import Policy
from hub.process import listen, run, signals, spare_the_collector
from hub.server.app import Server
from hub.server.courier import HORIZON, SHARED_HORIZON, Courier
from hub.server.door import Door
from hub.server.webhooks import Endpoint, deliveries_of, parse_endpoint
from hub.store.base import Store
from hub.store.memory import MemoryStore
from hub.store.sqlite import SqliteStore
from hub.upstreams import Upstreams, not_reloaded
from hub.workers import Place, Port, Workers

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
    changed, without losing a request. With --workers SIGUSR2 replaces the processes one by one.
    """
    settings = from_options(values)
    logs.start(settings.log_level, settings.log_format)
    # How long the loop waits for the interpreter while a large request is parsed (``Parser``).
    sys.setswitchinterval(0.001)
    context = click.get_current_context()

    def again() -> Settings:
        with context.command.make_context("serve", [*context.meta["hub.args"]]) as fresh:
            return from_options(fresh.params)

    place = Place.inherited()
    if settings.workers > 1 and place is None:
        sys.exit(run(_supervise(settings)))
    run(_serve(settings, again, place))


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
    run(_simulate(engine, host, port))


main.add_command(bench)
main.add_command(chat)
main.add_command(keys)
main.add_command(lsp)


async def _supervise(settings: Settings) -> int:
    arrived = signals(replace=True)
    port = await listen(
        lambda: Port.open(settings.host, settings.port), settings.host, settings.port
    )
    # As this process was called, whatever by.
    command = (sys.executable, *sys.orig_argv[1:])
    workers = Workers(command, port, settings.workers, drain=settings.drain)
    return await workers.run(
        arrived,
        on_serving=lambda: _say_serving(settings, port.number),
        on_stopping=lambda: _say_stopping(settings),
    )


def _say_serving(settings: Settings, port: int) -> None:
    url = f"{'http' if settings.tls_cert is None else 'https'}://{settings.host}:{port}"
    many = f" with {settings.workers} processes" if settings.workers > 1 else ""
    click.echo(f"hub {__version__} serves {url} (page), {url}/v1 (API){many}. Ctrl-C stops it.")


def _say_stopping(settings: Settings) -> None:
    click.echo(f"Stopping: what runs has {settings.drain:g} s to end. Ctrl-C again to stop now.")


async def _serve(settings: Settings, again: Callable[[], Settings], place: Place | None) -> None:
    # First, since it says what is wrong with its URL, which may be that of the keys, too.
    store = _store(settings)
    watched = _keys(settings)
    local, keyed = await exposure.is_loopback(settings.host), not watched.keyring.empty
    exposure.check(settings, local=local, keyed=keyed)
    exposure.more_files()
    sites = exposure.sites(settings, local=local, keyed=keyed)
    listeners = () if place is None else place.listeners
    door = exposure.door(settings, local=local, listeners=listeners)
    upstreams = Upstreams(settings, click.echo)
    dispatcher = Dispatcher(await upstreams.open(), settings.rules)
    endpoints = _endpoints(settings)
    try:
        await store.start(time.time())
    except HubError as error:
        raise click.ClickException(error.message) from None
    click.echo(f"Store: {store.place}.")
    nodes = Nodes(store, Shares(dispatcher))
    courier = _courier(settings, store, endpoints)
    hub = Hub(
        dispatcher,
        store,
        _policy(settings, await _default_model(dispatcher.upstreams[0].engine)),
        deliveries=lambda live: deliveries_of(
            endpoints, live.id, live.recorder.status, time.time()
        ),
        on_kept=courier.wake,
        others=lambda: nodes.count > 1,
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
        nodes=nodes,
    )
    await nodes.start()
    spare_the_collector()
    try:
        port = await listen(server.start, settings.host, settings.port)
    except click.ClickException:
        await nodes.close()
        await store.close()
        raise
    hub.start()
    courier.start()
    arrived = signals()
    if place is None:
        _say_serving(settings, port)
    else:
        place.serves(arrived.put_nowait)
    while await arrived.get() == signal.SIGHUP:
        settings = await _reload(settings, again, upstreams, dispatcher, door)
    hurried = signals(reload=False).get() if place is None else place.hurried.wait()
    if place is None:
        _say_stopping(settings)
    stopping = asyncio.ensure_future(server.stop(settings.drain))
    impatient = asyncio.ensure_future(hurried)
    await asyncio.wait((stopping, impatient), return_when=asyncio.FIRST_COMPLETED)
    if impatient.done():
        await dispatcher.close()
    impatient.cancel()
    await stopping
    await nodes.close()
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
        lease=15.0 if settings.shared_store is None else settings.lease,
        on_store_loss=settings.on_store_loss,
    )


def _keys(settings: Settings) -> WatchedKeys:
    """Who may use hub."""
    try:
        place = place_of(settings)
        watched = watch(place)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--keys'") from None
    except KeysError as error:
        raise click.ClickException(str(error)) from None
    count = len(watched.keyring.keys)
    if settings.keys and not (count or Path(place).exists()):
        raise click.ClickException(
            f"There are no keys in {named(place)} (--keys): hub keys create."
        )
    words = f"{count} in {named(place)}" if count else "none, so whoever reaches hub may use it"
    click.echo(f"Keys: {words}.")
    return watched


def _store(settings: Settings) -> Store:
    if (url := settings.shared_store) is not None:
        return _shared_store(url)
    directory = settings.store_directory
    return MemoryStore() if directory is None else SqliteStore(directory)


def _shared_store(url: str) -> Store:
    try:
        from hub.store.redis import RedisStore
    except ModuleNotFoundError as missing:
        if (missing.name or "").split(".")[0] not in ("redis", "hiredis"):
            raise
        raise click.ClickException(
            "A store in Redis needs its client: pip install 'hub-stream[redis]'"
        ) from None
    try:
        return RedisStore(url)
    except HubError:
        # What it says may quote the URL, which may hold a password.
        raise click.BadParameter(
            "this is no URL of Redis, or has an option that its client does not know",
            param_hint="'--store'",
        ) from None


def _courier(settings: Settings, store: Store, endpoints: list[Endpoint]) -> Courier:
    horizon = SHARED_HORIZON if store.shared else HORIZON
    return Courier(store, endpoints, allow_private=settings.webhook_private, horizon=horizon)


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

    port = await listen(start, host, port)
    click.echo(f"A simulated model server ({engine.profile.name}) serves http://{host}:{port}/v1.")
    await signals(reload=False).get()
    await runner.cleanup()
    await engine.close()
