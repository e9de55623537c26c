"""The HTTP endpoints: JSON in, and JSON or SSE out.

Handlers only translate. They raise ``HubError``; the middleware makes it the protocol's error
object. A handler is cancelled when its client goes away, and then leaves its response.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from hashlib import sha256
from math import inf
from typing import Any, TypeVar

import orjson
from aiohttp import web

from hub import __version__
from hub.api.chat import ChatStream, completion, parse_chat
from hub.api.prompt import completed
from hub.api.recorder import TERMINAL_EVENTS
from hub.api.requests import Json, Request, check_containers
from hub.api.responses import parse_create
from hub.api.sse import DONE, encode
from hub.completer import Completer
from hub.dispatch.terms import Class, Terms
from hub.errors import HubError
from hub.hub import Hub
from hub.live import Live
from hub.log import Event
from hub.server import courier, stream
from hub.server.auth import SUBPROTOCOL, TICKET_LIFETIME, Gate, Principal
from hub.server.parser import Parser
from hub.server.pulse import Pulse
from hub.server.terms import terms_for
from hub.store.base import Idempotency

logger = logging.getLogger("hub.http")

HUB = stream.HUB
GATE = web.AppKey("gate", Gate)
PARSER = web.AppKey("parser", Parser)
COMPLETER = web.AppKey("completer", Completer)
PULSE = web.AppKey("pulse", Pulse)
WEBHOOKS: web.AppKey[Callable[[], courier.Statistics]] = web.AppKey("webhooks")
HEARTBEAT = 15.0
"""Seconds of silence after which a stream says that it is still there."""

MAX_KEY = 255
"""Characters of an idempotency key."""
KEY_LIFETIME = 86400.0
"""Seconds for which an idempotency key is remembered."""

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FROM_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "message_too_large"}


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer that is not 2xx carries the protocol's error object."""
    try:
        return await handler(request)
    except HubError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code = _FROM_STATUS.get(error.status, "invalid_value")
        refused = error_response(HubError(code, f"{error.reason}."), status=error.status)
        if "Allow" in error.headers:
            refused.headers["Allow"] = error.headers["Allow"]
        return refused
    except web.RequestPayloadError:
        return error_response(not_http())
    except ConnectionError:
        # The client went away. aiohttp would log what is raised as a failure of the server.
        return web.Response(status=499)
    except Exception:
        # The boundary of one HTTP request: it is answered with 500, the server lives on.
        logger.exception("%s %s failed", request.method, request.path)
        return error_response(HubError("server_error", "The request failed inside hub."))


def error_response(error: HubError, *, status: int | None = None) -> web.Response:
    """The answer that an error makes."""
    answer = json_response({"error": error.body()}, status=status or error.status)
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if answer.status == 408:
        # What is still to come of it would be taken for the next request.
        answer.force_close()
    if (answer.status >= 500 or answer.status == 409) and not error.row.retryable:
        # The SDKs go by the status, unless they are told.
        answer.headers["X-Should-Retry"] = "false"
    return answer


def not_http() -> HubError:
    """The error for a request that cannot be read. It quotes nothing of it."""
    return HubError("invalid_http", "The request, or its body, is not valid HTTP.")


def json_response(body: Any, *, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", charset="utf-8"
    )


def timed(answer: web.Response, live: Live) -> web.Response:
    """The answer that a response has ended with, with the header that says how long it took."""
    answer.headers["Server-Timing"] = live.ledger.server_timing()
    return answer


def sender(request: web.Request) -> Principal:
    """Who sends a request. Raises ``HubError`` ``invalid_api_key``."""
    return request.app[GATE].principal(request.headers)


def admin(request: web.Request) -> Principal:
    """The same, of what concerns everybody. Raises ``HubError`` ``admin_required``, too."""
    who = sender(request)
    if not who.admin:
        raise HubError("admin_required", "This takes a key that was created with --admin.")
    return who


def admitted(
    request: web.Request, who: Principal, rank: Class, asked: Request, number: int = 1
) -> Terms:
    """On what terms a ``number`` of responses is to be made that somebody asks for, who may. Raises
    ``HubError``. Use ``Gate.coming`` if something has to be waited for before they are."""
    gate = request.app[GATE]
    terms = terms_for(gate.terms(who, request.headers, rank), asked)
    gate.admit(terms, asked, number)
    return terms


async def create_ticket(request: web.Request) -> web.StreamResponse:
    """``POST /v1/tickets``: for one WebSocket of a browser, which cannot show its key there."""
    ticket = request.app[GATE].ticket(sender(request))
    answer = {"ticket": ticket, "expires_in": int(TICKET_LIFETIME), "subprotocol": SUBPROTOCOL}
    return json_response(answer)


