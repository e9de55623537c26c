"""The endpoints for responses that exist: read, resume, cancel, delete, and what surrounds them."""

from typing import Any

from aiohttp import web

from hub.api.compaction import compacted, parse_compact
from hub.api.ids import item_id
from hub.api.prompt import completed
from hub.api.requests import Json, estimate_tokens
from hub.api.responses import parse_create
from hub.api.sse import DONE
from hub.dispatch.terms import Class
from hub.errors import HubError
from hub.server import stream
from hub.server.http import (
    GATE,
    HEARTBEAT,
    HUB,
    PARSER,
    admitted,
    json_response,
    read,
    reading,
    sender,
    sse_block,
)

MAX_PAGE = 100


async def get_response(request: web.Request) -> web.StreamResponse:
    """``GET /v1/responses/{id}``: the response as it is now, or its events after a cursor."""
    hub, who = request.app[HUB], sender(request)
    id, tenant = request.match_info["id"], who.tenant
    if request.query.get("stream") != "true":
        return web.Response(
            body=await hub.result(id, tenant=tenant),
            content_type="application/json",
            charset="utf-8",
        )
    cursor = _integer(request, "starting_after", -1)
    live = await hub.open(id, tenant=tenant)
    live.check_cursor(cursor, "starting_after")
    if live.log.sealed and cursor == live.log.last:
        return web.Response(body=DONE, headers=stream.HEADERS)
    with reading(request, who, live):
        return await stream.send(
            request, live, sse_block, heartbeat=HEARTBEAT, cursor=cursor, along=True
        )


async def cancel_response(request: web.Request) -> web.StreamResponse:
    """``POST /v1/responses/{id}/cancel``: background responses only; idempotent."""
    hub = request.app[HUB]
    live = await hub.open(request.match_info["id"], tenant=sender(request).tenant)
    if not live.background:
        raise HubError(
            "invalid_value",
            "Responses can only be cancelled if they were created with background=true.",
        )
    hub.cancel(live)
    live = await hub.ended(live)
    return json_response(live.recorder.snapshot())


async def delete_response(request: web.Request) -> web.StreamResponse:
    """``DELETE /v1/responses/{id}``."""
    id = request.match_info["id"]
    await request.app[HUB].delete(id, tenant=sender(request).tenant)
    return json_response({"id": id, "object": "response", "deleted": True})


async def list_input_items(request: web.Request) -> web.StreamResponse:
    """``GET /v1/responses/{id}/input_items``: what the model was given, newest first."""
    hub, tenant = request.app[HUB], sender(request).tenant
    live = await hub.open(request.match_info["id"], tenant=tenant)
    limit = _integer(request, "limit", 20)
    if not 1 <= limit <= MAX_PAGE:
        raise HubError("invalid_value", f"'limit' must be 1 to {MAX_PAGE}.", param="limit")
    order = request.query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise HubError("invalid_value", "'order' must be 'asc' or 'desc'.", param="order")
    items = [
        {"id": item_id("item", live.id, place), **{k: v for k, v in item.items() if v is not None}}
        for place, item in enumerate(live.input())
    ]
    if order == "desc":
        items.reverse()
    after = request.query.get("after")
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise HubError("invalid_value", "'after' is none of these items.", param="after")
        items = items[places[0] + 1 :]
    page = items[:limit]
    return json_response(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(items) > limit,
        }
    )


async def count_input_tokens(request: web.Request) -> web.StreamResponse:
    """``POST /v1/responses/input_tokens``: an estimate, four characters to the token."""
    tenant = sender(request).tenant
    asked = await read(request, lambda body: completed(parse_create(body)))
    context = await request.app[HUB].context(asked, tenant=tenant)
    asked = await request.app[PARSER].with_messages(asked, context)
    messages = asked.generation.messages
    return json_response(
        {"object": "response.input_tokens", "input_tokens": estimate_tokens(messages)}
    )


async def compact(request: web.Request) -> web.StreamResponse:
    """``POST /v1/responses/compact``: a model summarises; nothing is stored."""
    hub, who = request.app[HUB], sender(request)
    asked = await read(request, lambda body: completed(parse_compact(body)))
    terms = admitted(request, who, Class.CHAT, asked)
    with request.app[GATE].coming(terms, asked):
        context = await hub.context(asked, tenant=who.tenant)
        asked = await request.app[PARSER].with_messages(asked, context)
        live = hub.submit(asked, context, tenant=who.tenant, terms=terms)
    with reading(request, who, live):
        live = await hub.ended(live)
    if live.recorder.error is not None:
        raise live.recorder.error
    items: list[Json] = [*context, *asked.items[:-1]]
    return json_response(
        compacted(items, _text(live.recorder.output), live.recorder.reported_usage, hub.now())
    )


def _text(output: list[Json]) -> str:
    messages = [item for item in output if item["type"] == "message"]
    return "".join(part.get("text", "") for item in messages for part in item["content"])


def _integer(request: web.Request, name: str, default: int) -> int:
    value: Any = request.query.get(name)
    if value is None:
        return default
    try:
        return int(value)
    except ValueError:
        raise HubError(
            "invalid_type", f"'{name}' must be an integer, but it is '{value[:64]}'.", param=name
        ) from None
