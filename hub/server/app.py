"""The server: routes, the upgrade to WebSocket, keep-alive, drain."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from aiohttp import web
from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from hub import __version__
from hub.api.ids import new_id
from hub.completer import Completer
from hub.dispatch.terms import Class
from hub.errors import HubError
from hub.hub import Hub
from hub.keys import WatchedKeys
from hub.nodes import Nodes
from hub.server import completions, courier, guard, http, lab, openapi, scrape, stored
from hub.server.auth import Gate
from hub.server.door import Door
from hub.server.parser import Parser
from hub.server.protocol import Protocol
from hub.server.pulse import Pulse
from hub.server.shared_limits import SharedLimits
from hub.server.sites import Sites
from hub.server.websocket import Connection

_frames = logging.getLogger("hub.server.frames")
"""What the WebSocket library has to say; at "info" that is a line per closed connection."""
_frames.setLevel(logging.WARNING)

PING_INTERVAL = 20.0
"""Seconds between pings; a peer that has sent nothing since the last one is given up."""

KEYS_INTERVAL = 1.0
"""Seconds after which a change of the keys is noticed."""

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def _static_files() -> list[Path]:
    """The page's files: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "_static"
    return [*(installed if installed.is_dir() else package.parent / "static").iterdir()]


STATIC_FILES = _static_files()
_PAGES = {"index.html": "/", "lab.html": "/lab"}
"""Files that are served under another name, too."""


