"""Small questions to model servers: what their client library gets wrong."""

import asyncio

import pytest

from hub.engines.upstream import UpstreamEngine
from hub.errors import HubError
from tests.engines.scripted import replies, serve

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'8\r\n{"data":'
BROKEN = b" []}\r\n0\r\n\r\n"


async def test_an_answer_whose_chunks_are_broken_is_not_waited_for_for_ever() -> None:
    """aiohttp may say nothing of them, not even when the connection is closed."""
    async with serve(replies(HEAD, CHUNK, BROKEN)) as server:
        engine = UpstreamEngine(server.url, connect_timeout=0.05, idle_timeout=0.05)
        async with asyncio.timeout(10):
            with pytest.raises(HubError) as caught:
                await engine.models()
        await engine.close()
    assert caught.value.code in ("upstream_timeout", "upstream_protocol_error")
