"""A model server for code completion whose answers are known: the oracle.

It speaks ``/infill`` as llama.cpp does and ``/v1/completions`` with the markers of Qwen's family,
and says what ``keys_truth.py`` says. Its times are fixed: a slot takes ``prefill`` seconds to the
first token and ``per_token`` for each further one, whatever the other slots do; with all slots
busy, requests wait in order.

Like llama.cpp it notices that the reader of a *stream* has gone, and stops; a request that asked
for no stream runs to its end, whether anybody waits for it or not.

It notes of each request when it came, began, said each token, was left and ended, by the clock of
``time.monotonic``.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import orjson

from hub.bench.keys_truth import Record, Truth
from hub.bench.wire import RequestReader, WireError

T = TypeVar("T")

MODEL = "qwen2.5-coder-oracle"
"""A name by which the family's markers are known."""
KEPT = 16_000
"""Characters of a prompt's end that are noted."""

_MARKERS = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Oracle:
    """A server. ``start``, then ``stop``; in the running loop."""

    def __init__(
        self,
        truth: Truth,
        *,
        slots: int = 8,
        prefill: float = 0.060,
        per_token: float = 0.012,
        llama: bool = True,
    ) -> None:
        """``llama``: its ``/props`` tell that it is a llama.cpp. Else who knows no better sends it
        the markers, in a raw prompt. Times are in seconds."""
        self.truth = truth
        self.slots = slots
        self.prefill = prefill
        self.per_token = per_token
        self.llama = llama
        self.records: list[Record] = []
        """Every request, in the order in which they came."""
        self._running: set[_Answer] = set()
        self._waiting: deque[_Answer] = deque()
        self._clients: set[_Client] = set()
        self._changed = asyncio.Event()
        """Something of a record is new."""
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; the URL, without ``/v1``. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), host, port, backlog=1024)
        return f"http://{host}:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close every connection and the port; what runs stops."""
        assert self._server is not None
        self._server.close()
        for answer in [*self._waiting, *self._running]:
            self.end(answer)
        for client in [*self._clients]:
            client.transport.abort()
        await self._server.wait_closed()

    @property
    def busy(self) -> int:
        """Requests that run or wait."""
        return len(self._running) + len(self._waiting)

    async def until(self, found: Callable[[], T | None]) -> T:
        """Wait until ``found`` finds something, in the records or ``busy``; what it found."""
        while (one := found()) is None:
            self._changed.clear()
            await self._changed.wait()
        return one

    # For clients.

    def joined(self, client: "_Client") -> None:
        self._clients.add(client)

    def left(self, client: "_Client") -> None:
        self._clients.discard(client)

    def ask(self, answer: "_Answer") -> None:
        """A request has come."""
        self.records.append(answer.record)
        self._changed.set()
        if len(self._running) < self.slots:
            self._begin(answer)
        else:
            self._waiting.append(answer)

    def end(self, answer: "_Answer") -> None:
        """Its work is over, or nobody wants it any more."""
        if answer.record.ended is not None:
            return
        answer.record.ended = time.monotonic()
        self._changed.set()
        if answer.timer is not None:
            answer.timer.cancel()
        self._running.discard(answer)
        if self._waiting:
            if answer in self._waiting:
                self._waiting.remove(answer)
            elif len(self._running) < self.slots:
                self._begin(self._waiting.popleft())

    def _begin(self, answer: "_Answer") -> None:
        self._running.add(answer)
        answer.record.begun = time.monotonic()
        loop = asyncio.get_running_loop()
        answer.timer = loop.call_later(self.prefill, self._say, answer)

    def _say(self, answer: "_Answer") -> None:
        record = answer.record
        number = len(record.said)
        if number < len(record.tokens):
            record.said.append(time.monotonic())
            self._changed.set()
            answer.say(record.tokens[number])
        if number + 1 < len(record.tokens):
            loop = asyncio.get_running_loop()
            answer.timer = loop.call_later(self.per_token, self._say, answer)
        else:
            self.end(answer)
            answer.finish()


