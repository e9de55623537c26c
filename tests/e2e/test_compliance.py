"""The checks of Open Responses' compliance suite, retold. One test each, by the suite's names.

Left out are those that need compaction. Every object and event is validated against the schemas of
the specification; the suite turns reasoning off, and so does the default here.
"""

import json
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.api.openapi import check_event, check_response
from tests.running import Running, Start

PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGA"
    "WjR9awAAAABJRU5ErkJggg=="
)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "City and state"}},
        "required": ["location"],
    },
}
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": content, **more}


@pytest.fixture
async def hub(start: Start) -> Running:
    return await start()


async def post(hub: Running, **body: Any) -> dict[str, Any]:
    """A response that is not streamed: valid, completed, with output."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{hub.url}/v1/responses", json={"model": "sim", **body}) as answer,
    ):
        assert answer.status == 200
        response: dict[str, Any] = await answer.json()
    check_response(response)
    assert response["status"] == "completed"
    assert response["output"]
    return response


async def turn(ws: ClientConnection, **body: Any) -> dict[str, Any]:
    """A turn on the default lane: every event valid; the terminal one."""
    await ws.send(json.dumps({"type": "response.create", "model": "sim", **body}))
    while True:
        event: dict[str, Any] = json.loads(await ws.recv())
        if event["type"] == "error":
            assert isinstance(event["status"], int)
            assert isinstance(event["error"]["code"], str)
            return event
        check_event(event)
        if event["type"] in TERMINAL:
            check_response(event["response"])
            return event


async def test_basic_response(hub: Running) -> None:
    await post(hub, input=[message("user", "Say hello in exactly 3 words.")])


async def test_assistant_phase(hub: Running) -> None:
    await post(
        hub,
        input=[
            message("user", "Hello"),
            message("assistant", "Let me think.", phase="commentary"),
            message("assistant", "Hello!", phase="final_answer"),
            message("user", "And again?"),
        ],
    )


async def test_streaming_response(hub: Running) -> None:
    body = {"model": "sim", "input": [message("user", "Count from 1 to 5.")], "stream": True}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{hub.url}/v1/responses", json=body) as answer,
    ):
        blocks = (await answer.text()).split("\n\n")
    data = [line[6:] for block in blocks for line in block.split("\n") if line[:6] == "data: "]
    assert data.pop() == "[DONE]"
    events = [json.loads(one) for one in data]
    for event in events:
        check_event(event)
    check_response(events[-1]["response"])
    assert events[-1]["response"]["status"] == "completed"


async def test_websocket_response(hub: Running) -> None:
    async with connect(hub.ws) as ws:
        assert (await turn(ws, input=[message("user", "Hi")]))["type"] == "response.completed"


async def test_websocket_sequential_responses(hub: Running) -> None:
    async with connect(hub.ws) as ws:
        for _ in range(2):
            last = await turn(ws, input=[message("user", "Hi")], store=False)
            assert last["type"] == "response.completed"


async def test_websocket_continuation(hub: Running) -> None:
    async with connect(hub.ws) as ws:
        first = await turn(ws, input=[message("user", "Remember 42.")], store=False)
        last = await turn(
            ws,
            input=[message("user", "What was it?")],
            store=False,
            previous_response_id=first["response"]["id"],
        )
    assert last["type"] == "response.completed"


async def test_websocket_reconnect_store_false_recovery(hub: Running) -> None:
    async with connect(hub.ws) as ws:
        first = await turn(ws, input=[message("user", "Hi")], store=False)
    async with connect(hub.ws) as ws:
        lost = await turn(
            ws,
            input=[message("user", "Go on")],
            store=False,
            previous_response_id=first["response"]["id"],
        )
        assert lost["error"]["code"] == "previous_response_not_found"
        fresh = await turn(ws, input=[message("user", "Hi")], store=False)
        assert fresh["type"] == "response.completed"


async def test_websocket_previous_response_not_found(hub: Running) -> None:
    async with connect(hub.ws) as ws:
        last = await turn(
            ws, input=[message("user", "Hi")], store=False, previous_response_id="resp_none"
        )
    assert last["error"]["code"] == "previous_response_not_found"


async def test_websocket_failed_continuation_evicts_cache(hub: Running) -> None:
    async with connect(hub.ws) as ws:
        first = await turn(ws, input=[message("user", "Hi")], store=False)
        parent = first["response"]["id"]
        output = {"type": "function_call_output", "call_id": "call_none", "output": "x"}
        failed = await turn(ws, input=[output], store=False, previous_response_id=parent)
        assert failed["type"] == "error"
        retried = await turn(
            ws, input=[message("user", "Hi")], store=False, previous_response_id=parent
        )
    assert retried["error"]["code"] == "previous_response_not_found"


async def test_system_prompt(hub: Running) -> None:
    await post(hub, input=[message("system", "Talk like a pirate."), message("user", "Say hello.")])


async def test_tool_calling(hub: Running) -> None:
    response = await post(
        hub,
        input=[message("user", "What is the weather like in San Francisco?")],
        tools=[WEATHER],
    )
    assert "function_call" in [item["type"] for item in response["output"]]


async def test_image_input(hub: Running) -> None:
    content = [
        {"type": "input_text", "text": "What do you see in this image?"},
        {"type": "input_image", "image_url": PNG},
    ]
    await post(hub, input=[message("user", content)])


async def test_multi_turn(hub: Running) -> None:
    await post(
        hub,
        input=[
            message("user", "My name is Alice."),
            message("assistant", "Hello Alice!"),
            message("user", "What is my name?"),
        ],
    )


async def test_reasoning_events_of_the_specification(start: Start) -> None:
    """With the specification's names, reasoning streams validate too."""
    hub = await start(hub_options={"reasoning_events": "reasoning"})
    async with connect(hub.ws) as ws:
        last = await turn(ws, input=[message("user", "Hi")], reasoning={"effort": "low"})
    assert [item["type"] for item in last["response"]["output"]] == ["reasoning", "message"]
