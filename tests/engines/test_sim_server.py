"""The simulated model server over TCP: its shapes, its faults, and clients that go away."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import ClientSession, web

from hub.api.requests import Generation, Json
from hub.engines.base import Load
from hub.engines.load import parse_metrics
from hub.engines.sim import SimEngine
from hub.engines.sim_model import Profile
from hub.engines.sim_server import create_app, create_runner
from hub.engines.sim_text import full_text, script
from hub.engines.upstream import UpstreamEngine

FAST = Profile("fast", 2, 5_000, 2048, p0=0.01, p1=0, steps=((1, 0.01), (2, 0.01)))
GLACIAL = Profile("glacial", 1, 5_000, 2048, p0=1, p1=0, steps=((1, 1e9), (2, 1e9)))
"""The first token comes at once, and the second in eleven days."""

QUESTION: Json = {"messages": [{"role": "user", "content": "Tell me about rivers"}]}
GENERATION = Generation("sim", QUESTION["messages"])
TOOL: Json = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "required": ["what"]}},
}


def going_on(prompt: str, **limits: Any) -> str:
    """What the simulated model has to say after a raw text."""
    return full_text(Generation("sim", (), prompt=prompt, **limits))


@asynccontextmanager
async def serving(
    engine: SimEngine, runner: web.AppRunner | None = None
) -> AsyncIterator[ClientSession]:
    """A server on a port of its own, and a client of it."""
    runner = runner or create_runner(engine)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0]
        async with ClientSession(f"http://{host}:{port}") as client:
            yield client
    finally:
        await runner.cleanup()
        await engine.close()


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with serving(SimEngine(FAST, faults=True)) as client:
        yield client


def events(body: bytes) -> list[bytes]:
    """The data of a stream's events."""
    return re.findall(rb"^data: (.*)$", body, re.MULTILINE)


async def stream(client: ClientSession, **fields: Any) -> list[Json]:
    """The chunks of a stream that ends well."""
    body = {**QUESTION, "stream": True, **fields}
    async with client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        *chunks, done = events(await response.read())
    assert done == b"[DONE]"
    return [orjson.loads(chunk) for chunk in chunks]


async def ask(client: ClientSession, path: str = "chat/completions", **fields: Any) -> Json:
    """The answer to a request that does not stream."""
    async with client.post(f"/v1/{path}", json={**QUESTION, **fields}) as response:
        assert response.status == 200
        body: Json = orjson.loads(await response.read())
    return body


# -- Answers


async def test_a_stream_has_role_text_reason_and_usage(client: ClientSession) -> None:
    usage = {"include_usage": True}
    role, *texts, end, counts = await stream(client, stream_options=usage)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": None}
    assert [chunk["choices"][0]["delta"] for chunk in texts] == [
        {"content": token} for token in script(GENERATION).text
    ]
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert counts["choices"] == []
    assert counts["usage"]["completion_tokens"] == len(script(GENERATION))
    heads = [{key: chunk[key] for key in ("id", "object", "created", "model")} for chunk in texts]
    assert all(head == heads[0] for head in heads)
    assert (heads[0]["object"], heads[0]["model"]) == ("chat.completion.chunk", "sim")


async def test_usage_only_comes_if_it_is_wanted(client: ClientSession) -> None:
    assert all(chunk["choices"] for chunk in await stream(client))


async def test_a_whole_answer(client: ClientSession) -> None:
    answer = await ask(client, model="sim", reasoning_effort="low", logprobs=True, top_logprobs=1)
    generation = Generation("sim", QUESTION["messages"], extra={"reasoning_effort": "low"})
    said = script(generation)
    (choice,) = answer["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "".join(said.text),
        "reasoning_content": "".join(said.reasoning),
    }
    assert [one["token"] for one in choice["logprobs"]["content"]] == list(said.text)
    assert (answer["object"], choice["finish_reason"]) == ("chat.completion", "stop")
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(said.reasoning)


