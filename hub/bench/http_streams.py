"""The load generator's streams over HTTP: server-sent events, one JSON answer, or polls."""

import asyncio
import time

import orjson

from hub.api.sse import SseParser
from hub.bench import wire
from hub.bench.answer import Answer, chat_event, http_error, response_object, responses_event
from hub.bench.clients import CHAT, RESPONSES, UNREADABLE, Client, OnEnd, Target
from hub.bench.tally import Traffic
from hub.bench.wire import HttpReader, WireError


class HttpStream(Client):
    """One response at a time over HTTP, on a connection that is kept as long as it can be.

    What kind of stream it is says what it does with bodies: ``_head`` when there is a head,
    ``_piece`` with what comes of the body, ``_whole`` at its end.
    """

    path = RESPONSES

    def __init__(self, target: Target, traffic: Traffic, on_end: OnEnd) -> None:
        super().__init__(target, traffic)
        self.answer: Answer | None = None
        self._on_end = on_end
        self._request = b""
        self._http = HttpReader()
        self._body: list[bytes] = []

    def start(self, answer: Answer, request: bytes) -> None:
        assert self.answer is None, "one response at a time"
        self.answer = answer
        target = self._target
        self._ask(wire.post(target.authority, target.path + self.path, request, target.key))

    def opened(self) -> None:
        if self.answer is not None:
            self._http.reset()
            self._body.clear()
            self.answer.begun = self.answer.begun or time.monotonic()
            self._traffic.requests += 1
            self._write(self._request)

    def received(self, data: bytes) -> None:
        now = time.monotonic()
        answer = self.answer
        # Nothing is asked while the answer waits for its next poll.
        if answer is None or not self._request:
            return
        try:
            self._piece(answer, self._http.feed(data), now)
            if self._http.done:
                self._done(answer, now)
        except UNREADABLE:
            self._drop()
            self._end(answer, now, "protocol_error")

    def eof(self) -> None:
        # The connection closes by itself now.
        self.connection = None
        answer = self.answer
        if answer is None or not self._request:
            return
        try:
            self._http.feed_eof()
        except WireError:
            self.lost("connection_lost")
            return
        now = time.monotonic()
        try:
            self._done(answer, now)
        except UNREADABLE:
            self._end(answer, now, "protocol_error")

    def lost(self, code: str) -> None:
        if self.answer is not None and self._request:
            self._end(self.answer, time.monotonic(), code)

    def _ask(self, request: bytes) -> None:
        """Send a request, on the connection or on a new one."""
        self._request = request
        if self.connection is None:
            self._connect()
        else:
            self.opened()

    def _piece(self, answer: Answer, body: bytes, now: float) -> None:
        """Bytes of a body came, perhaps none."""
        self._body.append(body)

    def _done(self, answer: Answer, now: float) -> None:
        """The message is whole."""
        if not self._http.keeps_alive:
            self._drop()
        self._request = b""
        self._whole(answer, now)

    def _whole(self, answer: Answer, now: float) -> None:
        """An answer has come: read it, and ``_end`` or ``_ask``."""
        raise NotImplementedError

    def _json(self) -> object:
        try:
            return orjson.loads(b"".join(self._body))
        except ValueError:
            return None

    def _end(self, answer: Answer, now: float, code: str | None) -> None:
        if answer.ended is None:
            answer.end(now, code)
        else:
            answer.error = answer.error or code
        self._request = b""
        self.answer = None
        self._on_end(self, answer)


class SseStream(HttpStream):
    """Responses, or Chat Completions, as server-sent events."""

    def __init__(self, target: Target, traffic: Traffic, on_end: OnEnd, *, chat: bool) -> None:
        super().__init__(target, traffic, on_end)
        self.path = CHAT if chat else RESPONSES
        self._chat = chat
        self._sse: SseParser | None = None
        """Set once the head has said that the answer is a stream; errors are none."""

    def opened(self) -> None:
        self._sse = None
        super().opened()

    def _piece(self, answer: Answer, body: bytes, now: float) -> None:
        if self._sse is None and self._http.headed:
            kind = self._http.headers.get(b"content-type", b"")
            if self._http.status == 200 and kind.startswith(b"text/event-stream"):
                self._sse = SseParser()
        if self._sse is None:
            self._body.append(body)
        else:
            for payload in self._sse.feed(body):
                self._event(answer, payload, now)

    def _event(self, answer: Answer, payload: bytes, now: float) -> None:
        if payload == b"[DONE]":
            if answer.ended is None and self._chat:
                answer.end(now)
        elif answer.ended is not None:
            answer.error = answer.error or "event_after_end"
        elif self._chat:
            chat_event(answer, orjson.loads(payload), now)
        else:
            responses_event(answer, orjson.loads(payload), now)

    def _whole(self, answer: Answer, now: float) -> None:
        if answer.ended is not None:
            self._end(answer, now, None)
        elif self._sse is not None:
            self._end(answer, now, "incomplete_stream")
        else:
            self._end(answer, now, http_error(self._http.status, self._json()))


class SyncStream(HttpStream):
    """Responses as one JSON answer each."""

    def _whole(self, answer: Answer, now: float) -> None:
        found = self._json()
        if self._http.status != 200:
            self._end(answer, now, http_error(self._http.status, found))
        elif not isinstance(found, dict):
            self._end(answer, now, "protocol_error")
        elif response_object(answer, found, now):
            self._end(answer, now, None)
        else:
            self._unended(answer, now)

    def _unended(self, answer: Answer, now: float) -> None:
        self._end(answer, now, "not_ended")


class PolledStream(SyncStream):
    """Responses in the background: each is asked for, and then polled until it has ended."""

    def __init__(self, target: Target, traffic: Traffic, on_end: OnEnd, poll: float) -> None:
        """``poll``: seconds from a poll's answer to the next poll."""
        super().__init__(target, traffic, on_end)
        self._poll = poll
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()

    def _unended(self, answer: Answer, now: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._poll, self._look, answer)

    def _look(self, answer: Answer) -> None:
        answer.polls += 1
        target = self._target
        path = f"{target.path}{self.path}/{answer.id}"
        self._ask(wire.get(target.authority, path, target.key))
