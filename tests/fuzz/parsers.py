"""Every parser that takes bytes from outside: whatever they are, it answers with what it is for, or
with a typed error that can be told.

A part has good examples and a check, which raises for anything else. ``run`` tries a part on what
hypothesis makes of the examples, and ``mutate_all`` on quick mutants without it.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from zlib import crc32

import hypothesis
import orjson
from hypothesis import HealthCheck, Phase, given

from hub.api.chat import parse_chat
from hub.api.compaction import parse_compact
from hub.api.completions import parse_completions
from hub.api.fim import FAMILIES
from hub.api.fim_chat import parse_fim
from hub.api.infill import parse_infill
from hub.api.keystrokes import MAX_PREFIX, Asked, accepted_of, parse_asked, typed
from hub.api.prompt import completed
from hub.api.requests import Generation, Request, estimate_tokens
from hub.api.responses import parse_create
from hub.api.sse import SseParser
from hub.dispatch.terms import Class, Terms
from hub.engines import chat_wire, text_wire
from hub.engines.arrays import ArrayReader
from hub.engines.base import Sink
from hub.engines.chat_errors import error_from_response
from hub.engines.exchange import Exchange
from hub.engines.infill_wire import (
    FilledReader,
    InfillReader,
    infill_body,
    native_body,
    rendered_body,
)
from hub.engines.load import parse_metrics, parse_props
from hub.engines.relay import Reader, Relay
from hub.errors import HubError
from hub.keys import RANDOM_BYTES, Keyring, new_key
from hub.server.addresses import is_public, parse_host
from hub.server.auth import Gate, Principal
from hub.server.lab import _changes
from hub.server.lanes import Command, LaneError, Steer
from hub.server.proxies import Proxies, parse_proxy
from hub.server.session import understand, understand_all
from hub.server.sites import Sites, allowed_headers, parse_origin, same_site
from hub.server.terms import lane_of, terms_of
from hub.server.webhooks import parse_endpoint
from tests.engines.members import RecordingMember
from tests.engines.recording import RecordingSink
from tests.fuzz import goods
from tests.fuzz.mutants import cuts, json_mutants, mutants, mutate

Check = Callable[[bytes], None]


@dataclass(frozen=True)
class Part:
    """A parser under test."""

    check: Check
    goods: Sequence[bytes]
    json: bool = False
    """Its examples are JSON: change values, too."""


def told(error: HubError) -> None:
    """An error that a client caused says so, and can be written."""
    assert error.status < 500 or error.code == "fim_not_supported", repr(error)
    orjson.dumps(error.body())


def foretold(error: HubError) -> None:
    """An error that a model server caused can be written."""
    orjson.dumps(error.body())
    assert len(error.message) < 1000


# Requests.


def _asked(parse: Callable[[Any], Any]) -> Check:
    def check(data: bytes) -> None:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return
        try:
            asked = parse(value)
        except HubError as error:
            told(error)
            return
        if isinstance(asked, Request):
            asked = [asked]
        for request in asked if isinstance(asked, list) else getattr(asked, "requests", ()):
            passed_on(request)

    return check


def passed_on(request: Request) -> None:
    """What a request asks for can be kept, and asked of a model server in each way that fits."""
    orjson.dumps([request.echo, request.body, request.items])
    generation = request.generation
    if generation.prompt is None:
        orjson.dumps(chat_wire.request_body(generation, "m"))
        estimate_tokens(generation.messages)
    else:
        orjson.dumps(text_wire.text_body(generation, "m"))
    if generation.suffix is not None:
        orjson.dumps(infill_body(generation, "m"))
        orjson.dumps(native_body(generation, "m"))
        orjson.dumps(rendered_body(generation, "m", FAMILIES["qwen-coder"]))
    lane_of(Terms(Class.COMPLETION), request, "client")


# The WebSocket's messages.


def _message(data: bytes) -> None:
    for reads in (understand, understand_all):
        try:
            command: Command = reads(data)
        except LaneError as refusal:
            told(refusal.error)
        except UnicodeDecodeError:
            pass
        else:
            if isinstance(command, Steer):
                orjson.dumps([command.previous_response_id, command.input])


def _keystrokes(data: bytes) -> None:
    """The messages of one lane, one after the other."""
    try:
        messages = orjson.loads(data)
    except orjson.JSONDecodeError:
        return
    before: Asked | None = None
    for body in messages if isinstance(messages, list) else ():
        if not isinstance(body, dict):
            continue
        try:
            match body.get("type"):
                case "completion.create":
                    before = parse_asked(body)
                case "completion.type":
                    before = typed(before, body)
                case "completion.accepted":
                    assert accepted_of(body) >= 0
        except HubError as error:
            told(error)
        if before is not None:
            assert len(before.prefix) <= MAX_PREFIX
            passed_on(before.request)


# Headers.


def headers_of(data: bytes) -> dict[str, str]:
    """Headers as aiohttp gives them."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _headers(data: bytes) -> None:
    headers = headers_of(data)
    try:
        terms = terms_of(headers, Class.COMPLETION)
    except HubError as error:
        told(error)
        return
    assert terms.patience is None or terms.patience > 0
    asked = Request("m", Generation("m", (), prompt="a", suffix="b"))
    hash(lane_of(terms, asked, headers.get("User-Agent", "")))