async def test_limits_and_logprobs_are_understood(client: ClientSession) -> None:
    chunks = await stream(client, max_tokens=3, logprobs=True)
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert "content" in chunks[1]["choices"][0]["logprobs"]
    assert (await ask(client, max_completion_tokens=4))["usage"]["completion_tokens"] == 4
    whole = full_text(GENERATION)
    assert (await ask(client, max_tokens=-1))["choices"][0]["message"]["content"] == whole
    stopped = await ask(client, stop=whole[20:25])
    assert stopped["choices"][0]["message"]["content"] == whole[: whole.index(whole[20:25])]


async def test_reasoning_is_streamed_first(client: ClientSession) -> None:
    chunks = await stream(client, reasoning_effort="low")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[1:-1]]
    kinds = [next(iter(delta)) for delta in deltas]
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {"reasoning_content", "content"}


async def test_tool_calls(client: ClientSession) -> None:
    chunks = await stream(client, tools=[TOOL])
    calls = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks[1:-1]]
    assert calls[0]["function"] == {"name": "look_up", "arguments": ""}
    assert {call["index"] for call in calls} == {0}
    streamed = "".join(call["function"]["arguments"] for call in calls)
    (choice,) = (await ask(client, tools=[TOOL]))["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert {"index": 0, **call, "function": {"name": "look_up", "arguments": ""}} == calls[0]
    assert call["function"] == {"name": "look_up", "arguments": streamed}
    assert choice["finish_reason"] == chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_an_unfinished_answer_is_gone_on_with(client: ClientSession) -> None:
    whole = full_text(GENERATION)
    messages = [*QUESTION["messages"], {"role": "assistant", "content": whole[:50]}]
    vllm: Json = {"continue_final_message": True, "add_generation_prompt": False}
    for fields in ({}, vllm):
        answer = await ask(client, messages=messages, **fields)
        assert answer["choices"][0]["message"]["content"] == whole[50:]
    anew = await ask(client, messages=messages, continue_final_message=False)
    assert anew["choices"][0]["message"]["content"] != whole[50:]


async def test_completions(client: ClientSession) -> None:
    answer = await ask(client, "completions", prompt="Tell me about rivers", max_tokens=9)
    text = going_on("Tell me about rivers", max_tokens=9)
    assert answer["choices"] == [{"index": 0, "text": text, "finish_reason": "length"}]
    body = {
        "prompt": "Tell me about rivers",
        "max_tokens": 9,
        "stream": True,
        "model": "sim+null=1",
    }
    async with client.post("/v1/completions", json=body) as response:
        null, *chunks, done = events(await response.read())
    texts = [orjson.loads(chunk)["choices"][0]["text"] for chunk in chunks]
    assert (null, done, "".join(texts)) == (b"null", b"[DONE]", text)


async def test_the_usage_of_a_streamed_completion(client: ClientSession) -> None:
    end, counts = (await complete(client, prompt="Once", stream_options=WITH_USAGE))[-2:]
    assert end["choices"] == [{"index": 0, "text": "", "finish_reason": "stop"}]
    assert "usage" not in end
    assert counts["choices"] == []
    assert counts["usage"]["completion_tokens"] == len(script(Generation("", (), prompt="Once")))
    assert (await complete(client, prompt="Once"))[-1]["choices"]


WITH_USAGE = {"include_usage": True}
PROMPTS = ["Once upon a time", "", "Tell me about rivers"]


async def complete(client: ClientSession, *, nulls: int = 0, **fields: Any) -> list[Json]:
    """The chunks of a streamed completion that ends well."""
    async with client.post("/v1/completions", json={"stream": True, **fields}) as response:
        assert response.status == 200
        *chunks, done = events(await response.read())
    assert done == b"[DONE]"
    assert chunks[:nulls] == [b"null"] * nulls
    return [orjson.loads(chunk) for chunk in chunks[nulls:]]


async def test_an_array_of_prompts_as_a_stream(client: ClientSession) -> None:
    """Null events first, one for each prompt but one; each one's usage in its last chunk."""
    chunks = await complete(client, nulls=2, prompt=PROMPTS, max_tokens=20)
    texts, usage = [""] * 3, [0] * 3
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert not usage[choice["index"]], "news after its end"
        texts[choice["index"]] += choice["text"]
        assert ("usage" in chunk) is (choice["finish_reason"] == "length")
        if "usage" in chunk:
            usage[choice["index"]] = chunk["usage"]["completion_tokens"]
    assert texts == [going_on(prompt, max_tokens=20) for prompt in PROMPTS]
    assert usage == [20] * 3
    order = [chunk["choices"][0]["index"] for chunk in chunks]
    assert order != sorted(order), "they interleave"


async def test_the_usage_of_an_array_as_a_sum(client: ClientSession) -> None:
    *rest, total = await complete(
        client, nulls=2, prompt=PROMPTS, max_tokens=20, stream_options=WITH_USAGE
    )
    assert total["choices"] == []
    assert total["usage"]["completion_tokens"] == 60
    assert sum("usage" in chunk for chunk in rest) == 3


async def test_an_array_of_prompts_as_a_whole(client: ClientSession) -> None:
    answer = await ask(client, "completions", prompt=PROMPTS, max_tokens=20)
    assert answer["choices"] == [
        {"index": index, "text": going_on(prompt, max_tokens=20), "finish_reason": "length"}
        for index, prompt in enumerate(PROMPTS)
    ]
    assert answer["usage"]["completion_tokens"] == 60


async def test_an_array_of_one(client: ClientSession) -> None:
    chunks = await complete(client, prompt=["Once"])
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == going_on("Once")
    assert "usage" in chunks[-1]


@pytest.mark.parametrize("streaming", [True, False])
async def test_an_array_shares_its_fate(client: ClientSession, streaming: bool) -> None:
    prompts = ["short", "x" * 30_000]
    body = {"prompt": prompts, "stream": streaming}
    async with client.post("/v1/completions", json=body) as response:
        assert response.status == 400
        error = orjson.loads(await response.read())["error"]
    assert (error["type"], error["n_prompt_tokens"]) == ("exceed_context_size_error", 7500)
    body = {**body, "prompt": ["a", "b"], "model": "sim+error=5"}
    async with client.post("/v1/completions", json=body) as response:
        if not streaming:
            assert response.status == 502
            return
        *_, last = events(await response.read())
    assert orjson.loads(last)["error"]["code"] == 500


async def test_completions_have_no_place_for_reasoning(client: ClientSession) -> None:
    plain = await ask(client, "completions", prompt="Tell me about rivers", reasoning_effort="low")
    assert plain["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


# -- What it says about itself


async def test_it_describes_itself(client: ClientSession) -> None:
    async def get(path: str) -> Any:
        async with client.get(path) as response:
            assert response.status == 200
            return orjson.loads(await response.read())

    assert (await get("/v1/models"))["data"][0]["id"] == "sim"
    assert await get("/health") == {"status": "ok"}
    assert await get("/props") == {
        "total_slots": 2,
        "default_generation_settings": {"n_ctx": 5000},
    }
    assert [slot["is_processing"] for slot in await get("/slots")] == [False, False]
    async with client.get("/metrics") as response:
        metrics = await response.text()
    assert "\nllamacpp:requests_deferred 0\n" in metrics
    assert '\nvllm:num_requests_waiting{engine="0",model_name="sim"} 0\n' in metrics


async def test_hub_understands_what_it_says_of_itself() -> None:
    """What hub's client makes of its documents is what the engine itself tells, in both words."""
    engine = SimEngine(GLACIAL)
    runner = create_runner(engine)
    async with serving(engine, runner) as client:
        host, port = runner.addresses[0]
        upstream = UpstreamEngine(f"http://{host}:{port}")
        assert await upstream.probe() == Load(1, 5000, 0, 0, 0.0) == await engine.probe()
        assert (upstream.slots, upstream.continues) == (1, True)
        requests = [
            asyncio.create_task(client.post("/v1/chat/completions", json=QUESTION))
            for _ in range(3)
        ]
        await until(client, lambda: engine.statistics().waiting == 2)
        load = await upstream.probe()
        assert (load.running, load.waiting) == (1, 2)
        assert load.kv_used == engine.statistics().kv_used / 5000 > 0
        assert load == await engine.probe()
        async with client.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        only = "\n".join(line for line in lines if not line.startswith("llamacpp:"))
        assert parse_metrics(only.encode()) == replace(load, slots=None)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        await until_aborted(client, engine, 3)
        await upstream.close()


# -- Refusals


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "invalid_request_error"),
        (b"[]", 400, "invalid_request_error"),
        (b"{}", 400, "invalid_request_error"),
        (b'{"messages": [7]}', 400, "invalid_request_error"),
        (b'{"messages": [{}], "stop": 7}', 400, "invalid_request_error"),
        (b'{"messages": [{}], "model": "gpt"}', 404, "invalid_request_error"),
        (b'{"messages": [{}], "model": "sim+wings"}', 404, "invalid_request_error"),
        (b'{"messages": [{}], "model": "sim+503", "stream": true}', 503, "server_error"),
        (b'{"messages": [{}], "model": "sim+error=0", "stream": true}', 502, "server_error"),
    ],
)
async def test_refusals(client: ClientSession, body: bytes, status: int, kind: str) -> None:
    async with client.post("/v1/chat/completions", data=body) as response:
        error = orjson.loads(await response.read())["error"]
        assert (response.status, error["code"], error["type"]) == (status, status, kind)


