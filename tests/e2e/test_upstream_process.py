"""hub in front of a model server in another process, over TCP, faults included."""

import asyncio
import json
import signal
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.e2e.process import Command, command

PROMPT = "Hello"


def said() -> str:
    return full_text(Generation(model="sim", messages=[{"role": "user", "content": PROMPT}]))


async def post(hub: Command, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{hub.url}/v1/{path}", json=body) as answer,
    ):
        return answer.status, await answer.json()


async def upstream_statistics(model_server: Command) -> dict[str, float]:
    """The model server's own counts, from its metrics."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{model_server.url}/metrics") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return {
        name: float(value)
        for name, _, value in (line.partition(" ") for line in lines if not line.startswith("#"))
    }


async def test_every_flow_works_over_a_real_upstream() -> None:
    async with (
        command("sim", "--port", "0", "--speed", "50", "--faults") as model_server,
        command("serve", "--port", "0", "--upstream", model_server.url) as hub,
    ):
        assert any(f"{model_server.url}/v1" in line for line in hub.said)
        # No model named: the upstream's own, and its name in the answer.
        status, body = await post(hub, "responses", input=PROMPT)
        assert (status, body["model"]) == (200, "sim")
        assert body["output"][0]["content"][0]["text"] == said()
        assert body["usage"]["input_tokens"] > 0
        status, chat = await post(
            hub, "chat/completions", messages=[{"role": "user", "content": PROMPT}]
        )
        assert chat["choices"][0]["message"]["content"] == said()
        async with connect(f"ws{hub.url.removeprefix('http')}/v1/responses") as ws:
            for lane in ("a", "b"):
                create = {"type": "response.create", "stream_id": lane, "input": PROMPT}
                await ws.send(json.dumps(create))
            texts = {"a": "", "b": ""}
            ended = 0
            while ended < 2:
                event = json.loads(await ws.recv())
                if event["type"] == "response.output_text.delta":
                    texts[event["stream_id"]] += event["delta"]
                ended += event["type"] == "response.completed"
        assert texts == {"a": said(), "b": said()}


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ("null", "completed"),
        ("comment", "completed"),
        ("slow=1", "completed"),
        ("429", "upstream_overloaded"),
        ("503", "upstream_overloaded"),
        ("400", "context_length_exceeded"),
        ("html", "upstream_unavailable"),
        ("error=5", "upstream_error"),
        ("eof=5", "upstream_incomplete_stream"),
        ("garbage", "upstream_protocol_error"),
        ("cut=0", "upstream_incomplete_stream"),
        ("cut=100", "upstream_incomplete_stream"),
        ("cut=1234", "upstream_incomplete_stream"),
    ],
)
async def test_a_faulty_upstream_is_a_typed_failure_and_no_other_request_notices(
    fault: str, outcome: str
) -> None:
    async with (
        command("sim", "--port", "0", "--speed", "50", "--faults") as model_server,
        command("serve", "--port", "0", "--upstream", model_server.url) as hub,
    ):
        bad, good = await asyncio.gather(
            post(hub, "responses", input=PROMPT, model=f"sim+{fault}"),
            post(hub, "responses", input=PROMPT, model="sim"),
        )
    assert good[1]["output"][0]["content"][0]["text"] == said()
    body = bad[1]
    if outcome == "completed":
        assert body["output"][0]["content"][0]["text"] == full_text(
            Generation(model=f"sim+{fault}", messages=[{"role": "user", "content": PROMPT}])
        )
    else:
        assert body["error"]["code"] == outcome


async def test_a_hanging_upstream_is_given_up_after_the_idle_timeout() -> None:
    async with (
        command("sim", "--port", "0", "--faults") as model_server,
        command(
            "serve", "--port", "0", "--upstream", model_server.url, "--idle-timeout", "0.2"
        ) as hub,
    ):
        status, body = await post(hub, "responses", input=PROMPT, model="sim+hang")
    assert (status, body["error"]["code"]) == (504, "upstream_timeout")


async def test_a_dead_upstream_is_a_typed_error_and_comes_back() -> None:
    async with command("sim", "--port", "0") as model_server:
        port = model_server.url.rpartition(":")[2]
        async with command("serve", "--port", "0", "--upstream", model_server.url) as hub:
            await model_server.stop(signal.SIGKILL)
            status, body = await post(hub, "responses", input=PROMPT)
            assert (status, body["error"]["code"]) == (502, "upstream_unavailable")
            async with command("sim", "--port", port, "--speed", "50"):
                # hub asks it from time to time whether it is back.
                while status == 502:
                    status, body = await post(hub, "responses", input=PROMPT)
                assert (status, body["status"]) == (200, "completed")


async def test_an_upstream_that_dies_in_mid_stream_fails_its_responses() -> None:
    async with (
        command("sim", "--port", "0") as model_server,
        command("serve", "--port", "0", "--upstream", model_server.url) as hub,
        connect(f"ws{hub.url.removeprefix('http')}/v1/responses") as ws,
    ):
        await ws.send(json.dumps({"type": "response.create", "input": PROMPT}))
        while json.loads(await ws.recv())["type"] != "response.output_text.delta":
            pass
        await model_server.stop(signal.SIGKILL)
        while (event := json.loads(await ws.recv()))["type"] == "response.output_text.delta":
            pass
        assert event["type"] == "response.failed"
        assert event["response"]["error"]["code"] == "upstream_incomplete_stream"
        assert said().startswith(event["response"]["output"][0]["content"][0]["text"])


async def test_a_client_that_vanishes_frees_the_model_server() -> None:
    async with (
        command("sim", "--port", "0") as model_server,
        command("serve", "--port", "0", "--upstream", model_server.url) as hub,
    ):
        async with connect(f"ws{hub.url.removeprefix('http')}/v1/responses") as ws:
            await ws.send(json.dumps({"type": "response.create", "input": PROMPT, "store": False}))
            while json.loads(await ws.recv())["type"] != "response.output_text.delta":
                pass
            ws.transport.abort()
        # The model server's own word for it; the test's timeout is the deadline.
        while (await upstream_statistics(model_server))["llamacpp:requests_processing"]:
            pass


async def test_sigterm_drains_and_exits() -> None:
    async with command("serve", "--port", "0", "--sim", "--sim-speed", "5") as hub:
        async with connect(f"ws{hub.url.removeprefix('http')}/v1/responses") as ws:
            await ws.send(json.dumps({"type": "response.create", "input": PROMPT}))
            while json.loads(await ws.recv())["type"] != "response.output_text.delta":
                pass
            hub.process.send_signal(signal.SIGTERM)
            with suppress(ConnectionClosed):
                while True:
                    event = json.loads(await ws.recv())
            assert event["type"] == "response.completed"
            assert event["response"]["output"][0]["content"][0]["text"] == said()
            assert ws.close_code == 1012
        assert await hub.process.wait() == 0


async def test_a_second_signal_ends_what_runs() -> None:
    async with command("serve", "--port", "0", "--sim", "--sim-faults") as hub:
        async with connect(f"ws{hub.url.removeprefix('http')}/v1/responses") as ws:
            create = {"type": "response.create", "input": PROMPT, "model": "sim+hang"}
            await ws.send(json.dumps(create))
            assert json.loads(await ws.recv())["type"] == "response.created"
            hub.process.send_signal(signal.SIGTERM)
            assert hub.process.stdout is not None
            assert b"Stopping" in await hub.process.stdout.readline()
            hub.process.send_signal(signal.SIGTERM)
            with suppress(ConnectionClosed):
                while True:
                    event = json.loads(await ws.recv())
            assert event["response"]["status"] == "cancelled"
        assert await hub.process.wait() == 0