def _origins(data: bytes) -> None:
    headers = headers_of(data)
    origin, host = headers.get("Origin", ""), headers.get("Host", "")
    sites = Sites(["https://app.example"], ["hub.example"], any_ip=True)
    if same_site(origin, "http", host) or sites.lists(origin):
        parse_origin(origin)
        assert origin.lower() != "null"
    sites.serves(host)
    assert allowed_headers(headers.get("Access-Control-Request-Headers", "")).isascii()


_PROXIES = Proxies([parse_proxy("10.0.0.0/8"), parse_proxy("::1")])


def _forwarded(data: bytes) -> None:
    headers = headers_of(data)
    values = {name: [value] for name, value in headers.items()}
    hosts = [headers["Host"]] if "Host" in headers else []
    for peer in ("10.0.0.1", "192.0.2.1", None):
        client = _PROXIES.client(peer, "http", hosts, values)
        assert client.scheme in ("http", "https")
        assert client.proxied == (peer == "10.0.0.1")
        assert client.proxied or client.address == (peer or "")


_SHOWN, _KEY = new_key(bytes(RANDOM_BYTES), tenant="ada", now=0)


def _keys(data: bytes) -> None:
    """Nobody gets in who does not show the key, whatever else he shows."""
    gate = Gate(Keyring([_KEY]), now=lambda: 1.0, clock=lambda: 1.0, stop=lambda live: None)
    ticket = gate.ticket(Principal("ada", _KEY))
    text = data.replace(b"KEY", _SHOWN.encode()).replace(b"TICKET", ticket.encode())
    headers = headers_of(text)
    try:
        who, _ = gate.caller(headers)
    except HubError as error:
        told(error)
    else:
        assert who.tenant == "ada"
        shown = " ".join(headers.values())
        assert _SHOWN in shown or ticket in shown


# What model servers send.


def _sse(data: bytes) -> None:
    def events(pieces: Sequence[bytes]) -> list[bytes]:
        parser = SseParser()
        return [event for piece in pieces for event in parser.feed(piece)]

    assert events([data]) == events(cuts(data, Random(crc32(data))))


_HEADS: tuple[tuple[int, dict[str, str]], ...] = (
    (200, {"content-type": "text/event-stream"}),
    (200, {"content-type": "application/json"}),
    (400, {"retry-after": "3"}),
)


def _stream(make: Callable[[Sink], Reader]) -> Check:
    """The answer to a prompt says the same wherever it is cut."""

    def read(status: int, headers: dict[str, str], pieces: Sequence[bytes]) -> tuple[Any, ...]:
        sink = RecordingSink()
        try:
            reader = make(sink)
            relay = Relay(reader)
            relay.head(status, headers)
            for piece in pieces:
                if not relay.done:
                    relay.feed(piece)
            relay.end()
            reader.end()  # type: ignore[attr-defined]
        except HubError as error:
            foretold(error)
            return sink.said, error.code
        return sink.said, sink.calls

    def check(data: bytes) -> None:
        random = Random(crc32(data))
        for status, headers in _HEADS:
            whole = read(status, headers, [data])
            assert whole == read(status, headers, cuts(data, random))

    return check


def _array(data: bytes) -> None:
    generation = Generation("m", (), prompt="x")
    members = [RecordingMember(generation, leaves_after=one) for one in (None, 1, None)]
    reader = ArrayReader(members)
    relay = Relay(reader)
    try:
        relay.head(200, {"content-type": "text/event-stream"})
        for piece in cuts(data, Random(crc32(data))):
            if not relay.done:
                relay.feed(piece)
        relay.end()
        reader.end()
    except HubError as error:
        foretold(error)
        reader.fail(error)
    for member in members:
        assert len(member.ends) == 1


class _Wire(asyncio.Transport):
    """A transport to nowhere."""

    closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close


_loop: list[asyncio.AbstractEventLoop] = []


def _answer(data: bytes) -> None:
    """A whole answer, its head included: the exchange ends, and never with anything untyped."""
    if not _loop:
        _loop.append(asyncio.new_event_loop())
    _loop[0].run_until_complete(_exchange(data))


