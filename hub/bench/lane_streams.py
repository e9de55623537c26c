"""The load generator's lanes: responses on a WebSocket.

JSON is read by orjson: to find the three fields by searching the bytes takes as long (0.50 against
0.49 us for a frame of 195 bytes).
"""

import time
from collections.abc import Callable
from typing import cast

import orjson

from hub.bench import wire
from hub.bench.answer import Answer, responses_event
from hub.bench.clients import RESPONSES, UNREADABLE, Client, OnEnd, Target
from hub.bench.tally import Traffic
from hub.bench.wire import FrameReader, HttpReader


class Lane:
    """A lane of a ``LaneConnection``: a stream."""

    def __init__(self, connection: "LaneConnection", name: str | None) -> None:
        self.connection = connection
        self.name = name
        """``None``: the default lane."""
        self.answer: Answer | None = None

    def start(self, answer: Answer, request: bytes) -> None:
        assert self.answer is None, "one response at a time"
        self.answer = answer
        self.connection.send(answer, request)


class LaneConnection(Client):
    """One WebSocket with lanes. Connects when it is first used, and again when it was lost."""

    def __init__(
        self,
        target: Target,
        traffic: Traffic,
        lanes: int,
        on_end: OnEnd,
        on_stray: Callable[[str], None],
    ) -> None:
        """``on_stray`` is told the code of what belongs to no response that runs."""
        super().__init__(target, traffic)
        names = [None] if lanes == 1 else [f"lane{number}" for number in range(lanes)]
        self.lanes = {name: Lane(self, name) for name in names}
        self._on_end = on_end
        self._on_stray = on_stray
        self._handshake: HttpReader | None = None
        self._frames = FrameReader()
        self._waiting: list[tuple[Answer, bytes]] = []
        """What is sent when the connection is open."""

    def send(self, answer: Answer, message: bytes) -> None:
        """For a lane: ask for a response."""
        if self.connection is not None and self._handshake is None:
            answer.begun = answer.begun or time.monotonic()
            self._write(wire.client_frame(wire.TEXT, message))
            return
        self._waiting.append((answer, message))
        if self.connection is None:
            self._connect()

    def opened(self) -> None:
        self._handshake = HttpReader()
        self._frames = FrameReader()
        path = self._target.path + RESPONSES
        self._traffic.requests += 1
        self._write(wire.upgrade(self._target.authority, path, self._target.key))

    def received(self, data: bytes) -> None:
        now = time.monotonic()
        try:
            if self._handshake is not None:
                self._handshake.feed(data)
                if not self._handshake.done:
                    return
                data = self._upgraded(self._handshake)
            for opcode, payload in self._frames.feed(data):
                if opcode == wire.TEXT:
                    self._event(orjson.loads(payload), now)
                else:
                    self._control(opcode, payload)
        except UNREADABLE:
            self._drop()
            self.lost("protocol_error")

    def lost(self, code: str) -> None:
        self._waiting.clear()
        for lane in self.lanes.values():
            answer, lane.answer = lane.answer, None
            if answer is not None:
                answer.end(time.monotonic(), code)
                self._on_end(lane, answer)

    def close(self) -> None:
        for lane in self.lanes.values():
            lane.answer = None
        super().close()

    def _upgraded(self, handshake: HttpReader) -> bytes:
        wire.check_upgrade(handshake)
        self._handshake = None
        waiting, self._waiting = self._waiting, []
        for answer, message in waiting:
            self.send(answer, message)
        return handshake.rest

    def _event(self, event: dict[str, object], now: float) -> None:
        lane = self.lanes.get(cast("str | None", event.get("stream_id")))
        answer = None if lane is None else lane.answer
        if lane is None or answer is None:
            error = event.get("error")
            code = str(error.get("code")) if isinstance(error, dict) else "event_after_end"
            self._on_stray(code)
        elif responses_event(answer, event, now):
            lane.answer = None
            self._on_end(lane, answer)

    def _control(self, opcode: int, payload: bytes) -> None:
        if self.connection is None:
            return
        if opcode == wire.PING:
            self._write(wire.client_frame(wire.PONG, payload))
        elif opcode == wire.CLOSE:
            self._write(wire.client_frame(wire.CLOSE, payload[:2]))
            self._drop()
            self.lost(f"closed_{int.from_bytes(payload[:2]) or 1005}")
