"""Background responses, resume, chains: what a store makes possible, over sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from hub.store.memory import MemoryStore
from tests.running import Running, Start

Body = dict[str, Any]
TERMINAL = {"response.completed", "response.failed", "response.incomplete", "error"}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


def said(*turns: str) -> str:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return full_text(Generation(model="", messages=messages))


class Api:
    """hub's HTTP API, in a few words."""

    def __init__(self, client: aiohttp.ClientSession, hub: Running) -> None:
        self._client = client
        self._url = f"{hub.url}/v1/responses"

    async def call(
        self, method: str, path: str = "", body: Body | None = None, **headers: str
    ) -> tuple[int, Body]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self._client.request(
            method, self._url + path, json=body, headers=names
        ) as answer:
            return answer.status, await answer.json()

    async def create(self, **body: Any) -> Body:
        status, response = await self.call("POST", body={"input": "Hello", **body})
        assert status == 200, response
        return response

    async def get(self, id: str) -> Body:
        status, response = await self.call("GET", f"/{id}")
        assert status == 200, response
        return response

    async def ended(self, id: str) -> Body:
        """The response once its stream has ended."""
        await self.stream(id)
        return await self.get(id)

    async def stream(self, id: str, after: int | None = None) -> list[Body]:
        """The events after a cursor, to the end."""
        query = "" if after is None else f"&starting_after={after}"
        async with self._client.get(f"{self._url}/{id}?stream=true{query}") as answer:
            assert answer.status == 200, await answer.text()
            return events((await answer.read()).decode())

    async def error(self, method: str, path: str, body: Body | None = None) -> tuple[int, str]:
        status, answer = await self.call(method, path, body)
        return status, answer["error"]["code"]


@pytest.fixture
async def hub(start: Start) -> Running:
    return await start()


@pytest.fixture
async def api(client: aiohttp.ClientSession, hub: Running) -> Api:
    return Api(client, hub)


def events(body: str) -> list[Body]:
    blocks = body.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    return [json.loads(block.split("\n")[1].removeprefix("data: ")) for block in blocks[:-2]]


def text(found: list[Body]) -> str:
    return "".join(e["delta"] for e in found if e["type"] == "response.output_text.delta")


def output_text(response: Body) -> str:
    content: str = response["output"][0]["content"][0]["text"]
    return content


async def send(ws: ClientConnection, type: str, **fields: Any) -> None:
    await ws.send(json.dumps({"type": type, **fields}))


async def turn(ws: ClientConnection) -> list[Body]:
    found: list[Body] = []
    while not found or found[-1]["type"] not in TERMINAL:
        found.append(json.loads(await ws.recv()))
    return found


# Background.


async def test_a_background_response_is_answered_at_once_and_runs(api: Api) -> None:
    queued = await api.create(background=True)
    assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
    ended = await api.ended(queued["id"])
    assert ended["status"] == "completed"
    assert output_text(ended) == said("Hello")
    assert ended["completed_at"] is not None


async def test_a_background_stream_begins_with_created_and_queued(
    client: aiohttp.ClientSession, hub: Running
) -> None:
    body = {"input": "Hello", "background": True, "stream": True}
    async with client.post(f"{hub.url}/v1/responses", json=body) as answer:
        found = events(await answer.text())
    kinds = [event["type"] for event in found]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert text(found) == said("Hello")


@pytest.mark.parametrize("phase", ["queued", "before the first token", "streaming"])
async def test_cancel_reaches_the_engine_in_every_phase(
    start: Start, client: aiohttp.ClientSession, phase: str
) -> None:
    hub = await start(speed=1.0, window=1)
    api = Api(client, hub)
    if phase == "queued":
        await api.create(background=True, model="sim+hang")
    model = "sim" if phase == "streaming" else "sim+hang"
    id = (await api.create(background=True, model=model))["id"]
    if phase == "before the first token":
        await hub.engine.asked.wait()
    if phase == "streaming":
        async with client.get(f"{hub.url}/v1/responses/{id}?stream=true") as stream:
            while b"output_text.delta" not in await stream.content.readline():
                pass
    status, response = await api.call("POST", f"/{id}/cancel")
    assert (status, response["status"]) == (200, "cancelled")
    again = await api.call("POST", f"/{id}/cancel")
    assert again == (200, response)
    assert await api.get(id) == response
    assert bool(response["output"]) == (phase == "streaming")
    last = (await api.stream(id))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
    assert hub.engine.statistics().running == 0


