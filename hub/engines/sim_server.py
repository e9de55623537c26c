"""The simulated engine as an OpenAI-compatible model server over HTTP, faults included.

It behaves like the servers that hub is made for, so that hub's client can be run against it in
another process: the headers of a stream are held back until its first token, and an error after
that is an event. When the client goes away its sequence is removed at once: the handler is
cancelled (``create_runner`` asks aiohttp for that; without it the next write fails instead).
"""

import asyncio
import math
import sys
import time
import uuid

import orjson
from aiohttp import web

from hub.api.requests import Generation, Json, check_depth
from hub.engines import sim_text, sim_wire
from hub.engines.sim import MODEL, SimEngine
from hub.engines.sim_faults import Fault
from hub.errors import HubError

MAX_BODY = 64 * 1024 * 1024
"""Bytes of a request; images make them large."""

_HTML = (
    "<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)


def create_app(engine: SimEngine) -> web.Application:
    """The server's routes. It does not close the engine."""
    server = _Server(engine)
    app = web.Application(client_max_size=MAX_BODY)
    app.add_routes(
        [
            web.post("/v1/chat/completions", server.chat),
            web.post("/v1/completions", server.completion),
            web.get("/v1/models", server.models),
            web.get("/health", server.health),
            web.get("/props", server.props),
            web.get("/slots", server.slots),
            web.get("/metrics", server.metrics),
        ]
    )
    return app


def create_runner(engine: SimEngine) -> web.AppRunner:
    """A runner for ``create_app`` that notices at once when a client goes away."""
    return web.AppRunner(create_app(engine), handler_cancellation=True, access_log=None)


class _Server:
    def __init__(self, engine: SimEngine) -> None:
        self._engine = engine
        self._slots = engine.profile.slots
        self._context = engine.profile.kv_tokens

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def completion(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def models(self, request: web.Request) -> web.Response:
        meta = {"n_ctx": self._context}
        models = [
            {"id": model, "object": "model", "created": 0, "owned_by": "hub", "meta": meta}
            for model in await self._engine.models()
        ]
        return _json({"object": "list", "data": models})

    async def health(self, request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def props(self, request: web.Request) -> web.Response:
        settings = {"n_ctx": self._context}
        return _json({"total_slots": self._slots, "default_generation_settings": settings})

    async def slots(self, request: web.Request) -> web.Response:
        """Which slot holds which sequence is not modelled: the busy ones come first."""
        running = self._engine.statistics().running
        return _json(
            [
                {"id": slot, "n_ctx": self._context, "is_processing": slot < running}
                for slot in range(self._slots)
            ]
        )

    async def metrics(self, request: web.Request) -> web.Response:
        state = self._engine.statistics()
        values = {
            "requests_processing": ("gauge", state.running),
            "requests_deferred": ("gauge", state.waiting),
            "n_decode_total": ("counter", state.iterations),
            "tokens_predicted_total": ("counter", state.tokens),
        }
        lines = [
            f"# TYPE llamacpp:{name} {kind}\nllamacpp:{name} {value}\n"
            for name, (kind, value) in values.items()
        ]
        return web.Response(text="".join(lines))

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        try:
            body = await _body(request)
            generation = (sim_wire.parse_chat if chat else sim_wire.parse_completion)(body)
            fault = self._engine.fault(generation.model)
        except HubError as failure:
            return _json(sim_wire.error_body(failure, failure.status), failure.status)
        if fault is not None and fault.kind == "html":
            return web.Response(status=502, text=_HTML, content_type="text/html")
        head: Json = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": generation.model or MODEL,
        }
        try:
            if body.get("stream") is True:
                news = asyncio.Event()
                render = sim_wire.ChatStream if chat else sim_wire.TextStream
                stream = render(head, sim_wire.wants_usage(body), fault, news.set)
                return await self._stream(request, generation, stream, news, fault)
            sink = sim_wire.ChatSink() if chat else sim_wire.TextSink()
            await self._engine.generate(generation, sink)
            return _json(sink.body(head))
        except HubError as failure:
            return self._refusal(failure, generation, fault)

    async def _stream(
        self,
        request: web.Request,
        generation: Generation,
        stream: sim_wire.ChatStream,
        news: asyncio.Event,
        fault: Fault | None,
    ) -> web.StreamResponse:
        """Write what the stream renders; whatever came since the last write goes out as one."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        left = fault.amount if fault is not None and fault.kind == "cut" else sys.maxsize
        run = self._engine.start(generation, stream)
        run.done.add_done_callback(lambda _: news.set())
        try:
            over = False
            while not over:
                await news.wait()
                news.clear()
                data = stream.take()
                if over := run.done.done():
                    failure = run.done.result()
                    # Nothing has been promised yet: the client gets a real status.
                    if failure is not None and not (data or response.prepared):
                        raise failure
                    data += _last_words(failure)
                    if failure is not None:
                        response.force_close()
                if not response.prepared:
                    await response.prepare(request)
                if data:
                    await response.write(data[:left])
                left -= len(data)
                if left <= 0 and request.transport is not None:
                    request.transport.abort()
                    break
        finally:
            self._engine.stop(run)
        return response

    def _refusal(
        self, failure: HubError, generation: Generation, fault: Fault | None
    ) -> web.Response:
        if failure.code == "context_length_exceeded":
            tokens = sim_text.count_tokens(generation.messages, generation.tools)
            return _json(sim_wire.too_long_body(failure, tokens, self._context), 400)
        # hub has one code for both of the statuses by which a server says that it is full.
        status = 429 if fault is not None and fault.kind == "429" else failure.status
        response = _json(sim_wire.error_body(failure, status), status)
        if failure.retry_after is not None:
            response.headers["Retry-After"] = str(math.ceil(failure.retry_after))
        return response


def _last_words(failure: Exception | None) -> bytes:
    """What a stream ends with."""
    match failure:
        case None:
            return sim_wire.DONE
        case HubError(code="upstream_incomplete_stream"):
            return b""
        case HubError():
            return sim_wire.event(orjson.dumps(sim_wire.error_body(failure, 500)))
        case _:
            raise failure


async def _body(request: web.Request) -> Json:
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise HubError("invalid_json", f"The body is no JSON: {error}.") from error
    if not isinstance(body, dict):
        raise HubError("invalid_type", "The body must be an object.")
    check_depth(body)
    return body


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
