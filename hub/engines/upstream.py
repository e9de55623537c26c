"""The engine that asks an OpenAI-compatible model server.

One generation is one streamed ``POST /v1/chat/completions`` on a connection of its own (see
``http_client.py``). Two rules of its time:

- **No deadline for the first byte.** A queued request gets neither headers nor pings until its
  first token. Only silence counts: ``idle_timeout`` seconds without a byte.
- **Closing is cancelling.** Model servers stop when the connection closes, and nothing else can
  tell them. So every exit closes it, whatever was left to read.

It never asks twice: whether a request that failed before its first token runs again, and where, is
the dispatcher's decision.
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from urllib.parse import urlsplit

import orjson
from aiohttp import ClientResponse, ClientSession

from hub.api.requests import Generation, Json
from hub.api.sse import SseParser
from hub.engines.base import Sink
from hub.engines.chat_errors import error_from_response
from hub.engines.chat_wire import ChunkReader, model_names, request_body
from hub.engines.http_client import FAILURES, fail_when_lost, failure, open_session, read_body
from hub.errors import HubError

MAX_BODY = 8 << 20
"""Bytes of an answer that is no stream: a list of models, or a whole message."""

MAX_ERROR_BODY = 64 << 10
"""Bytes of an error's body that are read."""

ERROR_BODY_TIMEOUT = 5.0
"""Seconds for the body of an error. Without it the status has to do."""

QUESTION_TIMEOUT = 10.0
"""Seconds for an answer that takes no inference (``/v1/models``, ``/props``)."""

USAGE_GRACE = 5.0
"""Seconds that the usage and ``[DONE]`` may take after the finish reason. The answer is whole by
then, so a server that forgets to close costs no more than this, and no error."""

MAX_SLOTS = 65536
"""A server that claims more than this is not believed."""


class UpstreamEngine:
    """See ``hub.engines.base.Engine`` for the contract.

    ``base_url`` is the server's address, with or without ``/v1``. ``models`` maps the names that
    clients use to the server's own; "" is the name of a request that names none, and any other
    name goes through as it is. ``slots`` is how many requests the server runs at once, if the
    configuration knows; ``probe_slots`` asks. Timeouts are in seconds.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        models: Mapping[str, str] | None = None,
        connect_timeout: float = 5.0,
        idle_timeout: float = 300.0,
        slots: int | None = None,
        continues: bool = False,
    ) -> None:
        self._api = api_url(base_url)
        self.name = self._api
        self.slots = slots
        self.continues = continues
        self._names = dict(models or {})
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._headers: dict[str, str] = {}
        if api_key is not None:
            api_key = api_key.strip()  # keys are read from files that end in a line end
            if not (api_key.isascii() and api_key.isprintable()):
                raise ValueError("an API key has printable ASCII characters only")
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._session: ClientSession | None = None
        self._default: str | None = None
        """The server's first model, once it was asked."""
        self._served: frozenset[str] = frozenset(self._names)
        """Every name that is known to work."""

    def serves(self, model: str) -> bool | None:
        # Never False: llama.cpp takes any name, and others load models that they do not list.
        return True if not model or model in self._served else None

    async def generate(self, generation: Generation, sink: Sink) -> None:
        if generation.continues and not self.continues:
            # A server that does not know the parameter would answer the text instead.
            raise HubError(
                "worker_lost", "The model server is not known to go on with an unfinished text."
            )
        body = request_body(generation, await self._model(generation.model))
        try:
            await self._stream(body, ChunkReader(sink))
        except HubError as error:
            if error.code == "model_not_found":
                self._default = None  # the server may serve another one now: look again
            raise

    async def models(self) -> list[str]:
        listed = await self._listed()
        default = [self._names[""]] if "" in self._names else listed[:1]
        aliases = [name for name in self._names if name]
        return list(dict.fromkeys([*default, *aliases, *listed]))

    async def probe_slots(self) -> int | None:
        """Ask a llama.cpp server how many requests it runs at once, and keep that in ``slots``.

        A configured number stands. ``None`` means that the server does not say, which is what
        every other kind of server does; it is not an error.
        """
        if self.slots is None:
            try:
                props = orjson.loads(await self._get(f"{_root(self._api)}/props"))
            except (HubError, orjson.JSONDecodeError):
                return None
            total = props.get("total_slots") if isinstance(props, dict) else None
            if type(total) is int and 0 < total <= MAX_SLOTS:
                self.slots = total
                # It is llama.cpp, which goes on with a last message of the assistant's.
                self.continues = True
        return self.slots

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _http(self) -> ClientSession:
        # Made at the first use, since a session belongs to the loop that runs then.
        if self._session is None:
            self._session = open_session(
                connect_timeout=self._connect_timeout,
                idle_timeout=self._idle_timeout,
                headers=self._headers,
            )
        return self._session

    async def _model(self, name: str) -> str:
        """The server's name for a client's. A burst of first requests may ask more than once;
        that costs less than making them wait for each other's failure."""
        if name in self._names:
            return self._names[name]
        if name:
            return name
        if self._default is None:
            listed = await self._listed()
            if not listed:
                raise HubError("model_not_found", "The model server has no model.")
            self._default = listed[0]
        return self._default

    async def _listed(self) -> list[str]:
        listed = model_names(await self._get(f"{self._api}/models"))
        self._served = frozenset([*self._names, *listed])
        return listed

    async def _stream(self, body: Json, reader: ChunkReader) -> None:
        """Send a request and relay its answer to the reader, to the end."""
        begun = False
        try:
            # aiohttp's own idle timeout starts when the body is sent: this one ends the wait for a
            # server that accepts the connection and never reads.
            async with asyncio.timeout(self._connect_timeout + self._idle_timeout) as deadline:
                response = await self._http().post(
                    f"{self._api}/chat/completions",
                    # As a file it is sent piece by piece: a large prompt does not hold up the loop.
                    data=BytesIO(orjson.dumps(body)),
                    headers={"Content-Type": "application/json", "Accept": "text/event-stream"},
                    allow_redirects=False,
                )
                begun = True
                try:
                    if response.status != 200:
                        raise await _refusal(response)
                    fail_when_lost(response)
                    deadline.reschedule(None)
                    await _relay(response, reader, deadline)
                finally:
                    response.close()
        except FAILURES as error:
            # What breaks after the finish reason can only cost the usage: no reason to fail.
            if not reader.finished:
                raise failure(error, begun=begun) from error
        reader.end()

    async def _get(self, url: str) -> bytes:
        """The body of a small answer."""
        try:
            async with asyncio.timeout(QUESTION_TIMEOUT):
                response = await self._http().get(url, allow_redirects=False)
                try:
                    if response.status != 200:
                        raise await _refusal(response)
                    return await _whole(response)
                finally:
                    response.close()
        except FAILURES as error:
            raise failure(error, begun=False) from error