@pytest.mark.parametrize("prompt", [None, [], 7, [7], ["x", None], {"text": "x"}])
async def test_a_completion_needs_text(client: ClientSession, prompt: Any) -> None:
    async with client.post("/v1/completions", json={"prompt": prompt}) as response:
        assert response.status == 400


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("question", ["x" * 30_000, None])
async def test_a_prompt_that_is_too_long(
    client: ClientSession, streaming: bool, question: str | None
) -> None:
    messages = [{"role": "user", "content": question or "short"}]
    model = "sim" if question else "sim+400"
    body = {"messages": messages, "stream": streaming, "model": model}
    async with client.post("/v1/chat/completions", json=body) as response:
        assert response.status == 400
        error = orjson.loads(await response.read())["error"]
    assert (error["type"], error["n_ctx"]) == ("exceed_context_size_error", 5000)
    assert error["n_prompt_tokens"] == (7504 if question else 5)


# -- Faults


async def faulty(client: ClientSession, fault: str) -> aiohttp.ClientResponse:
    body = {**QUESTION, "stream": True, "model": f"sim+{fault}"}
    return await client.post("/v1/chat/completions", json=body)


async def test_too_many_requests(client: ClientSession) -> None:
    async with await faulty(client, "429=7") as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")


async def test_a_proxy_that_answers_in_html(client: ClientSession) -> None:
    async with await faulty(client, "html") as response:
        assert (response.status, response.content_type) == (502, "text/html")