async def test_only_background_responses_can_be_cancelled_by_http(api: Api) -> None:
    id = (await api.create())["id"]
    assert await api.error("POST", f"/{id}/cancel") == (400, "invalid_value")
    assert await api.error("POST", "/resp_none/cancel") == (404, "response_not_found")


async def test_cancelling_what_has_ended_changes_nothing(api: Api) -> None:
    id = (await api.create(background=True))["id"]
    ended = await api.ended(id)
    assert await api.call("POST", f"/{id}/cancel") == (200, ended)


async def test_background_needs_the_store(api: Api) -> None:
    body = {"input": "x", "background": True, "store": False}
    assert await api.error("POST", "", body) == (400, "invalid_value")


async def test_a_background_failure_is_a_state_of_the_response(api: Api) -> None:
    id = (await api.create(background=True, model="sim+error=3"))["id"]
    ended = await api.ended(id)
    assert ended["status"] == "failed"
    assert ended["error"]["code"] == "upstream_error"


async def test_no_more_jobs_run_than_are_allowed(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(hub_options={"jobs": 2})
    api = Api(client, hub)
    ids = [(await api.create(background=True, input=f"Job {n}"))["id"] for n in range(10)]
    for number, id in enumerate(ids):
        assert output_text(await api.ended(id)) == said(f"Job {number}")


# Reading again.


async def test_any_cursor_gives_the_rest_of_the_log(api: Api) -> None:
    whole = await api.stream((await api.create())["id"])
    id = whole[0]["response"]["id"]
    assert text(whole) == said("Hello")
    for after in (0, 5, len(whole) // 2, len(whole) - 2):
        rest = await api.stream(id, after)
        assert rest[-1] == whole[-1]
        assert rest[0]["sequence_number"] > after
        missing = [e for e in whole if e["sequence_number"] > after]
        assert text(rest) == text(missing)
    assert await api.stream(id, len(whole) - 1) == []


async def test_many_readers_follow_one_response(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(speed=10.0)
    api = Api(client, hub)
    id = (await api.create(background=True))["id"]
    async with connect(hub.ws) as ws:
        await send(ws, "response.resume", response_id=id, stream_id="a")
        await send(ws, "response.resume", response_id=id, stream_id="b", starting_after=1)
        streams = await asyncio.gather(*(api.stream(id) for _ in range(5)))
        lanes: dict[str, list[Body]] = {"a": [], "b": []}
        while len([e for lane in lanes.values() for e in lane if e["type"] in TERMINAL]) < 2:
            event = json.loads(await ws.recv())
            lanes[event["stream_id"]].append(event)
    assert {text(found) for found in (*streams, *lanes.values())} == {said("Hello")}


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("starting_after=x", "invalid_type"),
        ("starting_after=100000", "invalid_value"),
        ("starting_after=-2", "invalid_value"),
    ],
)
async def test_a_bad_cursor_is_a_typed_error(api: Api, query: str, code: str) -> None:
    id = (await api.create())["id"]
    assert await api.error("GET", f"/{id}?stream=true&{query}") == (400, code)


@pytest.mark.parametrize("id", ["resp_none", "resp_" + "0" * 32, "%ED%A0%80", "x" * 300])
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("GET", "?stream=true"), ("DELETE", ""), ("GET", "/input_items")],
)
async def test_an_unknown_response_is_404(api: Api, id: str, method: str, path: str) -> None:
    assert await api.error(method, f"/{id}{path}") == (404, "response_not_found")