async def _relay(response: ClientResponse, reader: ChunkReader, deadline: asyncio.Timeout) -> None:
    """Feed the reader with an answer's body, until it has said that it is done or has ended."""
    if response.content_type == "application/json":
        reader.feed(await _whole(response))  # the server ignores "stream"
        return
    if response.content_type == "text/html":
        raise HubError("upstream_protocol_error", "The model server answered with a web page.")
    parser = SseParser()
    async for chunk in response.content.iter_any():
        for payload in parser.feed(chunk):
            reader.feed(payload)
        if reader.done:
            return
        if reader.finished and deadline.when() is None:
            deadline.reschedule(asyncio.get_running_loop().time() + USAGE_GRACE)


async def _refusal(response: ClientResponse) -> HubError:
    """The error that an answer other than 200 means."""
    body = b""
    with suppress(*FAILURES):
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            body = await read_body(response, MAX_ERROR_BODY)
    return error_from_response(response.status, body, response.headers.get("Retry-After"))


async def _whole(response: ClientResponse) -> bytes:
    body = await read_body(response, MAX_BODY)
    if len(body) > MAX_BODY:
        raise HubError(
            "upstream_protocol_error", f"The model server answered more than {MAX_BODY} bytes."
        )
    return body


def api_url(base_url: str) -> str:
    """The address that ``/chat/completions`` is added to. Raises ``ValueError`` if it is none.

    ``/v1`` is added, unless the path has a version already (``/v1``, ``/openai/v1``,
    ``/v1beta/openai``).
    """
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f"'{base_url}' is not an http:// or https:// address")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("a model server's address has no user, query or fragment")
    path = parts.path.rstrip("/")
    if not re.search(r"/v\d+[a-z0-9]*(/|$)", path):
        path += "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _root(api: str) -> str:
    """Where a server's own endpoints are, beside the OpenAI-compatible ones."""
    return re.sub(r"/v\d+[a-z0-9]*$", "", api)