async def create_response(request: web.Request) -> web.StreamResponse:
    """``POST /v1/responses``: JSON, SSE with ``stream: true``, or at once with ``background``."""
    hub, who = request.app[HUB], sender(request)
    asked = await read(request, lambda body: completed(parse_create(body)))
    idempotency = _idempotency(request, await request.read(), hub)
    live = None if idempotency is None else await hub.repeated(idempotency, tenant=who.tenant)
    if live is None:
        terms = admitted(request, who, Class.BACKGROUND if asked.background else Class.CHAT, asked)
        tenant = who.tenant
        with request.app[GATE].coming(terms, asked):
            context = await hub.context(asked, tenant=tenant)
            asked = await request.app[PARSER].with_messages(asked, context)
            if asked.background:
                terms = replace(terms, patience=inf)
                live = await hub.accept(
                    asked, context, tenant=tenant, terms=terms, idempotency=idempotency
                )
            else:
                live = hub.submit(
                    asked, context, tenant=tenant, terms=terms, idempotency=idempotency
                )
    with reading(request, who, live):
        if asked.stream:
            return await stream.send(request, live, sse_block, heartbeat=HEARTBEAT, along=True)
        if not live.background:
            live = await hub.ended(live)
    _raise_if_nothing_was_said(live)
    answer = json_response(live.recorder.snapshot())
    return timed(answer, live) if live.recorder.ended else answer


async def create_chat_completion(request: web.Request) -> web.StreamResponse:
    """``POST /v1/chat/completions``: JSON, or SSE with ``stream: true``."""
    hub, who = request.app[HUB], sender(request)
    asked = await read(request, parse_chat)
    terms = admitted(request, who, Class.CHAT, asked)
    live = hub.submit(asked, tenant=who.tenant, terms=terms)
    with reading(request, who, live):
        if asked.stream:
            # There is no way to come back for the rest of it.
            live.waiters += 1
            # A failure before the first news is an HTTP error, which clients know how to retry.
            await live.until_news(HEARTBEAT)
            _raise_if_nothing_was_said(live)
            render = ChatStream(live.recorder).render
            return await stream.send(request, live, render, heartbeat=HEARTBEAT)
        live = await hub.ended(live)
    if live.recorder.error is not None:
        raise live.recorder.error
    return timed(json_response(completion(live.recorder)), live)


async def list_models(request: web.Request) -> web.StreamResponse:
    """``GET /v1/models``."""
    models = await _models(request)
    return json_response({"object": "list", "data": [_model(*one) for one in models.items()]})


async def get_model(request: web.Request) -> web.StreamResponse:
    """``GET /v1/models/{model}``."""
    name = request.match_info["model"]
    models = await _models(request)
    if name not in models:
        raise HubError("model_not_found", f"No model '{name[:64]}' is served here.", param="model")
    return json_response(_model(name, models[name]))


async def _models(request: web.Request) -> dict[str, str]:
    """Those that the sender may use, each with who serves it."""
    key = sender(request).key
    models = await request.app[HUB].dispatcher.models()
    return {name: by for name, by in models.items() if key is None or key.allows_model(name)}


async def ready(request: web.Request) -> web.StreamResponse:
    """``GET /health/ready``: whether this node should be sent new requests: 200, or 503 while it
    drains or its store is out of reach. It may be alive all the same."""
    if (refusal := request.app[HUB].unready()) is not None:
        raise refusal
    return json_response({"status": "ok", "ready": True})


async def health(request: web.Request) -> web.StreamResponse:
    """``GET /health``: that hub is alive and, for whom it concerns, what it is doing."""
    hub = request.app[HUB]
    alive = {"status": "ok", "version": __version__, "ready": hub.unready() is None}
    if not _may_know(request):
        return json_response(alive)
    return json_response(
        {
            **alive,
            "responses": asdict(hub.statistics()),
            "bounds": asdict(hub.bounds.statistics()),
            "dispatcher": asdict(hub.dispatcher.statistics()),
            "completions": asdict(request.app[COMPLETER].statistics()),
            "store": asdict(hub.store.statistics()),
            "webhooks": asdict(request.app[WEBHOOKS]()),
            "loop": asdict(request.app[PULSE].statistics()),
        }
    )


async def read(request: web.Request, parse: Callable[[Any], T]) -> T:
    """What the body of a request asks for: JSON, whatever its content type says, then ``parse``.

    A large body is worked on in the parser's thread. Raises ``HubError``.
    """
    body = await request.read()

    def work() -> T:
        check_containers(body)
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise HubError("invalid_json", f"The body is not JSON: {error}.") from None
        return parse(value)

    return await request.app[PARSER].run(len(body), work)


def _may_know(request: web.Request) -> bool:
    try:
        return sender(request).admin
    except HubError:
        return False


def _model(name: str, owner: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def sse_block(event: Event) -> bytes:
    """An event as SSE; the terminal one with the end of the stream."""
    block = encode(event.type, event.wire)
    return block + DONE if event.type in TERMINAL_EVENTS else block


@contextmanager
def reading(request: web.Request, who: Principal, live: Live) -> Iterator[None]:
    """Be a reader of a response, until the handler is done or is stopped: its client is gone, or
    has to go."""
    hub = request.app[HUB]
    hub.join(live)
    try:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        with request.app[GATE].reading(who, transport.abort):
            yield
    finally:
        hub.leave(live)


def _idempotency(request: web.Request, body: bytes, hub: Hub) -> Idempotency | None:
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY:
        raise HubError("invalid_value", f"An Idempotency-Key has 1 to {MAX_KEY} characters.")
    return Idempotency(key, sha256(body).digest(), hub.now() + KEY_LIFETIME)


def _raise_if_nothing_was_said(live: Live) -> None:
    if live.recorder.error is not None and not live.recorder.output:
        raise live.recorder.error