async def test_a_deleted_response_is_gone(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start(speed=1.0)
    api = Api(client, hub)
    running = (await api.create(background=True))["id"]
    ended = (await api.create(max_output_tokens=1))["id"]
    for id in (running, ended):
        assert await api.call("DELETE", f"/{id}") == (
            200,
            {"id": id, "object": "response", "deleted": True},
        )
        assert await api.error("GET", f"/{id}") == (404, "response_not_found")
        assert await api.error("DELETE", f"/{id}") == (404, "response_not_found")
    assert hub.engine.statistics().running == 0


async def test_an_unstored_response_cannot_be_read_again(api: Api) -> None:
    id = (await api.create(store=False))["id"]
    assert await api.error("GET", f"/{id}") == (404, "response_not_found")


async def test_resume_on_a_lane(hub: Running, api: Api) -> None:
    whole = await api.stream((await api.create())["id"])
    id = whole[0]["response"]["id"]
    async with connect(hub.ws) as ws:
        await send(ws, "response.resume", response_id=id, starting_after=7, stream_id="a")
        rest = await turn(ws)
        assert {event["stream_id"] for event in rest} == {"a"}
        assert text(rest) == text(whole[8:])
        # A resumed response can be gone on from, like one that was made here.
        await send(ws, "response.create", input="More", previous_response_id=id, store=False)
        assert text(await turn(ws)) == said("Hello", said("Hello"), "More")


async def test_a_response_can_be_read_again_and_again_on_a_lane(hub: Running, api: Api) -> None:
    id = (await api.create())["id"]
    async with connect(hub.ws) as ws:
        for _ in range(3):
            await send(ws, "response.resume", response_id=id, stream_id="a")
            assert text(await turn(ws)) == said("Hello")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "response_id"),
        ({"response_id": 7}, "invalid_type", "response_id"),
        ({"response_id": "resp_none"}, "response_not_found", None),
        ({"response_id": "?", "starting_after": "1"}, "invalid_type", "starting_after"),
        ({"response_id": "?", "starting_after": 10_000}, "invalid_value", "starting_after"),
    ],
)
async def test_a_bad_resume_is_a_typed_error_on_its_lane(
    hub: Running, api: Api, fields: Body, code: str, param: str | None
) -> None:
    id = (await api.create(max_output_tokens=1))["id"]
    known = {key: id if value == "?" else value for key, value in fields.items()}
    async with connect(hub.ws) as ws:
        await send(ws, "response.resume", stream_id="a", **known)
        (event,) = await turn(ws)
        assert (event["stream_id"], event["error"]["code"]) == ("a", code)
        assert event["error"]["param"] == param
        await send(ws, "response.create", stream_id="a", input="Hello")
        assert text(await turn(ws)) == said("Hello")


async def test_resume_reads_from_the_store_what_is_not_in_memory(
    start: Start, client: aiohttp.ClientSession
) -> None:
    store = MemoryStore()
    first = await start(store=store)
    whole = await Api(client, first).stream((await Api(client, first).create())["id"])
    id = whole[0]["response"]["id"]
    second = await start(store=store)
    api = Api(client, second)
    assert await api.stream(id) == whole
    assert output_text(await api.get(id)) == said("Hello")
    async with connect(second.ws) as ws:
        await send(ws, "response.create", input="More", previous_response_id=id)
        assert text(await turn(ws)) == said("Hello", said("Hello"), "More")


# A disconnect is not a stop.