async def _exchange(data: bytes) -> None:
    reader = chat_wire.ChunkReader(RecordingSink())
    relay = Relay(reader)
    exchange = Exchange(b"request", relay, idle_timeout=60.0)
    wire = _Wire()
    exchange.connection_made(wire)
    for piece in cuts(data, Random(crc32(data))):
        exchange.data_received(piece)
    exchange.eof_received()
    exchange.connection_lost(None)
    assert exchange.done.done(), "it waits for what cannot come"
    try:
        exchange.done.result()
        relay.end()
        reader.end()
    except HubError as error:
        foretold(error)
    finally:
        exchange.close()
    assert wire.closed


def _refused(data: bytes) -> None:
    for status in (100, 200, 302, 400, 401, 404, 429, 500, 503, 599):
        foretold(error_from_response(status, data, data.decode("latin-1")[:20]))


def _models(data: bytes) -> None:
    try:
        names = chat_wire.model_names(data)
    except HubError as error:
        foretold(error)
    else:
        orjson.dumps(names)
        assert all(names)


def _load(data: bytes) -> None:
    for load in (parse_props(data), parse_metrics(data)):
        for count in (load.slots, load.kv_tokens, load.running, load.waiting):
            assert count is None or count >= 0
        assert load.kv_used is None or 0 <= load.kv_used <= 1


# Addresses.


def _webhook(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for private in (False, True):
        try:
            endpoint = parse_endpoint(text, allow_private=private)
        except ValueError as error:
            before, _, secret = text.partition("#")
            if secret not in before:
                assert_untold(secret, str(error))
            continue
        assert private or endpoint.url.lower().startswith("https://")
    for word in re.split(r"[/#@\s\[\]]+", text):
        is_public(word)
        try:
            address = parse_host(word)
        except ValueError:
            continue
        assert address is None or is_public(address) == is_public(str(address))


def assert_untold(secret: str, message: str) -> None:
    """A secret that is long enough to be one is no part of a message."""
    assert len(secret) < 24 or secret not in message, "it tells the secret"


PARTS: dict[str, Part] = {
    "POST /v1/responses": Part(
        _asked(lambda body: completed(parse_create(body))), goods.CREATES, True
    ),
    "POST /v1/responses/compact": Part(
        _asked(lambda body: completed(parse_compact(body))), goods.COMPACTS, True
    ),
    "POST /v1/chat/completions": Part(_asked(parse_chat), goods.CHATS, True),
    "POST /v1/completions": Part(_asked(parse_completions), goods.COMPLETIONS, True),
    "POST /v1/fim/completions": Part(_asked(parse_fim), goods.FIMS, True),
    "POST /infill": Part(_asked(parse_infill), goods.INFILLS, True),
    "POST /lab/settings": Part(_asked(_changes), goods.SETTINGS, True),
    "WebSocket messages": Part(_message, goods.MESSAGES, True),
    "keystrokes": Part(_keystrokes, goods.KEYSTROKES, True),
    "X-Hub headers": Part(_headers, goods.HEADERS),
    "origins and hosts": Part(_origins, goods.ORIGINS),
    "forwarded headers": Part(_forwarded, goods.FORWARDED),
    "keys and tickets": Part(_keys, goods.SHOWN),
    "server-sent events": Part(_sse, goods.STREAMS),
    "chat streams": Part(_stream(chat_wire.ChunkReader), goods.STREAMS),
    "text streams": Part(_stream(text_wire.TextReader), goods.STREAMS),
    "infill streams": Part(_stream(InfillReader), goods.STREAMS),
    "rendered infill streams": Part(
        _stream(lambda sink: FilledReader(sink, FAMILIES["qwen-coder"])), goods.STREAMS
    ),
    "array streams": Part(_array, goods.STREAMS),
    "HTTP answers": Part(_answer, goods.ANSWERS),
    "refusals": Part(_refused, goods.FAILURES, True),
    "model lists": Part(_models, goods.MODELS, True),
    "loads": Part(_load, [*goods.PROPS, *goods.METRICS]),
    "webhooks and hosts": Part(_webhook, goods.URLS),
}  # fmt: skip


def run(name: str, cases: int, *, seed: int | None = None) -> None:
    """Try a part on so many of hypothesis' inventions. Raises for the simplest that it fails on."""
    part = PARTS[name]
    strategy = json_mutants(part.goods) if part.json else mutants(part.goods)
    checked = hypothesis.settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(given(strategy)(part.check))
    if seed is not None:
        checked = hypothesis.seed(seed)(checked)
    checked()


def mutate_all(name: str, cases: int, *, seed: int) -> None:
    """Try a part on so many quick mutants."""
    part, random = PARTS[name], Random(seed)
    for _ in range(cases):
        data = mutate(random.choice(part.goods), random, random.choice(part.goods))
        try:
            part.check(data)
        except Exception as error:
            error.add_note(f"{name}: {data!r}")
            raise
