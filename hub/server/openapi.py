"""hub's own description of its HTTP endpoints, OpenAPI 3.1, served at ``/openapi.json``.

It is written by hand, endpoint by endpoint; bounds, words and codes are those of the parsers and of
the table of errors. A test holds it against the routes of the server and against real answers. The
pages' files are not in it, and neither is what is said on the WebSocket, for which OpenAPI has no
words.
"""

import orjson
from aiohttp import web

from hub import __version__
from hub.api.requests import Json
from hub.dispatch.terms import Class
from hub.errors import TABLE
from hub.server import openapi_answers, openapi_bodies
from hub.server.http import MAX_KEY
from hub.server.openapi_bodies import ref
from hub.server.stored import MAX_PAGE
from hub.server.terms import MAX_DEADLINE_MS, MAX_LANE

_JSON = "application/json"
_SSE = "text/event-stream"

_ANY = (400, 401, 403, 408, 415, 417, 421, 429, 503)
"""The statuses of errors that any request may be answered with."""
_BODY = (413,)
_TENANT = (404, 503)
_MODEL = (404, 429, 500, 502, 503, 504)
"""Those of whatever asks a model."""


def _parameter(name: str, place: str, schema: Json, text: str = "") -> Json:
    described: Json = {"name": name, "in": place, "schema": schema}
    if text:
        described["description"] = text
    return {**described, "required": True} if place == "path" else described


