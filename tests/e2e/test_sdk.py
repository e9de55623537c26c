"""The openai SDK against a running hub: HTTP, SSE, WebSocket lanes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.lib.responses_websocket import (
    AsyncResponsesWebSocketSession,
    ResponsesWebSocketLimits,
)

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.running import Running, Start

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a place",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
WITH_USAGE: Any = {"include_usage": True}
LIMITS = ResponsesWebSocketLimits(
    max_lanes=8,
    max_events_per_lane=1000,
    max_events=4000,
    max_bytes_per_lane=16 << 20,
    max_bytes=32 << 20,
)


@pytest.fixture
async def hub(start: Start) -> Running:
    return await start()


@pytest.fixture
async def client(hub: Running) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{hub.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def said(prompt: str) -> str:
    messages = [{"role": "user", "content": prompt}]
    return full_text(Generation(model="sim", messages=messages))


async def test_responses_create(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="sim", input="Hello")
    assert response.status == "completed"
    assert response.output_text == said("Hello")
    assert response.usage is not None
    assert response.usage.total_tokens > 0
    assert response._request_id


async def test_responses_stream(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="sim", input="Hello") as stream:
        text = "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])
        final = await stream.get_final_response()
    assert text == final.output_text == said("Hello")


async def test_a_tool_is_called_and_its_output_taken_up(client: AsyncOpenAI) -> None:
    first = await client.responses.create(
        model="sim", input="What is the weather in Paris?", tools=[WEATHER]
    )
    call = first.output[0]
    assert call.type == "function_call"
    assert call.name == "get_weather"
    second = await client.responses.create(
        model="sim",
        tools=[WEATHER],
        input=[
            {"role": "user", "content": "What is the weather in Paris?"},
            *[item.model_dump() for item in first.output],  # type: ignore[list-item]
            {"type": "function_call_output", "call_id": call.call_id, "output": "18 °C"},
        ],
    )
    assert second.output[0].type == "message"
    async with client.responses.stream(
        model="sim", input="What is the weather in Paris?", tools=[WEATHER]
    ) as stream:
        final = await stream.get_final_response()
    assert final.output[0].type == "function_call"


async def test_reasoning_comes_before_the_text(client: AsyncOpenAI) -> None:
    response = await client.responses.create(
        model="sim", input="Hello", reasoning={"effort": "low"}
    )
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0


async def test_chat_completions(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="sim", messages=[{"role": "user", "content": "Hello"}]
    )
    assert answer.choices[0].message.content == said("Hello")
    stream = await client.chat.completions.create(
        model="sim",
        messages=[{"role": "user", "content": "Hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage = "", None
    async for chunk in stream:
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == said("Hello")
    assert usage is not None
    assert usage.completion_tokens > 0


async def test_chat_tools_stream(client: AsyncOpenAI) -> None:
    function = {key: value for key, value in WEATHER.items() if key != "type"}
    async with client.chat.completions.stream(
        model="sim",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[{"type": "function", "function": function}],  # type: ignore[typeddict-item]
    ) as stream:
        final = await stream.get_final_completion()
    choice = final.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].function.name == "get_weather"


async def test_completions(client: AsyncOpenAI) -> None:
    prompts = ["Once upon a time", "def add(a, b):"]
    expected = [full_text(Generation("sim", (), prompt=prompt)) for prompt in prompts]
    whole = await client.completions.create(model="sim", prompt=prompts)
    assert [choice.text for choice in whole.choices] == expected
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens > 0
    texts = ["", ""]
    stream = await client.completions.create(model="sim", prompt=prompts, stream=True)
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == expected
    one = await client.completions.create(
        model="sim", prompt=prompts[0], max_tokens=9, stream=True, stream_options=WITH_USAGE
    )
    chunks = [chunk async for chunk in one]
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == full_text(Generation("sim", (), prompt=prompts[0], max_tokens=9))
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 9


async def test_two_lanes_interleave_on_one_socket(client: AsyncOpenAI) -> None:
    async with (
        client.responses.connect() as connection,
        AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):
        lanes = {name: session.lane(name) for name in ("a", "b")}
        for name, lane in lanes.items():
            await lane.send({"type": "response.create", "model": "sim", "input": f"Hello {name}"})
        finals = await asyncio.gather(*(lane.get_final_response() for lane in lanes.values()))
        assert [final.output_text for final in finals] == [said("Hello a"), said("Hello b")]
        await lanes["a"].send(
            {
                "type": "response.create",
                "model": "sim",
                "input": "And now?",
                "previous_response_id": finals[0].id,
            }
        )
        again = await lanes["a"].get_final_response()
        assert again.previous_response_id == finals[0].id
        assert again.status == "completed"


async def test_errors_are_the_sdks_own(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await client.responses.create(model="none", input="Hello")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.responses.create(model="sim", input="Hello", temperature=9)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.InternalServerError) as broken:
        await client.chat.completions.create(
            model="sim+error=0", messages=[{"role": "user", "content": "Hello"}]
        )
    assert broken.value.code == "upstream_error"
    stream = await client.chat.completions.create(
        model="sim+error=3", messages=[{"role": "user", "content": "Hello"}], stream=True
    )
    with pytest.raises(openai.APIError):
        async for _ in stream:
            pass
    texts = await client.completions.create(model="sim+error=3", prompt=["a", "b"], stream=True)
    with pytest.raises(openai.APIError, match="fails"):
        async for _ in texts:
            pass
    with pytest.raises(openai.BadRequestError) as refused:
        await client.completions.create(model="sim", prompt=[[1, 2]])
    assert refused.value.param == "prompt"


async def test_models(client: AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["sim"]
    assert (await client.models.retrieve("sim")).id == "sim"