async def test_an_error_in_mid_stream_is_an_event(client: ClientSession) -> None:
    async with await faulty(client, "error=5") as response:
        assert response.status == 200
        _role, *texts, error = events(await response.read())
    assert len(texts) == 5
    assert orjson.loads(error)["error"]["code"] == 500


async def test_a_stream_that_just_ends(client: ClientSession) -> None:
    async with await faulty(client, "eof=5") as response:
        got = events(await response.read())
    assert len(got) == 6
    assert orjson.loads(got[-1])["choices"][0]["finish_reason"] is None


@pytest.mark.parametrize("size", [1, 600])
async def test_a_connection_that_breaks(client: ClientSession, size: int) -> None:
    async with await faulty(client, f"cut={size}") as response:
        got = await response.content.readexactly(size)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()
    assert len(got) == size


async def test_null_events_come_first(client: ClientSession) -> None:
    async with await faulty(client, "null=2") as response:
        got = events(await response.read())
    assert got[:2] == [b"null", b"null"]
    assert b"null" not in got[2:]
    assert got[-1] == b"[DONE]"


async def test_comments_come_between(client: ClientSession) -> None:
    async with await faulty(client, "comment") as response:
        body = await response.read()
    assert body.startswith(b": comment\n\ndata: {")
    assert body.count(b": comment\n\n") == len(events(body)) - 1


