"""The openai SDK's background mode, resume and webhooks against a hub that runs as a process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI
from openai.types.responses import Response

from hub.api.requests import Generation
from hub.engines.sim_text import full_text
from tests.e2e.process import command

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


def said(prompt: str) -> str:
    return full_text(Generation(model="sim", messages=[{"role": "user", "content": prompt}]))


class Receiver:
    """A webhook endpoint that keeps what it is sent."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, dict[str, str]]] = asyncio.Queue()
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        self.received.put_nowait((await request.read(), dict(request.headers)))
        return web.Response()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.port = runner.addresses[0][1]
    yield receiver
    await runner.cleanup()


async def poll(client: AsyncOpenAI, id: str) -> Response:
    """As OpenAI's guide has it, but without its pauses."""
    while True:
        response = await client.responses.retrieve(id)
        if response.status not in ("queued", "in_progress"):
            return response


async def test_background_retrieve_cancel_and_resume(tmp_path: Path) -> None:
    async with (
        command(
            "serve", "--port", "0", "--sim", "--sim-speed", "5", "--store", str(tmp_path)
        ) as hub,
        AsyncOpenAI(base_url=f"{hub.url}/v1", api_key="none", max_retries=0) as client,
    ):
        assert any(str(tmp_path) in line for line in hub.said)
        queued = await client.responses.create(model="sim", input="Hello", background=True)
        assert queued.status == "queued"
        ended = await poll(client, queued.id)
        assert (ended.status, ended.output_text) == ("completed", said("Hello"))

        # A stream that breaks off, and is taken up where it was.
        text, cursor, id = "", -1, ""
        stream = await client.responses.create(
            model="sim", input="Again", background=True, stream=True
        )
        async for event in stream:
            cursor = event.sequence_number
            if event.type == "response.created":
                id = event.response.id
            if event.type == "response.output_text.delta":
                text += event.delta
                if len(text) > 50:
                    break
        await stream.close()
        rest = await client.responses.retrieve(id, stream=True, starting_after=cursor)
        async for event in rest:
            assert event.sequence_number > cursor
            if event.type == "response.output_text.delta":
                text += event.delta
        assert text == said("Again")
        async with client.responses.stream(response_id=id, starting_after=cursor) as whole:
            async for _ in whole:
                pass
            assert (await whole.get_final_response()).output_text == said("Again")

        doomed = await client.responses.create(model="sim", input="Stop", background=True)
        assert (await client.responses.cancel(doomed.id)).status == "cancelled"
        assert (await client.responses.retrieve(doomed.id)).status == "cancelled"
        items = await client.responses.input_items.list(queued.id)
        assert [item.type async for item in items] == ["message"]
        await client.responses.delete(queued.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(queued.id)
        counted = await client.responses.input_tokens.count(model="sim", input="Hello")
        assert counted.input_tokens > 0
        compacted = await client.responses.compact(model="sim", input="Hello")
        assert compacted.output[-1].type == "compaction"


async def test_a_webhook_is_what_the_sdk_unwraps(receiver: Receiver) -> None:
    async with (
        command(
            *("serve", "--port", "0", "--sim", "--sim-speed", "50", "--webhook-private"),
            *("--webhook", f"http://127.0.0.1:{receiver.port}/hook#{SECRET}"),
        ) as hub,
        AsyncOpenAI(
            base_url=f"{hub.url}/v1", api_key="none", webhook_secret=SECRET, max_retries=0
        ) as client,
    ):
        created = await client.responses.create(model="sim", input="Hello", background=True)
        body, headers = await receiver.received.get()
        event = client.webhooks.unwrap(body, headers)
        assert event.type == "response.completed"
        assert event.data.id == created.id
        # It was told when the result was there to be fetched, not before.
        assert (await client.responses.retrieve(created.id)).output_text == said("Hello")
        with pytest.raises(openai.InvalidWebhookSignatureError):
            client.webhooks.unwrap(body.replace(b"completed", b"cancelled"), headers)
