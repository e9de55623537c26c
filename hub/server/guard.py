"""What every HTTP request has to get past before its handler sees it.

Where it comes from (``proxies``), under which name it asks for hub and from whose page (``sites``),
and that its body is not compressed: a few kilobytes of that can become gigabytes, and no client of
these protocols compresses.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from hub.errors import HubError
from hub.server import door, sites
from hub.server.http import Handler, error_response
from hub.server.proxies import Client

CLIENT = web.RequestKey("client", Client)
"""Where a request has its ``Client``."""
RELEASE: web.RequestKey[Callable[[], None]] = web.RequestKey("release")
"""Where it has what ends its being counted for its address; take it away to call it later."""
_ORIGIN = web.RequestKey("origin", str)
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Who comes in."""

    door: door.Statistics
    refused: Mapping[str, int]
    """Requests that did not get past, by reason."""


class Guard:
    """Use ``check`` as the middleware inside of the one for errors, and ``mark`` as the signal
    before a response."""

    def __init__(self, entrance: door.Door, allowed: sites.Sites | None = None) -> None:
        self._door = entrance
        self._sites = allowed or sites.Sites()
        self._refused: Counter[str] = Counter({"encoding": 0, "host": 0, "origin": 0})

    def statistics(self) -> Statistics:
        return Statistics(self._door.statistics(), dict(self._refused))

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let a request through to its handler. Raises ``HubError``."""
        client = request[CLIENT] = self._client(request)
        if not self._sites.serves(client.host):
            raise self._no(
                "host",
                HubError(
                    "host_not_allowed",
                    "hub does not serve this Host. Start it with --host-name NAME to add it.",
                ),
            )
        origin = request.headers.get("Origin")
        if origin is not None and not sites.same_site(origin, client.scheme, client.host):
            if not self._sites.lists(origin):
                raise self._no(
                    "origin",
                    HubError("origin_not_allowed", "Requests from other sites' pages are refused."),
                )
            request[_ORIGIN] = origin
            if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
                return _preflight(request)
        if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
            error = HubError("unsupported_value", "Compressed bodies are not taken.")
            return error_response(self._no("encoding", error), status=415)
        request[RELEASE] = self._claim(client)
        try:
            return await handler(request)
        finally:
            if (release := request.get(RELEASE)) is not None:
                release()

    async def mark(self, request: web.Request, response: web.StreamResponse) -> None:
        """Let the page that asked read the answer, if it is another site's that may."""
        if self._sites.shared:
            response.headers.add("Vary", "Origin")
        if (origin := request.get(_ORIGIN)) is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = sites.EXPOSED_HEADERS

    def _client(self, request: web.Request) -> Client:
        headers = request.headers
        return self._door.proxies.client(
            request.remote,
            "https" if request.secure else "http",
            headers.getall("Host", []),
            {name: headers.getall(name) for name in _FORWARDED if name in headers},
        )

    def _claim(self, client: Client) -> Callable[[], None]:
        """Count a request for its address, unless its socket is counted for that."""
        if not client.proxied:
            return _nothing
        self._door.claim(client.address)
        return lambda: self._door.release(client.address)

    def _no(self, reason: str, error: HubError) -> HubError:
        self._refused[reason] += 1
        return error


def _preflight(request: web.Request) -> web.Response:
    """The answer to a browser that asks whether a page may send a request."""
    asked = request.headers.get("Access-Control-Request-Headers", "")
    return web.Response(
        status=204,
        headers={
            "Access-Control-Allow-Methods": sites.METHODS,
            "Access-Control-Allow-Headers": sites.allowed_headers(asked),
            "Access-Control-Max-Age": str(sites.PREFLIGHT_AGE),
        },
    )


def _nothing() -> None:
    return None
