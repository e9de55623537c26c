"""Requests that are no HTTP, and bodies that cannot be read, over a socket."""

import asyncio
import json
import logging

import pytest

from tests.running import Start

HEAD = b"POST /v1/responses HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n"
SECRET = b"sk-secret"

BROKEN: dict[str, bytes] = {
    "no request line": b"hello\r\n\r\n",
    "an unknown method": b"FOO / HTTP/1.1\r\nHost: hub\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\nHost: hub\r\n\r\n",
    "a broken header": HEAD + b"Authorization Bearer %b\r\n\r\n" % SECRET,
    "a header with a NUL": HEAD + b"Authorization: Bearer %b\0\r\n\r\n" % SECRET,
    "a head that is too long": HEAD + b"Authorization: %b\r\n\r\n" % (SECRET * 2000),
    "too many headers": HEAD + b"X-A: %b\r\n" % SECRET * 200 + b"\r\n",
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\nx",
    "a length and chunks": HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
    "a chunk without a size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%b\r\n" % SECRET,
}


async def exchange(port: int, sent: bytes) -> tuple[int, bytes]:
    """The status and the body of the one answer that something gets before the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    # What is not complete waits for more until its sender has gone.
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
async def test_what_is_no_http_is_answered_with_the_error_object_and_never_quoted(
    start: Start, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hub = await start()
    with caplog.at_level(logging.DEBUG, logger="hub"), caplog.at_level("INFO", logger="aiohttp"):
        status, body = await exchange(hub.port, sent)
    assert status == 400
    assert json.loads(body)["error"]["code"] == "invalid_http"
    assert SECRET not in body
    assert SECRET.decode() not in caplog.text
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


async def test_an_expectation_that_is_not_known_is_refused(start: Start) -> None:
    hub = await start()
    status, body = await exchange(hub.port, HEAD + b"Expect: wonders\r\n\r\n")
    assert status == 417
    assert json.loads(body)["error"]["code"] == "invalid_value"


async def test_an_origin_that_is_no_url_is_another_site(start: Start) -> None:
    hub = await start()
    status, body = await exchange(hub.port, HEAD + b"Origin: http://[\r\n\r\n")
    assert status == 403
    assert json.loads(body)["error"]["code"] == "origin_not_allowed"


async def test_a_body_that_nobody_wants_is_not_read_for_long(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was refused could keep hub busy with it otherwise."""
    monkeypatch.setattr("hub.server.protocol.LINGER", 0.01)
    hub = await start()
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(b"POST /nowhere HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000000\r\n\r\nx")
    async with asyncio.timeout(5):
        assert (await reader.read()).startswith(b"HTTP/1.1 404 ")
    writer.close()