async def test_an_event_that_is_no_json(client: ClientSession) -> None:
    async with await faulty(client, "garbage=2") as response:
        got = events(await response.read())
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(got[2])
    assert orjson.loads(got[1])
    assert orjson.loads(got[3])


async def test_faults_may_be_off() -> None:
    async with serving(SimEngine(FAST)) as client, await faulty(client, "html") as response:
        assert response.status == 200


# -- Clients that go away


async def until(client: ClientSession, condition: Callable[[], bool]) -> None:
    """Ask the server something until a condition holds: it works on everything that came before."""
    async with asyncio.timeout(20):
        while not condition():
            async with client.get("/health") as response:
                await response.read()


async def until_aborted(client: ClientSession, engine: SimEngine, count: int) -> None:
    """Wait until the server has noticed that so many clients are gone, and holds nothing."""
    await until(client, lambda: engine.statistics().aborted == count)
    state = engine.statistics()
    assert (state.running, state.waiting, state.kv_used) == (0, 0, 0)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_client_that_leaves_frees_its_slot(streaming: bool) -> None:
    engine = SimEngine(GLACIAL)
    body = {**QUESTION, "stream": streaming}
    async with serving(engine) as client:
        requests = [
            asyncio.create_task(client.post("/v1/chat/completions", json=body)) for _ in range(2)
        ]
        await until(client, lambda: engine.statistics().waiting == 1)
        for request in requests:
            request.cancel()
        await asyncio.wait(requests)
        await until_aborted(client, engine, 2)


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_client_that_leaves_frees_the_slots_of_an_array(streaming: bool) -> None:
    engine = SimEngine(GLACIAL)
    body = {"prompt": ["a", "b", "c"], "stream": streaming}
    async with serving(engine) as client:
        asking = asyncio.create_task(client.post("/v1/completions", json=body))
        await until(client, lambda: engine.statistics().waiting == 2)
        asking.cancel()
        await asyncio.wait([asking])
        await until_aborted(client, engine, 3)


async def test_a_client_that_leaves_in_mid_stream_frees_its_slot() -> None:
    engine = SimEngine(GLACIAL)
    async with serving(engine) as client:
        response = await client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
        assert b"role" in await response.content.readany()
        response.close()
        await until_aborted(client, engine, 1)


async def test_without_cancellation_the_next_write_notices() -> None:
    engine = SimEngine(replace(FAST, steps=((1, 10), (2, 10))))
    async with serving(engine, web.AppRunner(create_app(engine))) as client:
        response = await client.post("/v1/chat/completions", json={**QUESTION, "stream": True})
        await response.content.readany()
        response.close()
        await until_aborted(client, engine, 1)


async def test_a_hanging_request_sends_no_headers() -> None:
    engine = SimEngine(FAST, faults=True)
    async with serving(engine) as client:
        hanging = asyncio.create_task(faulty(client, "hang"))
        async with client.get("/health") as response:
            await response.read()
        assert not hanging.done()
        hanging.cancel()
        await asyncio.wait([hanging])
        await until_aborted(client, engine, 1)