class Server:
    """Serves a hub on one port. ``start``, then ``stop``; not to be started again."""

    connection_type = Connection
    """What speaks on its WebSockets."""

    def __init__(
        self,
        hub: Hub,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        max_message: int = 1 << 20,
        connection_lifetime: float = 3600.0,
        lab: bool = False,
        webhooks: Callable[[], courier.Statistics] = courier.Statistics,
        keys: WatchedKeys | None = None,
        door: Door | None = None,
        sites: Sites | None = None,
        nodes: Nodes | None = None,
    ) -> None:
        """``max_message`` is in bytes, ``connection_lifetime`` in seconds. ``lab``: the laboratory
        page may change the dispatcher's settings. ``webhooks`` tells how they fare. ``keys``: who
        may use hub, as soon as there are any; everybody without. ``door``: whose sockets are let
        in; ``sites``: under which names, and from which pages, it is served. ``nodes``: those that
        share the hub's store; started before the server is."""
        self._hub = hub
        self._host = host
        self._port = port
        self._max_message = max_message
        self._lifetime = connection_lifetime
        self._lab = lab
        self._connections: set[Connection] = set()
        self._releases: dict[Connection, tuple[Callable[[], None], ...]] = {}
        """What tells everybody who counts them that one is gone."""
        self._gone = asyncio.Event()
        self._parser = Parser()
        self._completer = Completer(hub)
        self._keys = keys
        self._gate = Gate(
            keys.keyring if keys is not None and not keys.keyring.empty else None,
            now=hub.now,
            clock=time.monotonic,
            default_model=hub.policy.default_model,
            stop=hub.cancel,
        )
        self._limits = None if nodes is None else SharedLimits(self._gate, hub.store, nodes)
        hub.on_begun.append(self._gate.hold)
        hub.on_ended.append(self._gate.ended)
        self._watching: asyncio.Task[None] | None = None
        self._pulse = Pulse()
        self._webhooks = webhooks
        self._door = door or Door()
        self._guard = guard.Guard(self._door, sites)
        self._metrics = scrape.metrics_of(
            hub,
            self._pulse.statistics,
            self._lanes,
            webhooks,
            self._completer.statistics,
            self._guard.statistics,
            lambda: 1 if nodes is None else nodes.count,
        )
        self._runner: web.AppRunner | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._draining = False

    @property
    def connections(self) -> int:
        """How many WebSockets are open."""
        return len(self._connections)

    async def start(self) -> int:
        """Listen. Returns the port, which the system chose if 0 was asked for.

        Raises ``OSError`` if the address cannot be had.
        """
        app = web.Application(
            middlewares=[http.errors, self._guard.check], client_max_size=self._max_message
        )
        app[http.HUB] = self._hub
        app[http.GATE] = self._gate
        app[http.PARSER] = self._parser
        app[http.COMPLETER] = self._completer
        app[http.PULSE] = self._pulse
        app[http.WEBHOOKS] = self._webhooks
        app[lab.ALLOWED] = self._lab
        app[scrape.METRICS] = self._metrics
        app.on_response_prepare.extend((_mark, self._guard.mark))
        app.router.add_post("/v1/tickets", http.create_ticket)
        app.router.add_post("/v1/responses", http.create_response)
        # Without HEAD: what these write goes past aiohttp, which would know not to send a body.
        app.router.add_get("/v1/responses", self._upgrade, allow_head=False)
        app.router.add_post("/v1/responses/compact", stored.compact)
        app.router.add_post("/v1/responses/input_tokens", stored.count_input_tokens)
        app.router.add_get("/v1/responses/{id}", stored.get_response, allow_head=False)
        app.router.add_delete("/v1/responses/{id}", stored.delete_response)
        app.router.add_post("/v1/responses/{id}/cancel", stored.cancel_response)
        app.router.add_get("/v1/responses/{id}/input_items", stored.list_input_items)
        app.router.add_post("/v1/chat/completions", http.create_chat_completion)
        app.router.add_post("/v1/completions", completions.create_completion)
        app.router.add_post("/v1/fim/completions", completions.create_fim_completion)
        app.router.add_post("/infill", completions.create_infill)
        app.router.add_post("/v1/infill", completions.create_infill)
        app.router.add_get("/v1/models", http.list_models)
        app.router.add_get("/v1/models/{model:.+}", http.get_model)
        app.router.add_get("/health", http.health)
        app.router.add_get("/health/ready", http.ready)
        app.router.add_get("/metrics", scrape.metrics)
        app.router.add_get("/openapi.json", openapi.describe)
        app.router.add_get("/lab/settings", lab.get_settings)
        app.router.add_post("/lab/settings", lab.change_settings)
        for path in STATIC_FILES:
            app.router.add_get(f"/{path.name}", _file(path))
            if path.name in _PAGES:
                app.router.add_get(_PAGES[path.name], _file(path))
        # A handler must learn that its client went away: its response is cancelled then.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        manager = self._runner.server
        assert manager is not None, "it is set up"
        loop = asyncio.get_running_loop()
        if self._limits is not None:
            await self._limits.start()
        # Not by aiohttp's own site, whose connections are not ours.
        port = await self._door.open(
            self._host, self._port, lambda admitted: Protocol(manager, admitted, loop=loop)
        )
        self._tick()
        self._pulse.start()
        if self._keys is not None:
            self._watching = asyncio.create_task(self._watch(self._keys))
        return port

    async def stop(self, drain: float) -> None:
        """Stop accepting, give what runs ``drain`` seconds to end, close every connection.

        No effect if it was stopped before.
        """
        if self._runner is None:
            return
        self._draining = True
        self._door.close()
        for connection in [*self._connections]:
            if connection.idle:
                connection.leave()
        await self._hub.close(drain)
        # One turn for the flush that carries the last events.
        await asyncio.sleep(0)
        for connection in [*self._connections]:
            connection.leave()
        while self._connections:
            self._gone.clear()
            await self._gone.wait()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._watching is not None:
            self._watching.cancel()
        if self._limits is not None:
            self._limits.close()
        await self._runner.cleanup()
        self._parser.close()
        self._pulse.stop()
        self._runner = None

    async def _upgrade(self, request: web.Request) -> web.StreamResponse:
        """``GET /v1/responses``: the handshake, then the transport changes hands."""
        if request.headers.get("Upgrade", "").lower() != "websocket":
            refused = http.error_response(
                HubError("upgrade_required", "This is a WebSocket: connect to it, or POST.")
            )
            refused.headers["Upgrade"] = "websocket"
            return refused
        if self._draining:
            raise HubError("shutting_down", "hub is shutting down.", retry_after=1.0)
        handshake = Request(request.raw_path, Headers(map(_latin, request.headers.items())))
        answer = ServerProtocol(logger=_frames).accept(handshake)
        if answer.status_code != 101:
            code = "upgrade_required" if answer.status_code == 426 else "invalid_value"
            raise HubError(code, answer.body.decode().strip())
        who, spoken = self._gate.caller(request.headers)
        if spoken is not None:
            answer.headers["Sec-WebSocket-Protocol"] = spoken
        terms = self._gate.terms(who, request.headers, Class.CHAT)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        # A second one, since the parser of the first still waits for the handshake's bytes.
        protocol = ServerProtocol(state=OPEN, max_size=self._max_message, logger=_frames)
        connection = self.connection_type(
            self._hub,
            protocol,
            parser=self._parser,
            completer=self._completer,
            tenant=who.tenant,
            terms=terms,
            gate=self._gate,
            on_lost=self._lost,
        )
        closed = self._gate.open_socket(who, connection.revoke)
        transport.write(answer.serialize())
        connection.connection_made(transport)
        self._connections.add(connection)
        # From here on the transport is ours.
        assert isinstance(request.protocol, Protocol)
        admitted = request.protocol.hand_over(connection)
        self._releases[connection] = (closed, admitted.left, request.pop(guard.RELEASE))
        return _HandedOver()

    def _lanes(self) -> scrape.Connections:
        lanes = [connection.lanes for connection in self._connections]
        active, waiting = (sum(count) for count in zip((0, 0), *lanes, strict=True))
        return len(lanes), active, waiting

    def _lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        for release in self._releases.pop(connection):
            release()
        self._gone.set()

    async def _watch(self, keys: WatchedKeys) -> None:
        """Go by what becomes of the keys."""
        while True:
            await asyncio.sleep(KEYS_INTERVAL)
            if (keyring := await asyncio.to_thread(keys.changed)) is not None:
                self._gate.change(keyring)
            else:
                self._gate.look()

    def _tick(self) -> None:
        """One timer for the keep-alive of all connections."""
        for connection in [*self._connections]:
            connection.keep_alive(self._lifetime)
        self._ticker = asyncio.get_running_loop().call_later(PING_INTERVAL, self._tick)


def _latin(header: tuple[str, str]) -> tuple[str, str]:
    """A header as the library expects it, which cannot quote lone surrogates in a refusal: aiohttp
    makes them of bytes that are not UTF-8."""
    name, value = header
    return name, value.encode(errors="surrogateescape").decode("latin-1")


class _HandedOver(web.Response):
    """What a handler returns whose transport is no longer aiohttp's: nothing is written."""

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


async def _mark(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = f"hub/{__version__}"
    response.headers["X-Request-Id"] = new_id("req")


def _file(path: Path) -> http.Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path, headers=SECURITY_HEADERS)

    return serve
