"""Who is let in at the door, how long it may take, and TLS."""

import asyncio
import errno
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect

from hub.server import door as door_module
from hub.server.door import Admitted, Door, Limits, tls_context
from tests.running import Running, Start
from tests.server.certificates import Certificate, make_certificate

SOON = 0.05
"""A limit that a test waits for."""
HEAD = b"GET /health HTTP/1.1\r\nHost: hub\r\n\r\n"
POST = b"POST /v1/responses HTTP/1.1\r\nHost: hub\r\nContent-Length: %d\r\n\r\n"
CREATE = b'{"input":"Hi","max_output_tokens":1}'


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def code_of(answer: bytes) -> tuple[int, str]:
    """The status and the error's code of an answer that ends with the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]["code"]


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    """One answer with a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    return head + await reader.readexactly(length)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what the other end of a socket brings about."""
    while not holds():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)


async def counted(door: Door, phase: Mapping[str, int]) -> None:
    """Wait until nobody is inside any more, and check what the door has counted."""
    await until(lambda: not door.statistics().sockets)
    for name, count in phase.items():
        assert {**door.statistics().refused, **door.statistics().timed_out}[name] == count


async def ask(hub: Running, sent: bytes) -> bytes:
    """What comes until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(sent)
    answer = await reader.read()
    writer.close()
    return answer


# Too many.


@pytest.mark.parametrize(
    ("limits", "reason", "refused"),
    [
        (Limits(per_address=2), "address", (429, "rate_limit_exceeded")),
        (Limits(sockets=2), "total", (503, "too_many_connections")),
    ],
)
async def test_one_too_many_is_told_so_and_comes_in_when_another_has_gone(
    start: Start, limits: Limits, reason: str, refused: tuple[int, str]
) -> None:
    """A WebSocket is a connection as any other."""
    door = Door(limits)
    hub = await start(door=door)
    async with connect(hub.ws, proxy=None):
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        writer.write(HEAD)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200")
        assert code_of(await ask(hub, b"")) == refused
        writer.close()
        await writer.wait_closed()
        await until(lambda: door.statistics().sockets == 1)
        reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
        writer.write(HEAD)
        assert (await answer_of(reader)).startswith(b"HTTP/1.1 200")
        writer.close()
    await counted(door, {reason: 1})


async def test_the_metrics_tell_who_is_inside_and_who_was_not_let_in(start: Start) -> None:
    hub = await start(door=Door(Limits(sockets=1)))
    async with aiohttp.ClientSession() as client, client.get(f"{hub.url}/metrics") as answer:
        await ask(hub, b"")
        await answer.read()
        async with client.get(f"{hub.url}/metrics") as again:
            text = await again.text()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["hub_sockets",] == samples["hub_sockets_limit",] == 1
    assert samples["hub_socket_addresses",] == 1
    assert samples["hub_sockets_half_open",] == 0
    assert samples["hub_connections_refused_total", "total"] == 1
    assert samples["hub_connections_refused_total", "address"] == 0
    assert samples["hub_requests_timed_out_total", "body"] == 0


# Too slow.


async def test_who_sends_nothing_is_closed_without_a_word(start: Start) -> None:
    door = Door(Limits(head_time=SOON))
    hub = await start(door=door)
    assert await ask(hub, b"") == b""
    await counted(door, {"head": 1})


async def test_who_never_comes_to_the_end_of_its_head_is_told_so(start: Start) -> None:
    door = Door(Limits(head_time=SOON))
    hub = await start(door=door)
    assert code_of(await ask(hub, HEAD[:-2])) == (408, "request_timeout")
    await counted(door, {"head": 1})


async def test_between_two_requests_there_is_all_the_time_until_the_next_has_begun(
    start: Start,
) -> None:
    door = Door(Limits(head_time=SOON))
    hub = await start(door=door)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(HEAD)
    await answer_of(reader)
    assert door.statistics().half_open == 0
    writer.write(HEAD[:5])
    assert code_of(await reader.read()) == (408, "request_timeout")
    writer.close()
    await counted(door, {"head": 1})


