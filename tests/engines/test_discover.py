"""Finding a model server on this machine."""

import asyncio
from contextlib import AsyncExitStack, suppress

import pytest

from hub.engines.discover import LOCAL_SERVERS, Found, find_local
from tests.engines.scripted import Peer, Script, answer, replies, serve

MODELS = b'{"data":[{"id":"a"},{"id":"b"}]}'
GOOD = replies(answer(200, MODELS))


async def ask(*scripts: Script, timeout: float = 5.0) -> str | None:  # noqa: ASYNC109
    """The number of the script that is found."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(serve(script)) for script in scripts]
        found = await find_local([(str(i), s.url) for i, s in enumerate(servers)], timeout)
        return found.name if found else None


async def test_a_model_server() -> None:
    async with serve(GOOD) as server:
        found = await find_local([("llama.cpp", server.url)])
        assert found == Found("llama.cpp", server.url, ("a", "b"))
        assert server.peers[0].request == "GET /v1/models"


async def test_nothing_to_ask() -> None:
    assert await find_local([]) is None


async def test_nobody_listens() -> None:
    async with serve(GOOD) as server:
        closed = server.url
    assert await find_local([("x", closed)]) is None
    assert await find_local([("x", "http://127.0.0.1:99999"), ("y", "nonsense")]) is None


async def test_the_order_of_the_list_decides() -> None:
    answered = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await answered.wait()
        await peer.send(answer(200, MODELS))

    async def quick(peer: Peer) -> None:
        await peer.send(answer(200, MODELS))
        answered.set()

    assert await ask(slow, quick) == "0"


async def test_the_others_are_not_waited_for() -> None:
    async def hanging(peer: Peer) -> None:
        await peer.gone()

    assert await ask(GOOD, hanging, timeout=60.0) == "0"


async def test_a_silent_server_is_passed_over() -> None:
    async def hanging(peer: Peer) -> None:
        await peer.gone()

    assert await ask(hanging, GOOD, timeout=0.2) == "1"


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        answer(200, b"<html>", kind="text/html"),
        answer(200, b'{"data":[]}'),
        answer(200, b'{"data":[{"id":7}]}'),
        answer(401, MODELS),
        answer(302, b"", "Location: /v1/models/\r\n"),
        answer(200, MODELS)[:-1],
        answer(200, b"[" * (2 << 20)),
        # hub itself
        answer(200, MODELS, "Server: hub/0.1.0\r\n"),
        answer(200, MODELS, "server: Hub\r\n"),
    ],
)
async def test_what_is_no_model_server(reply: bytes) -> None:
    async def script(peer: Peer) -> None:
        with suppress(ConnectionError):  # it may have seen enough before all is sent
            await peer.send(reply)

    assert await ask(script, GOOD) == "1"


def test_the_usual_servers() -> None:
    assert [url.rpartition(":")[2] for _, url in LOCAL_SERVERS] == ["8080", "11434", "1234", "8000"]