_PARAMETERS: Json = {
    "Id": _parameter("id", "path", {"type": "string"}, "The response's id."),
    "Model": _parameter("model", "path", {"type": "string"}, "A model's name, slashes included."),
    "Class": _parameter(
        "X-Hub-Class", "header", {"enum": [rank.label for rank in Class]}, "How urgent it is."
    ),
    "Lane": _parameter(
        "X-Hub-Lane",
        "header",
        {"type": "string", "maxLength": MAX_LANE},
        "Requests of one lane leave in the order of their arrival; of completions the latest wins.",
    ),
    "Deadline": _parameter(
        "X-Hub-Deadline-Ms",
        "header",
        {"type": "integer", "minimum": 1, "maximum": MAX_DEADLINE_MS},
        "It must reach a model server within so many milliseconds.",
    ),
    "Idempotency": _parameter(
        "Idempotency-Key",
        "header",
        {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
        "A second create with this key gives the first one's response.",
    ),
    "Stream": _parameter("stream", "query", {"type": "string"}, "`true`: the events, as a stream."),
    "After": _parameter(
        "starting_after",
        "query",
        {"type": "integer", "minimum": -1},
        "Of a stream, only the events after this one.",
    ),
    "Limit": _parameter(
        "limit", "query", {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 20}
    ),
    "Order": _parameter("order", "query", {"enum": ["asc", "desc"], "default": "desc"}),
    "AfterItem": _parameter("after", "query", {"type": "string"}, "The items after this one."),
}
_TERMS = ("Class", "Lane", "Deadline")


def _failures() -> Json:
    """For every status of an error: what it means, in hub's shape, and where llama.cpp's is."""
    described: Json = {}
    statuses = sorted({row.status for row in TABLE.values()} | {415, 417})
    for status in statuses:
        codes = [code for code, row in TABLE.items() if row.status == status]
        text = ", ".join(f"`{code}`" for code in codes) or "`unsupported_value`, `invalid_value`"
        for name, schema in ((f"{status}", "Error"), (f"Infill{status}", "InfillFailure")):
            described[name] = {"description": text, "content": {_JSON: {"schema": ref(schema)}}}
    return described


def _answers(schema: str, statuses: tuple[int, ...], *, stream: bool, infill: bool) -> Json:
    content: Json = {_JSON: {"schema": ref(schema)}}
    if stream:
        # Without a schema: each event has one, and this version has no words for that.
        content[_SSE] = {}
    answers: Json = {"200": {"description": "As asked.", "content": content}}
    for status in sorted({*_ANY, *statuses}):
        name = f"Infill{status}" if infill else f"{status}"
        answers[f"{status}"] = {"$ref": f"#/components/responses/{name}"}
    return answers


def _operation(
    id: str,
    summary: str,
    answer: str,
    *statuses: int,
    body: str = "",
    parameters: tuple[str, ...] = (),
    stream: bool = False,
    infill: bool = False,
) -> Json:
    """One method of one path. ``body`` and ``answer`` name schemas."""
    described: Json = {
        "operationId": id,
        "summary": summary,
        "parameters": [{"$ref": f"#/components/parameters/{name}"} for name in parameters],
        "responses": _answers(answer, statuses, stream=stream, infill=infill),
    }
    if body:
        content = {_JSON: {"schema": ref(body)}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _responses() -> Json:
    """``/v1/responses`` and what is below."""
    create = _operation(
        "createResponse",
        "Ask for a response: as JSON, as events, or in the background.",
        "Response",
        *_BODY,
        *_MODEL,
        409,
        body="CreateResponse",
        parameters=(*_TERMS, "Idempotency"),
        stream=True,
    )
    connect = _operation("connect", "The WebSocket: responses on lanes.", "Response", 426, 503)
    connect["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in _TERMS]
    del connect["responses"]["200"]
    connect["responses"]["101"] = {"description": "It is a WebSocket from here on."}
    read = _operation(
        "getResponse",
        "The response as it is now, or its events after a cursor.",
        "Response",
        *_TENANT,
        parameters=("Id", "Stream", "After"),
        stream=True,
    )
    return {
        "/v1/responses": {"post": create, "get": connect},
        "/v1/responses/{id}": {
            "get": read,
            "delete": _operation(
                "deleteResponse", "Forget it.", "DeletedResponse", *_TENANT, parameters=("Id",)
            ),
        },
        "/v1/responses/{id}/cancel": {
            "post": _operation(
                "cancelResponse",
                "Stop a background response.",
                "Response",
                *_TENANT,
                parameters=("Id",),
            )
        },
        "/v1/responses/{id}/input_items": {
            "get": _operation(
                "listInputItems",
                "What the model was given.",
                "InputItems",
                *_TENANT,
                parameters=("Id", "Limit", "Order", "AfterItem"),
            )
        },
        "/v1/responses/input_tokens": {
            "post": _operation(
                "countInputTokens",
                "An estimate of a prompt's tokens.",
                "InputTokens",
                *_BODY,
                *_TENANT,
                body="CreateResponse",
            )
        },
        "/v1/responses/compact": {
            "post": _operation(
                "compact",
                "A short conversation to go on from instead of a long one.",
                "Compaction",
                *_BODY,
                *_MODEL,
                body="CompactResponse",
            )
        },
    }


def _completions() -> Json:
    """Chats, raw texts and gaps."""
    infill = {
        "summary": "What belongs between two texts, in llama.cpp's shape.",
        "answer": "Filled",
        "body": "CreateInfill",
    }
    rows = {
        "/v1/chat/completions": (
            "createChatCompletion",
            "Chat Completions.",
            "ChatCompletion",
            "CreateChatCompletion",
        ),
        "/v1/completions": (
            "createCompletion",
            "Go on from raw texts.",
            "Completion",
            "CreateCompletion",
        ),
        "/v1/fim/completions": (
            "createFimCompletion",
            "Fill in the middle, in Mistral's shape.",
            "ChatCompletion",
            "CreateFimCompletion",
        ),
        "/infill": ("createInfill", infill["summary"], infill["answer"], infill["body"]),
        "/v1/infill": ("createInfillV1", infill["summary"], infill["answer"], infill["body"]),
    }
    return {
        path: {
            "post": _operation(
                id,
                summary,
                answer,
                *_BODY,
                *_MODEL,
                501,
                body=body,
                parameters=_TERMS,
                stream=True,
                infill=path.endswith("/infill"),
            )
        }
        for path, (id, summary, answer, body) in rows.items()
    }


def _rest() -> Json:
    """Models, what hub tells of itself, and the laboratory's settings."""
    metrics = _operation("metrics", "For Prometheus.", "Health")
    metrics["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    itself = _operation("describe", "This description.", "Health")
    itself["responses"]["200"]["content"] = {_JSON: {"schema": {"type": "object"}}}
    settings = {
        "get": _operation("getSettings", "The laboratory's settings.", "Settings"),
        "post": _operation(
            "changeSettings",
            "Change those that are named.",
            "Settings",
            *_BODY,
            body="ChangeSettings",
        ),
    }
    return {
        "/v1/models": {"get": _operation("listModels", "All models.", "Models", 502, 503, 504)},
        "/v1/models/{model}": {
            "get": _operation(
                "getModel", "One model.", "Model", 404, 502, 503, 504, parameters=("Model",)
            )
        },
        "/v1/tickets": {
            "post": _operation(
                "createTicket", "For one WebSocket of a browser, which sends no key.", "Ticket"
            )
        },
        "/health": {"get": _operation("health", "What hub is doing.", "Health")},
        "/health/ready": {
            "get": _operation(
                "ready",
                "Whether this node should be sent new requests.",
                "Ready",
                503,
            )
        },
        "/metrics": {"get": metrics},
        "/openapi.json": {"get": itself},
        "/lab/settings": settings,
    }


DOCUMENT: Json = {
    "openapi": "3.1.0",
    "info": {
        "title": "hub",
        "version": __version__,
        "description": (
            "Streams chats. Every answer has an `X-Request-Id`. Errors have OpenAI's shape; those "
            "of `/infill` llama.cpp's."
        ),
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    },
    "paths": {**_responses(), **_completions(), **_rest()},
    "components": {
        "schemas": {**openapi_bodies.SCHEMAS, **openapi_answers.SCHEMAS},
        "parameters": _PARAMETERS,
        "responses": _failures(),
        "securitySchemes": {
            "bearerAuth": {
                "type": "http",
                "scheme": "bearer",
                "description": "A key of `hub keys`. None is asked for until there are any.",
            }
        },
    },
    # The first says that it is optional.
    "security": [{}, {"bearerAuth": []}],
}

_ENCODED = orjson.dumps(DOCUMENT)


async def describe(request: web.Request) -> web.StreamResponse:
    """``GET /openapi.json``."""
    return web.Response(body=_ENCODED, content_type=_JSON, charset="utf-8")