async def test_a_body_that_does_not_come_to_its_end_is_a_timeout(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    door = Door(Limits(body_time=SOON))
    hub = await start(door=door)
    assert code_of(await ask(hub, POST % 100 + CREATE)) == (408, "request_timeout")
    await counted(door, {"body": 1, "head": 0})
    assert not caplog.records


async def test_a_body_that_was_slow_and_is_there_counts_as_any_other(start: Start) -> None:
    """Its time is over when it has come, however long its response takes."""
    door = Door(Limits(head_time=SOON, body_time=SOON))
    hub = await start(door=door, speed=1.0)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(POST % len(CREATE) + CREATE[:5])
    writer.write(CREATE[5:])
    assert (await answer_of(reader)).startswith(b"HTTP/1.1 200")
    writer.close()
    await counted(door, {"body": 0, "head": 0})


async def test_who_does_not_read_its_answers_is_closed(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They would stay in memory for as long as it likes."""
    monkeypatch.setattr(door_module, "BODY_RATE", 1 << 30)
    door = Door(Limits(body_time=SOON))
    hub = await start(door=door)
    _reader, writer = await asyncio.open_connection("127.0.0.1", hub.port, limit=1)
    # Far more than the buffers of both sides hold.
    writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: hub\r\n\r\n" * 1000)
    await until(lambda: door.statistics().timed_out["answer"] == 1)
    await counted(door, {"answer": 1})
    writer.close()
    assert not caplog.records


async def test_a_websocket_owes_nothing(start: Start) -> None:
    door = Door(Limits(head_time=SOON))
    hub = await start(door=door)
    async with connect(hub.ws, proxy=None):
        # Somebody who came later was closed meanwhile.
        assert await ask(hub, b"") == b""
        assert hub.server.connections == 1
        assert door.statistics().half_open == 0


async def test_without_limits_nobody_looks(start: Start) -> None:
    door = Door(Limits(head_time=0, body_time=0))
    hub = await start(door=door)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(POST % len(CREATE))
    writer.write(CREATE)
    assert (await answer_of(reader)).startswith(b"HTTP/1.1 200")
    assert door.statistics().half_open == 0
    writer.close()


# TLS.


async def secured(start: Start, certificate: Certificate, **limits: float) -> tuple[Running, Door]:
    tls = tls_context(certificate.cert, certificate.key)
    door = Door(Limits(**limits), tls=tls)  # type: ignore[arg-type]
    return await start(door=door), door


async def test_a_stream_over_tls(start: Start, certificate: Certificate) -> None:
    hub, door = await secured(start, certificate)
    url = f"https://127.0.0.1:{hub.port}/v1/responses"
    request = {"input": "Hi", "stream": True}
    connector = aiohttp.TCPConnector(ssl=certificate.client())
    async with aiohttp.ClientSession(connector=connector) as client:
        for _ in range(2):
            async with client.post(url, json=request) as answer:
                text = await answer.text()
            assert text.endswith("data: [DONE]\n\n")
            assert text.count("event: response.completed") == 1
        assert door.statistics().sockets == 1, "the connection was used again"
    await counted(door, {"handshake": 0})


async def test_a_websocket_over_tls(start: Start, certificate: Certificate) -> None:
    """More than a socket's buffer holds, to a reader that reads when it is all there."""
    hub, door = await secured(start, certificate)
    url = f"wss://127.0.0.1:{hub.port}/v1/responses"
    async with connect(url, ssl=certificate.client(), proxy=None, max_queue=None) as ws:
        for lane in range(8):
            create = {"type": "response.create", "stream_id": str(lane), "input": "x" * 20_000}
            await ws.send(json.dumps(create | {"max_output_tokens": 200}))
        ended = 0
        while ended < 8:
            event = json.loads(await ws.recv())
            assert event["type"] != "error"
            ended += event["type"] in ("response.completed", "response.incomplete")
    await counted(door, {"handshake": 0})


async def test_who_speaks_no_tls_or_not_fast_enough_is_closed(
    start: Start, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    """It counts from the first moment, and fills no log."""
    hub, door = await secured(start, certificate, head_time=SOON, sockets=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    await until(lambda: door.statistics().sockets == 1)
    assert await ask(hub, b"") == b"", "one too many"
    assert await reader.read() == b""
    writer.close()
    await counted(door, {"handshake": 1, "total": 1})
    assert b"HTTP" not in await ask(hub, HEAD)
    await counted(door, {"handshake": 1})
    assert not caplog.records


async def test_a_head_over_tls_has_its_time_too(start: Start, certificate: Certificate) -> None:
    hub, door = await secured(start, certificate, head_time=0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port, ssl=certificate.client())
    writer.write(HEAD[:-2])
    assert code_of(await reader.read()) == (408, "request_timeout")
    writer.close()
    await counted(door, {"head": 1})


async def test_a_new_certificate_is_for_new_connections(
    start: Start, certificate: Certificate, tmp_path: Path
) -> None:
    hub, door = await secured(start, certificate)
    other = make_certificate(tmp_path, "other")
    url = f"wss://127.0.0.1:{hub.port}/v1/responses"
    async with connect(url, ssl=certificate.client(), proxy=None) as old:
        door.tls = tls_context(other.cert, other.key)
        async with connect(url, ssl=other.client(), proxy=None):
            await old.ping()
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(url, ssl=certificate.client(), proxy=None)


@pytest.mark.parametrize(
    ("cert", "key", "why"),
    [
        ("missing", "key", "cannot read .*missing: No such file"),
        ("cert", "missing", "cannot read .*missing: No such file"),
        ("cert", "cert", "PEM is needed"),
        ("cert", "other", "do not belong together"),
    ],
)
def test_what_is_wrong_with_a_certificate_is_said(
    certificate: Certificate, tmp_path: Path, cert: str, key: str, why: str
) -> None:
    other = make_certificate(tmp_path, "other")
    files = {"cert": certificate.cert, "key": certificate.key, "other": other.key}
    missing = tmp_path / "missing"
    with pytest.raises(ValueError, match=why):
        tls_context(files.get(cert, missing), files.get(key, missing))


# Listening.


async def test_without_a_file_for_it_a_connection_waits_until_there_is_one(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not tried again in every turn of the loop, and the log has one line."""
    hub = await start()
    accept, failed = socket.socket.accept, 0

    def scarce(listener: socket.socket) -> object:
        nonlocal failed
        if not failed:
            failed += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", scarce)
    monkeypatch.setattr(door_module, "REST", SOON)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(HEAD)
    assert (await answer_of(reader)).startswith(b"HTTP/1.1 200")
    writer.close()
    assert [one.getMessage() for one in caplog.records] == [
        "no connection can be accepted for a moment: Too many open files"
    ]


async def test_a_name_may_have_several_addresses() -> None:
    """And whoever comes is closed with the door, if it is not inside yet."""
    door = Door()

    def nobody(admitted: Admitted) -> asyncio.Protocol:
        admitted.left()
        return asyncio.Protocol()

    port = await door.open("localhost", 0, nobody)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    door.close()
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