async def test_a_stored_response_waits_for_its_reader_to_come_back(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(speed=5.0)
    async with connect(hub.ws) as ws:
        await send(ws, "response.create", input="Hello", stream_id="a")
        had: list[Body] = []
        while len(had) < 10:
            had.append(json.loads(await ws.recv()))
        ws.transport.abort()
    id = had[0]["response"]["id"]
    async with connect(hub.ws) as ws:
        cursor = had[-1]["sequence_number"]
        await send(ws, "response.resume", response_id=id, starting_after=cursor, stream_id="z")
        rest = await turn(ws)
    assert text(had) + text(rest) == said("Hello")
    assert hub.engine.statistics().aborted == 0


async def test_a_stored_response_is_cancelled_when_nobody_comes_back(start: Start) -> None:
    hub = await start(speed=1.0, hub_options={"grace": 0.01})
    async with connect(hub.ws) as ws:
        await send(ws, "response.create", input="Hello")
        await ws.recv()
        ws.transport.abort()
    await hub.hub.until_idle()
    assert hub.hub.statistics().by_status == {"cancelled": 1}


async def test_a_background_response_needs_no_reader(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(speed=20.0, hub_options={"grace": 0.0})
    api = Api(client, hub)
    body = {"input": "Hello", "background": True, "stream": True}
    async with client.post(f"{hub.url}/v1/responses", json=body) as answer:
        line = (await answer.content.readuntil(b"\n\n")).split(b"\n")[1]
    id = json.loads(line.removeprefix(b"data: "))["response"]["id"]
    assert output_text(await api.ended(id)) == said("Hello")


# Chains.


async def test_a_chain_goes_on_over_http(api: Api) -> None:
    one = await api.create(input="One", instructions="Only for the first")
    chain = ["One", output_text(one), "Two"]
    two = await api.create(input="Two", previous_response_id=one["id"])
    # Instructions are not inherited.
    assert output_text(two) == said(*chain)
    three = await api.create(input="Three", previous_response_id=two["id"])
    assert output_text(three) == said(*chain, output_text(two), "Three")
    fork = await api.create(input="Else", previous_response_id=one["id"])
    assert output_text(fork) == said(*chain[:2], "Else")


async def test_a_chain_survives_in_the_store(start: Start, client: aiohttp.ClientSession) -> None:
    store = MemoryStore()
    first = Api(client, await start(store=store))
    one = (await first.create(input="One"))["id"]
    two = (await first.create(input="Two", previous_response_id=one))["id"]
    second = Api(client, await start(store=store))
    third = await second.create(input="Three", previous_response_id=two)
    said_two = said("One", said("One"), "Two")
    assert output_text(third) == said("One", said("One"), "Two", said_two, "Three")


async def test_a_failed_or_running_parent_cannot_be_gone_on_from(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(speed=1.0)
    api = Api(client, hub)
    failed = (await api.create(background=True, model="sim+error=0"))["id"]
    await api.ended(failed)
    running = (await api.create(background=True))["id"]
    for id in (failed, running, "resp_none"):
        body = {"input": "x", "previous_response_id": id}
        assert await api.error("POST", "", body) == (400, "previous_response_not_found")


async def test_input_items_are_listed_in_pages(api: Api) -> None:
    one = (await api.create(input="One"))["id"]
    two = (await api.create(input="Two", previous_response_id=one))["id"]
    _, page = await api.call("GET", f"/{two}/input_items?order=asc")
    texts = [item["content"][0]["text"] for item in page["data"]]
    assert texts == ["One", said("One"), "Two"]
    assert (page["object"], page["has_more"]) == ("list", False)
    assert len({item["id"] for item in page["data"]}) == 3
    seen: list[str] = []
    after = ""
    while True:
        _, page = await api.call("GET", f"/{two}/input_items?limit=1{after}")
        seen += [item["content"][0]["text"] for item in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"
    assert seen == texts[::-1]
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=nothing"):
        status, _ = await api.error("GET", f"/{two}/input_items?{query}")
        assert status == 400


async def test_input_tokens_are_counted(api: Api) -> None:
    status, answer = await api.call("POST", "/input_tokens", {"input": "word " * 100})
    assert status == 200
    assert answer["object"] == "response.input_tokens"
    assert 100 <= answer["input_tokens"] <= 200


# Compaction.


async def test_a_compacted_conversation_starts_a_new_chain(hub: Running, api: Api) -> None:
    one = (await api.create(input="My name is Ada."))["id"]
    status, compacted = await api.call(
        "POST",
        "/compact",
        {"model": "sim", "input": "And I like tea.", "previous_response_id": one},
    )
    assert status == 200
    kinds = [item["type"] for item in compacted["output"]]
    assert kinds == ["message", "message", "compaction"]
    async with connect(hub.ws) as ws:
        question = {"type": "message", "role": "user", "content": "Who am I?"}
        await send(ws, "response.create", input=[*compacted["output"], question], store=False)
        last = (await turn(ws))[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["previous_response_id"] is None
    # A summary is not a response.
    assert await api.error("GET", f"/{compacted['id']}") == (404, "response_not_found")


async def test_compaction_needs_a_model(api: Api) -> None:
    body = {"input": "Hello"}
    assert await api.error("POST", "/compact", body) == (400, "missing_required_parameter")


# Idempotency.


@pytest.mark.parametrize("background", [True, False])
async def test_an_idempotency_key_gives_the_first_response(
    start: Start, client: aiohttp.ClientSession, background: bool
) -> None:
    store = MemoryStore()
    hub = await start(store=store)
    body = {"input": "Hello", "background": background}
    answers = await asyncio.gather(
        *(Api(client, hub).call("POST", body=body, idempotency_key="k") for _ in range(5))
    )
    ids = {response["id"] for _, response in answers}
    assert len(ids) == 1
    await Api(client, hub).ended(ids.pop())
    assert hub.engine.statistics().finished == 1
    again = await start(store=store)
    _, repeated = await Api(client, again).call("POST", body=body, idempotency_key="k")
    assert repeated["id"] == answers[0][1]["id"]
    assert output_text(repeated) == said("Hello")
    status, conflict = await Api(client, again).call(
        "POST", body={"input": "Another"}, idempotency_key="k"
    )
    assert (status, conflict["error"]["code"]) == (409, "idempotency_conflict")
    _, other = await Api(client, again).call("POST", body=body, idempotency_key="other")
    assert other["id"] != repeated["id"]


async def test_there_is_no_head_of_a_stream(client: aiohttp.ClientSession, start: Start) -> None:
    """Its events would follow a head that has no body, and be taken for the next answer."""
    hub = await start()
    id = (await Api(client, hub).create())["id"]
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    for path in (f"/v1/responses/{id}?stream=true", "/v1/responses"):
        writer.write(f"HEAD {path} HTTP/1.1\r\nHost: hub\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 405 ")
    writer.write(b"GET /health HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
