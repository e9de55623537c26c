"""The engine that asks an OpenAI-compatible model server.

One generation is one streamed ``POST`` on a connection of its own (see ``exchange.py``): to
``/v1/chat/completions``, or to ``/v1/completions`` if it goes on from a raw prompt. Several of the
latter can be one such request (``arrays.py``). A gap is filled in by llama.cpp's ``/infill``, or by
the markers of the model's family (``infill_wire.py``). Two rules of its time:

- **No deadline for the first byte.** A queued request gets neither headers nor pings until its
  first token. Only silence counts: ``idle_timeout`` seconds without a byte.
- **Closing is cancelling.** Model servers stop when the connection closes, and nothing else can
  tell them. So every exit closes it, whatever was left to read.

It never asks twice: whether a request that failed before its first token runs again, and where, is
the dispatcher's decision.
"""

import asyncio
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

import orjson
from aiohttp import ClientSession

from hub.api import fim
from hub.api.requests import Generation, Json
from hub.engines.arrays import ArrayReader, array_body
from hub.engines.base import Load, Member, Sink, notes_of
from hub.engines.chat_errors import withhold
from hub.engines.chat_wire import ChunkReader, model_names, request_body
from hub.engines.exchange import Exchange, Target
from hub.engines.http_client import open_session, unreachable
from hub.engines.infill_wire import (
    FilledReader,
    InfillReader,
    infill_body,
    native_body,
    plain_body,
    rendered_body,
)
from hub.engines.load import parse_metrics, parse_props
from hub.engines.questions import Answer, ask
from hub.engines.relay import Relay
from hub.engines.stream_wire import StreamReader
from hub.engines.text_wire import TextReader, text_body
from hub.errors import HubError

LOST = frozenset({"upstream_incomplete_stream", "upstream_timeout", "upstream_unavailable"})
"""What a connection that breaks off fails with."""

ASK_AGAIN = 60.0
"""Seconds after which a server is asked again what it has refused to say, or to do."""

NO_INFILL = frozenset({404, 405, 501})
"""Statuses by which llama.cpp, and what may stand in front of it, refuse ``/infill``."""

MAX_REFUSED = 64
"""Models of one server that are remembered to have no ``/infill``: any client can name more."""


