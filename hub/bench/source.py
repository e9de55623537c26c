"""A token source: the cheapest model server that a server can be measured in front of.

It speaks as much of Chat Completions as a gateway asks for, streams only, and says what
``text.py`` says. A token costs it an index into a table of rendered chunks and one write, which
is a segment of its own: both event loops send what is written at once, if the socket takes it.

- *Unpaced* (``rate`` 0): every turn of the loop each stream that its reader does not hold back
  writes once. So streams are served evenly, and a slow reader stops its own stream alone. What the
  sockets' buffers hold, which is megabytes, its reader finds there all at once.
- *Paced*: each stream has ``rate`` tokens per second from the moment its request came; the first
  token leaves at once. One timer serves all streams: those of one rate are due in the order in
  which they were last served. A stream that was held back goes on at its rate and does not hurry
  after what it missed.

It goes on with an unfinished assistant message (``continue_final_message``) from exactly where that
stops: then ``max_tokens`` is the length of the rest.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import orjson

from hub.bench.alarm import Alarm
from hub.bench.text import SIZE, Vocabulary, chat_chunks, seed_of
from hub.bench.wire import RequestReader, WireError

SLOTS = 65536
"""What ``/props`` says: never to be the limit."""
DEFAULT_TOKENS = 128
"""The length of an answer whose request does not tell."""

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
)


class TokenSource:
    """A server. ``start``, then ``stop``; in the running loop.

    ``per_chunk`` tokens, an event each, leave in one chunk and write. Paced tokens that are due
    within the same ``tick`` seconds leave at its end together, as those of a model server's step
    do; 0: each at its own time. ``first`` is how long the first token takes, in seconds.
    """

    def __init__(
        self,
        *,
        rate: float = 0.0,
        per_chunk: int = 1,
        tick: float = 0.0,
        first: float = 0.0,
        model: str = "bench",
        vocabulary: Vocabulary | None = None,
        on_asked: Callable[[int, int, str], None] = lambda seed, said, key: None,
    ) -> None:
        """``on_asked`` is told of every request: its seed, how many characters were said already,
        and the key that its sender has shown."""
        self.rate = rate
        self.on_asked = on_asked
        self.model = model
        self.streamed = 0
        """Tokens that were written."""
        self.vocabulary = vocabulary or Vocabulary()
        blocks = chat_chunks(self.vocabulary, model)
        self._per_chunk = per_chunk
        self._period = per_chunk / rate if rate else 0.0
        self._tick = tick
        self._first = first
        self._blocks = blocks
        ring = blocks * (1 + -(-per_chunk // SIZE))
        self._chunks = [_chunk(b"".join(ring[at : at + per_chunk])) for at in range(SIZE)]
        self._ready: list[Stream] = []
        """Unpaced streams that may write."""
        self._turning = False
        self._waiting: deque[Stream] = deque()
        """Paced streams in the order in which they are due."""
        self._alarm: Alarm | None = None
        self._server: asyncio.Server | None = None
        self._clients: set[Client] = set()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; the port. Raises ``OSError``."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Client(self), host, port, backlog=4096)
        self._alarm = Alarm(self._ring)
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def stop(self) -> None:
        """Close every connection and the port."""
        assert self._server is not None
        assert self._alarm is not None
        self._server.close()
        for client in [*self._clients]:
            client.transport.abort()
        await self._server.wait_closed()
        self._alarm.close()

    @property
    def clients(self) -> int:
        """Connections that are open."""
        return len(self._clients)

    # For clients.

    def joined(self, client: "Client") -> None:
        self._clients.add(client)

    def left(self, client: "Client") -> None:
        self._clients.discard(client)

    def begin(self, stream: "Stream") -> None:
        """A stream has been asked for."""
        if self._first:
            asyncio.get_running_loop().call_later(self._first, self._begin, stream)
        else:
            self._begin(stream)

    def _begin(self, stream: "Stream") -> None:
        if self.rate:
            stream.due = time.monotonic()
            self._say(stream)
            self._again(stream)
        else:
            self.resume(stream)

    def resume(self, stream: "Stream") -> None:
        """A stream may write, at the beginning or after it was held back."""
        if self.rate:
            stream.due = time.monotonic()
            self._again(stream)
            return
        self._ready.append(stream)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)

    # Speaking.

    def _turn(self) -> None:
        ready, self._ready = self._ready, []
        say = self._say
        for stream in ready:
            if say(stream):
                self._ready.append(stream)
        self._turning = bool(self._ready)
        if self._turning:
            asyncio.get_running_loop().call_soon(self._turn)

    def _ring(self) -> None:
        now = time.monotonic()
        waiting = self._waiting
        while waiting and self._rounded(waiting[0].due) <= now:
            stream = waiting.popleft()
            if self._say(stream):
                stream.due += self._period
                waiting.append(stream)
        self._set_alarm()

    def _again(self, stream: "Stream") -> None:
        """Wait for a stream's next token, unless it has ended."""
        if stream.left >= 0:
            # In order, for whoever waits has been served before.
            stream.due += self._period
            self._waiting.append(stream)
            if len(self._waiting) == 1:
                self._set_alarm()

    def _set_alarm(self) -> None:
        assert self._alarm is not None
        if self._waiting:
            self._alarm.set(self._rounded(self._waiting[0].due))

    def _rounded(self, due: float) -> float:
        """The end of the tick in which something is due."""
        return due if not self._tick else -(-due // self._tick) * self._tick

    def _say(self, stream: "Stream") -> bool:
        """Write once; whether there is more to say, now. On the hot path: once per token."""
        if stream.held:
            stream.stopped = True
            return False
        left = stream.left
        if left > self._per_chunk:
            stream.write(self._chunks[stream.at])
            stream.at = (stream.at + self._per_chunk) % SIZE
            stream.left = left - self._per_chunk
            self.streamed += self._per_chunk
            return True
        if left >= 0:
            words = [self._blocks[(stream.at + i) % SIZE] for i in range(left)]
            self.streamed += left
            stream.left = -1
            stream.end(b"".join(words))
        return False


class Stream:
    """One answer that is being said."""

    __slots__ = ("at", "due", "held", "left", "stopped", "transport", "usage", "write")

    def __init__(
        self, transport: asyncio.Transport, *, at: int, tokens: int, usage: bytes | None
    ) -> None:
        """``at``: where on the ring it begins; ``usage``: the block that tells it, if asked for."""
        self.transport = transport
        self.write = transport.write
        self.at = at
        self.left = tokens
        """Tokens to say; -1 when it has ended or its reader has gone."""
        self.usage = usage
        self.due = 0.0
        self.held = False
        """Its reader is slow: the transport's buffer is full."""
        self.stopped = False
        """It is held and its turn has come: it must be resumed."""

    def end(self, last: bytes) -> None:
        """Say the last tokens, why it ends, and close."""
        finish = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
        rest = finish + (self.usage or b"") + b"data: [DONE]\n\n"
        self.write((_chunk(last) if last else b"") + _chunk(rest) + b"0\r\n\r\n")
        self.transport.close()


class Client(asyncio.Protocol):
    """One connection: one request and its answer."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._http = RequestReader()
        self._body: list[bytes] = []
        self._stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of ``asyncio.Transport`` without being one.
        self.transport = cast(asyncio.Transport, transport)
        self._source.joined(self)

    def data_received(self, data: bytes) -> None:
        if self._http.done:
            return
        try:
            self._body.append(self._http.feed(data))
            if self._http.done:
                self._answer(self._http.method, self._http.path, b"".join(self._body))
        except (WireError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._http.done = True
            self._reply(b"400 Bad Request", {"error": {"message": str(error), "code": "bad"}})

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.held = True

    def resume_writing(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.held = False
            if stream.stopped:
                stream.stopped = False
                self._source.resume(stream)

    def connection_lost(self, exc: Exception | None) -> None:
        self._source.left(self)
        if self._stream is not None:
            self._stream.left = -1

    def _answer(self, method: bytes, path: bytes, body: bytes) -> None:
        match method, path:
            case b"POST", b"/v1/chat/completions":
                self._chat(body)
            case b"GET", b"/v1/models":
                model = {"id": self._source.model, "object": "model", "created": 0}
                self._reply(b"200 OK", {"object": "list", "data": [{**model, "owned_by": "hub"}]})
            case b"GET", b"/props":
                self._reply(b"200 OK", {"total_slots": SLOTS})
            case b"GET", b"/health":
                self._reply(b"200 OK", {"status": "ok"})
            case _:
                self._reply(b"404 Not Found", {"error": {"message": "not here", "code": "none"}})

    def _chat(self, body: bytes) -> None:
        asked = orjson.loads(body)
        if not asked.get("stream"):
            raise ValueError("a token source only streams")
        seed = seed_of(body)
        if seed is None:
            raise ValueError("no 'seed=<number>' in the prompt")
        tokens = asked.get("max_tokens") or asked.get("max_completion_tokens") or DEFAULT_TOKENS
        usage = None
        if (asked.get("stream_options") or {}).get("include_usage"):
            prompt = len(body) // 4
            total = {"prompt_tokens": prompt, "completion_tokens": tokens}
            told = {"choices": [], "usage": {**total, "total_tokens": prompt + tokens}}
            usage = b"data: %b\n\n" % orjson.dumps(told)
        said = _said(asked)
        at, rest = self._source.vocabulary.place(seed, said)
        key = self._http.headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        self._source.on_asked(seed, len(said), key)
        self._stream = Stream(self.transport, at=at, tokens=int(tokens) - bool(rest), usage=usage)
        role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        first = {"object": "chat.completion.chunk", "choices": [role]}
        self.transport.write(_HEAD + _chunk(b"data: %b\n\n" % orjson.dumps(first)))
        if rest:
            choice = {"index": 0, "delta": {"content": rest}, "finish_reason": None}
            self.transport.write(_chunk(b"data: %b\n\n" % orjson.dumps({"choices": [choice]})))
        self._source.begin(self._stream)

    def _reply(self, status: bytes, body: object) -> None:
        content = orjson.dumps(body)
        self.transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"Connection: close\r\n\r\n%b" % (status, len(content), content)
        )
        self.transport.close()


def _said(asked: dict[str, Any]) -> str:
    """The text that is to be gone on with; empty if there is none."""
    last = asked["messages"][-1]
    goes_on = asked.get("continue_final_message") and last["role"] == "assistant"
    return str(last["content"]) if goes_on else ""


def _chunk(data: bytes) -> bytes:
    """HTTP's chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