class _Answer:
    """An answer that is being made."""

    def __init__(self, client: "_Client", record: Record, *, infill: bool) -> None:
        self.record = record
        self.timer: asyncio.TimerHandle | None = None
        self._client = client
        self._infill = infill

    def say(self, token: str) -> None:
        if not self.record.streamed or self.record.left is not None:
            return
        if len(self.record.said) == 1:
            self._client.transport.write(_HEAD)
        self._event(self._told(token, last=False))

    def finish(self) -> None:
        if self.record.left is not None:
            return
        if not self.record.streamed:
            self._client.reply(b"200 OK", self._told(self.record.text, last=True))
            return
        if not self.record.said:
            self._client.transport.write(_HEAD)
        self._event(self._told("", last=True))
        if not self._infill:
            self._client.transport.write(_chunk(b"data: [DONE]\n\n"))
        self._client.transport.write(b"0\r\n\r\n")
        self._client.answered()

    def _event(self, told: object) -> None:
        self._client.transport.write(_chunk(b"data: %b\n\n" % orjson.dumps(told)))

    def _told(self, content: str, *, last: bool) -> dict[str, Any]:
        count = len(self.record.said)
        if self._infill:
            told: dict[str, Any] = {"index": 0, "content": content, "stop": last, "id_slot": 0}
            told |= {"tokens_predicted": count, "tokens_evaluated": 1}
            if last:
                told |= {"model": MODEL, "stop_type": "eos", "stopping_word": ""}
            return told
        choice = {"index": 0, "text": content, "finish_reason": "stop" if last else None}
        told = {"id": "cmpl-oracle", "object": "text_completion", "model": MODEL}
        return {**told, "choices": [choice]}


class _Client(asyncio.Protocol):
    """One connection: one request at a time."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._http = RequestReader()
        self._body: list[bytes] = []
        self._answer: _Answer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of ``asyncio.Transport`` without being one.
        self.transport = cast(asyncio.Transport, transport)
        self._oracle.joined(self)

    def data_received(self, data: bytes) -> None:
        if self._http.done:
            return
        try:
            self._body.append(self._http.feed(data))
            if self._http.done:
                asked = b"%b %b" % (self._http.method, self._http.path)
                self._serve(asked, b"".join(self._body))
        except (WireError, ValueError, KeyError, TypeError, AttributeError) as error:
            self.reply(b"400 Bad Request", {"error": {"message": str(error), "code": 400}})
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._oracle.left(self)
        answer = self._answer
        if answer is not None and answer.record.ended is None:
            answer.record.left = time.monotonic()
            if answer.record.streamed:
                self._oracle.end(answer)

    def reply(self, status: bytes, body: object) -> None:
        """Answer with a whole body."""
        content = orjson.dumps(body)
        self.transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"\r\n%b" % (status, len(content), content)
        )
        self.answered()

    def answered(self) -> None:
        """The answer is whole: read the next request."""
        self._http.reset()
        self._body.clear()
        self._answer = None

    def _serve(self, asked: bytes, body: bytes) -> None:
        match asked:
            case b"POST /infill":
                told = orjson.loads(body)
                before = told.get("input_prefix", "") + told.get("prompt", "")
                self._ask(told, before, told["input_suffix"], told.get("n_predict"), infill=True)
            case b"POST /v1/completions":
                told = orjson.loads(body)
                before, behind = _unmarked(told)
                self._ask(told, before, behind, told.get("max_tokens"), infill=False)
            case b"GET /v1/models":
                model = {"id": MODEL, "object": "model", "created": 0, "owned_by": "hub"}
                self.reply(b"200 OK", {"object": "list", "data": [model]})
            case b"GET /props" if self._oracle.llama:
                context = {"n_ctx": 32768}
                slots = self._oracle.slots
                self.reply(
                    b"200 OK", {"total_slots": slots, "default_generation_settings": context}
                )
            case b"GET /health":
                self.reply(b"200 OK", {"status": "ok"})
            case _:
                self.reply(b"404 Not Found", {"error": {"message": "not here", "code": 404}})

    def _ask(
        self, told: Mapping[str, Any], before: str, behind: str, most: int | None, *, infill: bool
    ) -> None:
        record = Record(
            before[-KEPT:],
            behind[:KEPT],
            streamed=bool(told.get("stream")),
            tokens=self._oracle.truth.continuation(before, behind, most),
            arrived=time.monotonic(),
        )
        self._answer = _Answer(self, record, infill=infill)
        self._oracle.ask(self._answer)


def _unmarked(told: Mapping[str, Any]) -> tuple[str, str]:
    """What is before and behind the cursor, in a prompt with markers or beside a ``suffix``."""
    prompt: str = told["prompt"]
    prefix, suffix, middle = _MARKERS
    if prefix not in prompt:
        return prompt, told.get("suffix") or ""
    before, _, behind = prompt.partition(prefix)[2].partition(suffix)
    return before, behind.partition(middle)[0]


def _chunk(data: bytes) -> bytes:
    """HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
