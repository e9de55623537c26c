"""hub's description of its own endpoints says what the server does."""

from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from hub.errors import TABLE
from hub.server.app import _PAGES, STATIC_FILES, Server
from hub.server.openapi import DOCUMENT
from tests.running import Running, Start

PATHS: dict[str, dict[str, Any]] = DOCUMENT["paths"]


def resolve(value: dict[str, Any]) -> dict[str, Any]:
    """What a reference of the document stands for."""
    while "$ref" in value:
        place: Any = DOCUMENT
        for name in value["$ref"].removeprefix("#/").split("/"):
            place = place[name]
        value = place
    return value


def routes(server: Server) -> set[tuple[str, str]]:
    """The method and the path of everything that is served but the pages' files."""
    assert server._runner is not None
    pages = {f"/{path.name}" for path in STATIC_FILES} | set(_PAGES.values())
    return {
        (route.method.lower(), route.resource.canonical)
        for route in server._runner.app.router.routes()
        if route.resource is not None
        if route.method != "HEAD"
        if route.resource.canonical not in pages
    }


def check(method: str, path: str, status: int, body: Any) -> None:
    """Raise if an operation is not described as being answered like this."""
    answer = resolve(PATHS[path][method]["responses"][str(status)])
    schema = answer["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(body)


async def test_every_route_is_described_and_nothing_else(start: Start) -> None:
    hub = await start()
    described = {(method, path) for path, item in PATHS.items() for method in item}
    assert described == routes(hub.server)


def references(value: Any) -> set[str]:
    """All references in the document."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


def test_whatever_it_refers_to_is_there_and_used() -> None:
    used = references(DOCUMENT)
    for reference in used:
        resolve({"$ref": reference})
    for kind in ("schemas", "parameters"):
        for name in DOCUMENT["components"][kind]:
            assert f"#/components/{kind}/{name}" in used


def test_its_schemas_are_schemas() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_operations_have_names_of_their_own() -> None:
    ids = [one["operationId"] for item in PATHS.values() for one in item.values()]
    assert len(ids) == len(set(ids))


def test_every_error_is_described_with_its_status() -> None:
    for code, row in TABLE.items():
        assert f"`{code}`" in DOCUMENT["components"]["responses"][str(row.status)]["description"]


async def ask(
    hub: Running, method: str, path: str, body: Any = None, **more: Any
) -> tuple[int, Any]:
    """The status and the JSON of an answer."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, hub.url + path, json=body, **more) as answer,
    ):
        return answer.status, await answer.json()


TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
GOOD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/responses", {"input": "Hello"}),
    ("/v1/responses", {"input": "Hello", "background": True}),
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 1, "tools": [TOOL]}),
    ("/v1/responses", {"input": "Hello", "include": ["message.output_text.logprobs"]}),
    ("/v1/responses/input_tokens", {"input": "Hello"}),
    ("/v1/responses/compact", {"model": "sim", "input": "Hello"}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "add"}], "logprobs": True, "max_tokens": 3},
    ),
    ("/v1/completions", {"prompt": ["Hello", "Bye"], "n": 2, "max_tokens": 3}),
    ("/v1/completions", {"prompt": "a", "suffix": "b"}),
    ("/v1/fim/completions", {"prompt": "a", "suffix": "b"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ("/v1/infill", {"input_prefix": "a", "input_suffix": "b", "n_cmpl": 2}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b", "response_fields": ["content"]}),
    ("/lab/settings", {"batch_size": 4, "flush_interval_ms": 0.5}),
)


@pytest.mark.parametrize(("path", "body"), GOOD, ids=range(len(GOOD)))
async def test_a_good_request_and_its_answer_are_as_described(
    start: Start, path: str, body: dict[str, Any]
) -> None:
    hub = await start(lab=True)
    schema = PATHS[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(body)
    status, answer = await ask(hub, "POST", path, body)
    assert status == 200, answer
    check("post", path, status, answer)


BAD: tuple[tuple[str, Any], ...] = (
    *((path, []) for path, item in PATHS.items() if "requestBody" in item.get("post", {})),
    ("/v1/responses", {"input": 1}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "model": "absent"}),
    ("/infill", {"input_prefix": "a", "input_suffix": "b", "model": "absent"}),
    ("/v1/responses", {"input": "x", "previous_response_id": "absent"}),
    ("/lab/settings", {"window": 3}),
)


@pytest.mark.parametrize(("path", "body"), BAD, ids=range(len(BAD)))
async def test_a_refusal_is_as_described(start: Start, path: str, body: Any) -> None:
    hub = await start(lab=True)
    status, answer = await ask(hub, "POST", path, body)
    assert status >= 400
    check("post", path, status, answer)


async def test_what_is_kept_is_read_cancelled_and_deleted_as_described(start: Start) -> None:
    hub = await start()
    _, kept = await ask(hub, "POST", "/v1/responses", {"input": "Hello", "background": True})
    place = f"/v1/responses/{kept['id']}"
    for method, end in (("get", ""), ("get", "/input_items"), ("post", "/cancel"), ("delete", "")):
        status, answer = await ask(hub, method, place + end)
        assert status == 200, answer
        check(method, "/v1/responses/{id}" + end, status, answer)
        status, answer = await ask(hub, method, "/v1/responses/absent" + end)
        assert status == 404
        check(method, "/v1/responses/{id}" + end, status, answer)
    _, done = await ask(hub, "POST", "/v1/responses", {"input": "Hello"})
    status, answer = await ask(hub, "POST", f"/v1/responses/{done['id']}/cancel")
    assert status == 400
    check("post", "/v1/responses/{id}/cancel", status, answer)


async def test_the_rest_is_answered_as_described(start: Start) -> None:
    hub = await start()
    _, models = await ask(hub, "GET", "/v1/models")
    check("get", "/v1/models", 200, models)
    name = models["data"][0]["id"]
    check("get", "/v1/models/{model}", *await ask(hub, "GET", f"/v1/models/{name}"))
    check("get", "/v1/models/{model}", *await ask(hub, "GET", "/v1/models/absent"))
    check("get", "/v1/responses", *await ask(hub, "GET", "/v1/responses"))
    check("get", "/health", *await ask(hub, "GET", "/health"))
    check("get", "/health/ready", *await ask(hub, "GET", "/health/ready"))
    check("get", "/lab/settings", *await ask(hub, "GET", "/lab/settings"))
    check("post", "/v1/tickets", *await ask(hub, "POST", "/v1/tickets"))
    status, itself = await ask(hub, "GET", "/openapi.json")
    assert (status, itself) == (200, DOCUMENT)
