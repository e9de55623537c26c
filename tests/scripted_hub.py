"""The completion part of hub's WebSocket, with the test in the place of the model server."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Json = dict[str, Any]


@dataclass
class Asked:
    """A version of a lane, as the server knows it."""

    ws: ServerConnection
    message: Json
    """What came over the wire."""
    fields: Json
    """The whole request: that of the lane's ``completion.create``, with what was typed since."""

    @property
    def prefix(self) -> str:
        prefix: str = self.fields["prefix"]
        return prefix

    async def tell(self, type: str, **fields: Any) -> None:
        head = {"type": type, "stream_id": self.message["stream_id"]}
        await self.ws.send(
            orjson.dumps({**head, "version": self.message["version"], **fields}).decode()
        )

    async def say(self, *deltas: str, reason: str = "stop", reused: bool = False) -> None:
        for delta in deltas:
            await self.tell("completion.delta", delta=delta)
        await self.tell("completion.done", reason=reason, reused=reused)

    async def refuse(self, code: str, param: str | None = None) -> None:
        error = {"code": code, "message": f"No: {code}.", "param": param, "type": "x"}
        await self.tell("error", status=400, error=error)


class ScriptedHub:
    """Speaks the protocol, checks its rules, and answers what the test says."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._asked: asyncio.Queue[Asked] = asyncio.Queue()
        self._told: asyncio.Queue[Json] = asyncio.Queue()
        self._sockets: set[ServerConnection] = set()
        self.connections = 0
        self.headers: list[str | None] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> None:
        self._server = await serve(self._handle, "127.0.0.1", port)
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://127.0.0.1:{port}/v1/responses"

    async def stop(self) -> None:
        assert self._server is not None
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    async def asked(self) -> Asked:
        """The next ``completion.create`` or ``completion.type``."""
        return await asyncio.wait_for(self._asked.get(), 30)

    async def told(self) -> Json:
        """The next ``completion.cancel`` or ``completion.accepted``."""
        return await asyncio.wait_for(self._told.get(), 30)

    @property
    def quiet(self) -> bool:
        """Whether nothing came that the test has not taken."""
        return self._asked.empty() and self._told.empty()

    def cut(self) -> None:
        """Break every connection, without a word."""
        for socket in self._sockets:
            socket.transport.abort()

    async def _handle(self, ws: ServerConnection) -> None:
        assert ws.request is not None
        self.connections += 1
        self.headers.append(ws.request.headers.get("Authorization"))
        self._sockets.add(ws)
        lanes: dict[str, Json] = {}
        with suppress(ConnectionClosed):
            while True:
                self._receive(ws, lanes, orjson.loads(await ws.recv()))
        self._sockets.discard(ws)

    def _receive(self, ws: ServerConnection, lanes: dict[str, Json], message: Json) -> None:
        lane, type = message["stream_id"], message["type"]
        before = lanes.get(lane)
        if type == "completion.create":
            assert before is None or message["version"] > before["version"], "versions rise"
            lanes[lane] = {**message}
        elif type == "completion.type":
            assert before is not None, "the lane has a text"
            assert message["version"] > before["version"], "versions rise"
            prefix = before["prefix"]
            prefix = prefix[: len(prefix) - message.get("delete", 0)] + message["insert"]
            lanes[lane] = {**before, "version": message["version"], "prefix": prefix}
        else:
            self._told.put_nowait(message)
            return
        self._asked.put_nowait(Asked(ws, message, lanes[lane]))
