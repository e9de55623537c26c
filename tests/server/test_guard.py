"""What a request has to get past: its host, its page, its encoding, and who it is for whom a proxy
asks."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from hub.server.door import Door, Limits
from hub.server.proxies import Proxies, parse_proxy
from hub.server.sites import LOOPBACK_NAMES, Sites
from tests.running import Start

APP = "https://app.example"
EVIL = "https://evil-app.example"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def code_of(answer: aiohttp.ClientResponse) -> str:
    code: str = (await answer.json())["error"]["code"]
    return code


def behind_a_proxy(**limits: Any) -> Door:
    """This machine is the proxy."""
    return Door(Limits(**limits), proxies=Proxies([parse_proxy("127.0.0.1")]))


async def test_a_rebound_name_is_refused_over_http_and_websocket(
    start: Start, client: aiohttp.ClientSession
) -> None:
    """Its page is of hub's origin, as far as its browser can see."""
    hub = await start(sites=Sites(hosts=LOOPBACK_NAMES))
    headers = {"Host": f"evil.example:{hub.port}", "Origin": f"http://evil.example:{hub.port}"}
    async with client.get(f"{hub.url}/health", headers=headers) as answer:
        assert answer.status == 421
        assert await code_of(answer) == "host_not_allowed"
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://evil.example:{hub.port}/v1/responses", host="127.0.0.1", proxy=None)
    assert refused.value.response.status_code == 421
    async with client.get(f"{hub.url}/health") as answer:
        assert answer.status == 200
    async with client.get(f"{hub.url}/metrics") as answer:
        assert 'hub_requests_refused_total{reason="host"} 2.0' in await answer.text()


async def test_a_listed_page_may_ask_before_and_read_what_it_gets(
    start: Start, client: aiohttp.ClientSession
) -> None:
    """Also an error, and a stream; never with what a browser would add by itself."""
    hub = await start(sites=Sites([APP]))
    ask = {
        "Origin": APP,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-hub-class",
    }
    async with client.options(f"{hub.url}/v1/responses", headers=ask) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == APP
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        allowed = answer.headers["Access-Control-Allow-Headers"]
        assert allowed == "authorization, content-type, x-hub-class"
    for body, status in (({"input": "Hi", "stream": True}, 200), ({}, 400)):
        async with client.post(
            f"{hub.url}/v1/responses", json=body, headers={"Origin": APP}
        ) as answer:
            await answer.read()
            assert answer.status == status
            assert answer.headers["Access-Control-Allow-Origin"] == APP
            assert answer.headers["Vary"] == "Origin"
            assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
            assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", [EVIL, "null", f"{APP}.evil"])
async def test_another_page_is_refused_and_may_not_read_why(
    start: Start, client: aiohttp.ClientSession, origin: str
) -> None:
    hub = await start(sites=Sites([APP]))
    ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for method in ("OPTIONS", "POST", "GET"):
        async with client.request(method, f"{hub.url}/v1/responses", headers=ask) as answer:
            assert answer.status == 403
            assert await code_of(answer) == "origin_not_allowed"
            assert "Access-Control-Allow-Origin" not in answer.headers
            assert answer.headers["Vary"] == "Origin"
    with pytest.raises(InvalidStatus) as refused:
        await connect(hub.ws, additional_headers={"Origin": origin}, proxy=None)
    assert refused.value.response.status_code == 403


async def test_a_listed_page_may_open_a_websocket(start: Start) -> None:
    hub = await start(sites=Sites([APP]))
    async with connect(hub.ws, additional_headers={"Origin": APP}, proxy=None) as ws:
        await ws.send('{"type":"response.create","input":"Hi","max_output_tokens":1}')
        assert json.loads(await ws.recv())["type"] == "response.created"


async def test_hubs_own_answers_do_not_differ_by_origin_when_no_other_may(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    async with client.get(f"{hub.url}/health", headers={"Origin": hub.url}) as answer:
        assert answer.status == 200
        assert "Vary" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "GZIP", "identity, gzip"])
async def test_a_compressed_body_is_refused_and_nothing_is_made_of_it(
    start: Start, client: aiohttp.ClientSession, encoding: str
) -> None:
    """64 MiB of zeros, say."""
    hub = await start()
    bomb = gzip.compress(bytes(64 << 20), 1)
    headers = {"Content-Encoding": encoding}
    async with client.post(f"{hub.url}/v1/responses", data=bomb, headers=headers) as answer:
        assert answer.status == 415
        assert await code_of(answer) == "unsupported_value"


async def test_a_websocket_that_offers_compression_gets_none(start: Start) -> None:
    """And a client that compresses all the same breaks the protocol."""
    hub = await start()
    async with connect(hub.ws, compression="deflate", proxy=None) as ws:
        assert ws.response is not None
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        ws.transport.write(b"\xc1\x81\0\0\0\0x")
        with pytest.raises(ConnectionClosed) as closed:
            await ws.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1002


async def test_a_proxys_word_counts_for_scheme_host_and_address(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(door=behind_a_proxy(), sites=Sites(hosts=["hub.example"]))
    headers = {
        "X-Forwarded-Host": "hub.example",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "192.0.2.1",
    }
    for origin, status in (("https://hub.example", 200), ("http://hub.example", 403)):
        async with client.get(f"{hub.url}/health", headers={**headers, "Origin": origin}) as answer:
            assert answer.status == status
    async with client.get(f"{hub.url}/health") as answer:
        assert answer.status == 421


async def test_who_is_behind_a_proxy_is_counted_by_request_and_by_websocket(
    start: Start, client: aiohttp.ClientSession
) -> None:
    """The proxy's own sockets are nobody's."""
    hub = await start(door=behind_a_proxy(per_address=2))
    headers = {"X-Forwarded-For": "192.0.2.1"}

    def open() -> connect:
        return connect(hub.ws, additional_headers=headers, proxy=None)

    async with open(), open() as second:
        with pytest.raises(InvalidStatus) as refused:
            await open()
        assert refused.value.response.status_code == 429
        async with client.get(f"{hub.url}/health", headers=headers) as answer:
            assert answer.status == 429
            assert await code_of(answer) == "rate_limit_exceeded"
            assert answer.headers["Retry-After"] == "1"
        other = {"X-Forwarded-For": "192.0.2.2"}
        async with client.get(f"{hub.url}/health", headers=other) as answer:
            assert answer.status == 200
        await second.close()
        while hub.server.connections > 1:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0)
        async with client.get(f"{hub.url}/health", headers=headers) as answer:
            assert answer.status == 200