class UpstreamEngine:
    """See ``hub.engines.base.Engine`` for the contract.

    ``base_url`` is the server's address, with or without ``/v1``. ``models`` maps the names that
    clients use to the server's own; "" is the name of a request that names none, and any other
    name goes through as it is. ``ways``: how models fill in the middle, by their name here or there
    (see ``fim.way_of``); of all others the server and their families tell. ``name`` is what clients
    know the server by, who are not told its ``address``. ``slots`` is how many
    requests the server runs at once, if the configuration knows; else ``probe`` asks. ``arrays``:
    the server takes several prompts in one completion. Timeouts are in seconds.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str = "upstream",
        api_key: str | None = None,
        models: Mapping[str, str] | None = None,
        ways: Mapping[str, fim.Way] | None = None,
        connect_timeout: float = 5.0,
        idle_timeout: float = 300.0,
        slots: int | None = None,
        continues: bool = False,
        arrays: bool = False,
    ) -> None:
        self._api = api_url(base_url)
        self.address = self._api
        """For whoever runs hub."""
        self.name = name
        self.slots = slots
        self.continues = continues
        self.arrays = arrays
        self._names = dict(models or {})
        self._ways = dict(ways or {})
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._headers: dict[str, str] = {}
        self._secret = ""
        """What no error may repeat."""
        if api_key is not None:
            api_key = api_key.strip()  # keys are read from files that end in a line end
            if not (api_key.isascii() and api_key.isprintable()):
                raise ValueError("an API key has printable ASCII characters only")
            self._headers["Authorization"] = f"Bearer {api_key}"
            self._secret = api_key
        self._target = Target(self._api, self._headers)
        self._root = Target(_root(self._api), self._headers)
        """Where llama.cpp has what no other server has."""
        self._session: ClientSession | None = None
        self._default: str | None = None
        """The server's first model, once it was asked."""
        self._served: frozenset[str] = frozenset(self._names)
        """Every name that is known to work."""
        self._configured_slots = slots
        self._props: Load | None = None
        """What ``/props`` said, once it did."""
        self._ask_at: dict[str, float] = {}
        """When to ask again for what was refused."""
        self._infill_at: dict[str, float] = {}
        """The same for models that have no ``/infill``."""

    def serves(self, model: str) -> bool | None:
        # Never False: llama.cpp takes any name, and others load models that they do not list.
        return True if not model or model in self._served else None

    async def generate(self, generation: Generation, sink: Sink) -> None:
        if generation.continues and not self.continues:
            # A server that does not know the parameter would answer the text instead.
            raise HubError(
                "worker_lost", "The model server is not known to go on with an unfinished text."
            )
        model = await self._model(generation.model)
        try:
            if generation.prompt is None:
                body = request_body(generation, model)
                await self._stream("chat/completions", body, ChunkReader(sink), [sink])
            elif generation.suffix is not None:
                await self._fill(generation, model, sink)
            else:
                body = text_body(generation, model)
                await self._stream("completions", body, TextReader(sink), [sink])
        except HubError as error:
            self._look_again(error)
            withhold(self._secret, error)
            raise

    async def _fill(self, generation: Generation, model: str, sink: Sink) -> None:
        """Fill in the middle. What the settings say of the model comes first."""
        way = fim.way_of(self._ways, generation.model, model)
        if way is None:
            if await self._infill(generation, model, sink):
                return
            way = fim.family_of(model)
        if isinstance(way, fim.Family):
            body, reader = rendered_body(generation, model, way), FilledReader(sink, way)
            await self._stream("completions", body, reader, [sink])
        elif way is fim.Other.NATIVE:
            body = native_body(generation, model)
            await self._stream("completions", body, TextReader(sink), [sink])
        elif way is None and not generation.suffix:
            # Some clients always send one; where nothing is behind the gap, there is none.
            body = plain_body(generation, model)
            await self._stream("completions", body, TextReader(sink), [sink])
        else:
            raise fim.unsupported(generation.model or model, way)

    async def _infill(self, generation: Generation, model: str, sink: Sink) -> bool:
        """Let llama.cpp fill in the middle; false if it is none, or its model has no markers."""
        now = asyncio.get_running_loop().time()
        if not (self._props and self._props.slots) or now < self._infill_at.get(model, now):
            return False
        body, reader = infill_body(generation, model), InfillReader(sink)
        done = await self._stream("infill", body, reader, [sink], self._root, refused=NO_INFILL)
        self._infill_at.pop(model, None)
        if not done:
            if len(self._infill_at) >= MAX_REFUSED:
                del self._infill_at[next(iter(self._infill_at))]
            self._infill_at[model] = now + ASK_AGAIN
        return done

    async def generate_array(self, members: Sequence[Member]) -> None:
        reader = ArrayReader(members, self._secret)
        try:
            model = await self._model(members[0].generation.model)
            sinks = [member.sink for member in members]
            await self._stream("completions", array_body(members, model), reader, sinks)
        except HubError as error:
            self._look_again(error)
            reader.fail(error)

    async def models(self) -> list[str]:
        listed = await self._listed()
        default = [self._names[""]] if "" in self._names else listed[:1]
        aliases = [name for name in self._names if name]
        return list(dict.fromkeys([*default, *aliases, *listed]))

    async def probe(self) -> Load:
        """See ``Engine``. Configured slots stand, whatever the server says.

        llama.cpp is recognized by its ``/props``, and then ``continues`` is set. What a server has
        refused to say counts as unsaid, and it is asked again after ``ASK_AGAIN``.
        """
        try:
            now = await self._ask_all()
        except HubError as error:
            # Whoever answers next may be another server.
            self._props = None
            self._ask_at.clear()
            self._infill_at.clear()
            withhold(self._secret, error)
            raise
        props = self._props or Load()
        return replace(
            now,
            slots=self._configured_slots or props.slots,
            # Metrics tell of one cache; the product of slots and context is a guess.
            kv_tokens=now.kv_tokens or props.kv_tokens,
        )

    async def probe_slots(self) -> int | None:
        """``probe`` until the slots are known. ``None`` means that the server does not say, which
        is what every server but llama.cpp does; it is not an error."""
        if self.slots is None:
            with suppress(HubError):
                await self.probe()
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

    def _look_again(self, error: HubError) -> None:
        """Forget the default model if that is what the server does not know any more."""
        if error.code == "model_not_found":
            self._default = None

    async def _listed(self) -> list[str]:
        listed = model_names(await self._get(f"{self._api}/models"))
        self._served = frozenset([*self._names, *listed])
        return listed

    async def _stream(
        self,
        path: str,
        body: Json,
        reader: StreamReader | ArrayReader,
        sinks: Sequence[Sink],
        target: Target | None = None,
        *,
        refused: Container[int] = (),
    ) -> bool:
        """Send a request and relay its answer to the reader, whose sinks these are, to the end.

        False if the answer is one of these statuses, which say nothing to the reader.
        """
        target = target or self._target
        relay = Relay(reader)
        request = target.request(path, orjson.dumps(body))
        notes = notes_of(*sinks)
        exchange = Exchange(request, relay, idle_timeout=self._idle_timeout, notes=notes)
        try:
            await self._connect(exchange, target)
            await exchange.done
        except HubError as error:
            # What breaks after the finish reason can only cost the usage: no reason to fail.
            if not (reader.finished and error.code in LOST):
                raise
        finally:
            exchange.close()
        if relay.status in refused:
            return False
        relay.end()
        reader.end()
        return True

    async def _connect(self, exchange: Exchange, target: Target) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await target.connect(exchange)
        except OSError as error:
            raise unreachable() from error

    async def _ask_all(self) -> Load:
        """Ask what is not known already, and get what the metrics say."""
        props = await self._ask_own("/props") if self._props is None else None
        metrics = await self._ask_own("/metrics")
        if props is not None and props.refusal is None:
            self._props = parse_props(props.body)
            if self._props.slots is not None:
                self.slots = self._configured_slots or self._props.slots
                # It is llama.cpp, which goes on with a last message of the assistant's.
                self.continues = True
        answers = [answer for answer in (props, metrics) if answer is not None]
        if all(answer.refusal for answer in answers):
            for answer in answers:
                if answer.refusal and answer.status == 503:
                    raise answer.refusal  # llama.cpp loads its model, but lists it already
            models = await ask(self._http(), f"{self._api}/models")
            if models.refusal and not models.alive:
                raise models.refusal
        return parse_metrics(metrics.body) if metrics is not None else Load()

    async def _ask_own(self, path: str) -> Answer | None:
        """Ask a question that not every server knows; ``None`` if it does not, or did not lately.

        Raises ``HubError`` if nobody is there to be asked.
        """
        now = asyncio.get_running_loop().time()
        if now < self._ask_at.get(path, now):
            return None
        try:
            answer = await ask(self._http(), _root(self._api) + path)
        except HubError as error:
            if error.code in ("upstream_unavailable", "upstream_timeout"):
                raise
            answer = None  # something else is at that address, and not for us
        if answer is None or (answer.refusal and answer.status != 503):
            self._ask_at[path] = now + ASK_AGAIN
        return answer

    async def _get(self, url: str) -> bytes:
        """The body of a small answer."""
        answer = await ask(self._http(), url)
        if answer.refusal is not None:
            withhold(self._secret, answer.refusal)
            raise answer.refusal
        return answer.body


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
