"""The attacks of ``hub bench hostile``: each is one thing that a client should not do.

An attack's worker does its thing once, or for as long as the other side puts up with it, and is
started again. Where a key is needed it has one, of a tenant who is not the honest clients'.
"""

import asyncio
import os
import random
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache

import orjson

from hub.bench import wire
from hub.bench.hostile_peer import Attempts
from hub.bench.text import prompt

PATH = "/v1/responses"
KEPT = 100
"""Requests on one connection before another one is made."""
BURST = 50
"""Small frames that are sent at once."""
SLOW = 0.25
"""Seconds between two bytes of a slow writer."""
LONG = 100_000
"""Tokens of an answer that nobody means to read."""

FAST = "flood"
"""The model whose tokens come fast; the honest clients' is slow."""
MODEL = "bench"

Worker = Callable[[Attempts], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack. ``workers`` are also its most connections at a time."""

    title: str
    worker: Worker
    rate: float
    """Attempts per second."""
    workers: int
    key: str = ""
    """Whose key it shows: that of the tenant who is at his limits, that of one with room, or
    none."""


LIMITED, ROOMY = "limited", "roomy"


def _post(on: Attempts, body: bytes, *heads: str) -> bytes:
    request = wire.post(on.target.authority, PATH, body, on.key)
    head, _, rest = request.partition(b"\r\n")
    return b"\r\n".join([head, *(one.encode() for one in heads), rest])


def _create(model: str, tokens: int, *, lane: str | None = None, **more: object) -> bytes:
    body: dict[str, object] = {
        "model": model,
        "input": prompt(random.randrange(1 << 30), 16),
        "max_output_tokens": tokens,
        "store": False,
        **more,
    }
    if lane is not None:
        body |= {"type": "response.create", "stream_id": lane}
    return orjson.dumps(body)


async def _repeat(on: Attempts, make: Callable[[], bytes]) -> None:
    """Requests on one connection, each when the answer to the last has come."""
    async with on.dial() as peer:
        for _ in range(KEPT):
            await on.turn()
            status, _, more = await peer.ask(make())
            on.got[status] += 1
            if not more:
                return


async def creates(on: Attempts) -> None:
    await _repeat(on, lambda: _post(on, _create(MODEL, 16, stream=True)))


async def creates_without_key(on: Attempts) -> None:
    forged = Attempts(on.target, "", 1.0, f"hub_{'0' * 16}_{'A' * 43}")
    await _repeat(on, lambda: _post(random.choice((on, forged)), _create(MODEL, 16, stream=True)))


async def background_creates(on: Attempts) -> None:
    await _repeat(
        on,
        lambda: _post(
            on,
            _create(FAST, 500, background=True, store=True)[:-1]
            + b',"instructions":"%b"}' % (b"x" * 500_000),
        ),
    )


async def silence(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        on.got[(await peer.answer())[0]] += 1


async def half_handshakes(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        await peer.send(wire.upgrade(on.target.authority, PATH, on.key)[:-2])
        on.got[(await peer.answer())[0]] += 1


async def slow_heads(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        request = wire.get(on.target.authority, "/v1/models", on.key)[:-2] + b"X: y\r\n" * 1000
        on.got[(await peer.drip(request, SLOW))[0]] += 1


async def slow_bodies(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        head = _post(on, b"x" * 100_000)
        at = head.index(b"\r\n\r\n") + 4
        await peer.send(head[:at])
        on.got[(await peer.drip(head[at:], SLOW))[0]] += 1


async def slow_frames(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        if await peer.upgrade():
            watching = asyncio.create_task(peer.watch())
            try:
                for byte in wire.client_frame(wire.TEXT, b"x" * 100_000):
                    await peer.send(bytes((byte,)))
                    await asyncio.wait((watching,), timeout=SLOW)
                    if watching.done():
                        return
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


async def unread_sse(on: Attempts) -> None:
    await on.turn()
    async with on.dial(reads=False) as peer:
        await peer.send(_post(on, _create(FAST, LONG, stream=True)))
        await peer.gone()
        on.got["closed"] += 1


async def unread_lanes(on: Attempts) -> None:
    await on.turn()
    async with on.dial(reads=False) as peer:
        if await peer.upgrade():
            for lane in range(4):
                message = _create(FAST, LONG, lane=f"lane{lane}")
                await peer.send(wire.client_frame(wire.TEXT, message))
            await peer.gone()
            on.got["closed"] += 1


async def unread_answers(on: Attempts) -> None:
    await on.turn()
    async with on.dial(reads=False) as peer:
        pipelined = wire.get(on.target.authority, "/openapi.json", on.key) * BURST
        while True:
            sending = asyncio.create_task(peer.send(pipelined))
            gone = asyncio.create_task(peer.gone())
            try:
                await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
                if gone.done() or sending.exception() is not None:
                    on.got["closed"] += 1
                    return
            finally:
                sending.cancel()
                gone.cancel()
                await asyncio.gather(sending, gone, return_exceptions=True)
            await on.turn(BURST)


_UPGRADES = (
    (b"Version: 13", b"Version: 12"),
    (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Cookie: "),
    (b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Key: !"),
    (b"Upgrade: websocket", b"Upgrade: websocket\r\nOrigin: https://evil.example"),
    (b"Upgrade: websocket", b"Upgrade: websocket\r\nOrigin: null"),
    (b"Upgrade: websocket", b"Upgrade: h2c"),
    (b"GET ", b"POST "),
    (b"/v1/responses", b"/v1/elsewhere"),
    (b"Connection: Upgrade", b"Connection: close"),
    (b"HTTP/1.1", b"HTTP/1.0"),
)


async def bad_upgrades(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        good = wire.upgrade(on.target.authority, PATH, on.key)
        await peer.send(good.replace(*random.choice(_UPGRADES)))
        on.got[(await peer.answer(body=False))[0]] += 1


async def large_messages(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        large = b"x" * (2 << 20)
        kind = random.randrange(3)
        if kind == 0:
            on.got[(await peer.ask(_post(on, large)))[0]] += 1
        elif kind == 1:
            chunked = _post(on, b"", "Transfer-Encoding: chunked")
            chunked = chunked.replace(b"Content-Length: 0\r\n", b"")
            on.got[(await peer.ask(chunked + b"10000\r\n%b\r\n" % large[:65536] * 32))[0]] += 1
        elif await peer.upgrade():
            sending = asyncio.create_task(peer.send(wire.client_frame(wire.TEXT, large)))
            await peer.watch()
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)


_STRANGE = (
    b"[" * 900 + b"]" * 900,
    b'{"input":' + b'{"a":' * 800 + b"1" + b"}" * 801,
    b"[" * 900_000,
    b'{"input":[' + b",".join([b"[]"] * 300_000) + b"]}",
    b'{"input":"' + b"\\u0000" * 150_000 + b'"}',
    b'{"max_output_tokens":' + b"9" * 100_000 + b"}",
    b'{"model":"bench","input":[' + b",".join([b'{"role":"user","content":"a"}'] * 30_000) + b"]}",
    b'{"a":1,' * 100_000,
)


async def strange_json(on: Attempts) -> None:
    if random.random() < 0.5:
        await _repeat(on, lambda: _post(on, random.choice(_STRANGE)))
        return
    async with on.dial() as peer:
        if await peer.upgrade():
            for _ in range(KEPT):
                await on.turn()
                await peer.send(wire.client_frame(wire.TEXT, random.choice(_STRANGE)))
                if not await peer.frames():
                    return


_GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(512),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000,
    b"GET /" + b"a" * 100_000,
    b"POST /v1/responses HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    b"POST /v1/responses HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: " + b"b" * 100_000,
)


async def garbage(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        data = random.choice((*_GARBAGE, os.urandom(4096)))
        on.got[(await peer.ask(data))[0]] += 1


@cache
def _bomb() -> bytes:
    """64 MiB of spaces as some 64 KiB."""
    squeeze = zlib.compressobj(9)
    block = b" " * (1 << 20)
    return b"".join([*(squeeze.compress(block) for _ in range(64)), squeeze.flush()])


async def bombs(on: Attempts) -> None:
    await on.turn()
    async with on.dial() as peer:
        if random.random() < 0.5:
            on.got[(await peer.ask(_post(on, _bomb(), "Content-Encoding: deflate")))[0]] += 1
        elif await peer.upgrade():
            # RFC 7692: the first reserved bit marks a compressed message.
            frame = wire.client_frame(wire.TEXT, _bomb())
            await peer.send(bytes((frame[0] | 0x40,)) + frame[1:])
            await peer.watch()


async def _many(on: Attempts, begin: bytes, frame: bytes) -> None:
    """Small frames without end, to a server whose answers nobody reads."""
    async with on.dial(reads=False) as peer:
        if not await peer.upgrade():
            return
        await peer.send(begin)
        gone = asyncio.create_task(peer.gone())
        try:
            while not gone.done():
                await on.turn(BURST)
                sending = asyncio.create_task(peer.send(frame * BURST))
                await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            on.got["closed"] += 1
        finally:
            gone.cancel()


async def pings(on: Attempts) -> None:
    await _many(on, b"", wire.client_frame(wire.PING, b"x" * 125))


async def fragments(on: Attempts) -> None:
    await _many(on, b"\x01\x80\0\0\0\0", b"\x00\x80\0\0\0\0")


async def lanes(on: Attempts) -> None:
    async with on.dial() as peer:
        if not await peer.upgrade():
            return
        watching = asyncio.create_task(peer.watch())
        try:
            while not watching.done():
                await on.turn(8)
                names = (f"lane{random.randrange(100)}" for _ in range(8))
                messages = (_create(MODEL, 16, lane=name) for name in names)
                await peer.send(b"".join(wire.client_frame(wire.TEXT, one) for one in messages))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


async def comings_and_goings(on: Attempts) -> None:
    await on.turn()
    async with on.dial():
        on.got["connected"] += 1


async def resumes(on: Attempts) -> None:
    if "id" not in on.memory:
        on.memory["id"] = ""
        await on.turn()
        async with on.dial() as peer:
            body = _create(FAST, 200, store=True)
            _, answer, _ = await peer.ask(_post(on, body))
            on.memory["id"] = orjson.loads(answer)["id"]
    while not on.memory["id"]:  # noqa: ASYNC110 - once
        await asyncio.sleep(0.1)
    path = f"{PATH}/{on.memory['id']}?stream=true"
    await _repeat(on, lambda: wire.get(on.target.authority, path, on.key))


ATTACKS: dict[str, Attack] = {
    "creates": Attack("creates, key at its limits", creates, 200, 8, LIMITED),
    "no-key": Attack("creates without a good key", creates_without_key, 200, 8),
    "background": Attack("large background creates", background_creates, 20, 4, ROOMY),
    "silent": Attack("connections that say nothing", silence, 50, 1000),
    "half-open": Attack("half of a handshake", half_handshakes, 50, 1000),
    "slow-heads": Attack("heads, a byte at a time", slow_heads, 20, 100),
    "slow-bodies": Attack("bodies, a byte at a time", slow_bodies, 20, 100, ROOMY),
    "slow-frames": Attack("frames, a byte at a time", slow_frames, 20, 100, ROOMY),
    "unread-sse": Attack("SSE that nobody reads", unread_sse, 5, 50, ROOMY),
    "unread-lanes": Attack("lanes that nobody reads", unread_lanes, 5, 50, ROOMY),
    "unread-answers": Attack("pipelined, unread answers", unread_answers, 100, 8, ROOMY),
    "bad-upgrades": Attack("bad upgrades", bad_upgrades, 100, 20, ROOMY),
    "large": Attack("messages of 2 MiB", large_messages, 5, 5, ROOMY),
    "strange-json": Attack("deep, wide, broken JSON", strange_json, 5, 4, ROOMY),
    "garbage": Attack("what is no HTTP", garbage, 50, 20),
    "bombs": Attack("deflate bombs", bombs, 5, 5, ROOMY),
    "pings": Attack("pings, pongs unread", pings, 5000, 4, ROOMY),
    "fragments": Attack("empty fragments without end", fragments, 5000, 4, ROOMY),
    "lanes": Attack("creates on ever new lanes", lanes, 200, 4, LIMITED),
    "connects": Attack("connect and go", comings_and_goings, 200, 20),
    "resumes": Attack("one response, resumed for ever", resumes, 50, 8, ROOMY),
}
