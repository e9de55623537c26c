"""The parts of the HTTP client that the upstream engine's tests cannot reach for certain."""

import asyncio

import pytest
from aiohttp import ClientPayloadError

from hub.engines.http_client import fail_when_lost, open_session
from tests.engines.scripted import Peer, answer, replies, serve

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_connection_that_was_lost_before_anyone_looked() -> None:
    headers_read = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.send(CHUNKED)
        await headers_read.wait()
        await peer.send(b"no chunk\r\n")

    async with (
        serve(script) as server,
        open_session(connect_timeout=5, idle_timeout=5) as session,
        session.get(server.url) as response,
    ):
        headers_read.set()
        assert response.connection is not None
        protocol = response.connection.protocol
        assert protocol is not None
        while protocol.transport is not None:  # noqa: ASYNC110 - its own event changes the case
            await asyncio.sleep(0)
        fail_when_lost(response)
        with pytest.raises(ClientPayloadError):
            await response.content.readany()


async def test_a_body_that_is_complete_is_no_failure() -> None:
    async with (
        serve(replies(answer(200, b"body"))) as server,
        open_session(connect_timeout=5, idle_timeout=5) as session,
        session.get(server.url) as response,
    ):
        body = await response.read()
        fail_when_lost(response)
        assert body == b"body"
        assert response.content.exception() is None
