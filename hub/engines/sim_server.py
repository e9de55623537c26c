"""The simulated engine as an OpenAI-compatible model server over HTTP, faults included.

It behaves like the servers that hub is made for, llama.cpp's ``/infill`` included, so that hub's
client can be run against it in another process: the headers of a stream are held back until its
first token, and an error after that is an event. When the client goes away its sequence is removed
at once: the handler is cancelled (``create_runner`` asks aiohttp for that; without it the next
write fails instead).
"""

import asyncio
import math
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import orjson
from aiohttp import web

from hub.api.requests import Generation, Json, check_depth
from hub.engines import sim_infill, sim_text, sim_wire
from hub.engines.base import Sink
from hub.engines.sim import MODEL, Run, SimEngine
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
            web.post("/infill", server.infill),
            web.get("/v1/models", server.models),
            web.get("/health", server.health),
            web.get("/props", server.props),
            web.get("/slots", server.slots),
            web.get("/metrics", server.metrics),
        ]
    )
    app.on_cleanup.append(server.close)
    return app


def create_runner(engine: SimEngine) -> web.AppRunner:
    """A runner for ``create_app`` that notices at once when a client goes away."""
    return web.AppRunner(create_app(engine), handler_cancellation=True, access_log=None)


class _Server:
    def __init__(self, engine: SimEngine) -> None:
        self._engine = engine
        self._slots = engine.profile.slots
        self._context = engine.profile.kv_tokens
        self._unheard: dict[asyncio.Future[Exception | None], Run] = {}
        """What goes on although its client has gone (``deaf``)."""

    async def close(self, app: web.Application) -> None:
        """Stop what nobody waits for."""
        for run in [*self._unheard.values()]:
            self._engine.stop(run)

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
        """The same numbers in the words of llama.cpp and of vLLM, for whoever reads either."""
        state = self._engine.statistics()
        served = f'{{engine="0",model_name="{MODEL}"}}'
        # Its cache is counted in tokens, not in blocks of several.
        cache = f'{{block_size="1",engine="0",num_gpu_blocks="{self._context}"}}'
        values: list[tuple[str, str, str, float]] = [
            ("llamacpp:requests_processing", "gauge", "", state.running),
            ("llamacpp:requests_deferred", "gauge", "", state.waiting),
            ("llamacpp:n_decode_total", "counter", "", state.iterations),
            ("llamacpp:tokens_predicted_total", "counter", "", state.tokens),
            ("vllm:num_requests_running", "gauge", served, state.running),
            ("vllm:num_requests_waiting", "gauge", served, state.waiting),
            ("vllm:kv_cache_usage_perc", "gauge", served, state.kv_used / self._context),
            ("vllm:cache_config_info", "gauge", cache, 1),
        ]
        lines = [
            f"# TYPE {name} {kind}\n{name}{labels} {value}\n"
            for name, kind, labels, value in values
        ]
        return web.Response(text="".join(lines))

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        try:
            body = await _body(request)
            generations = [sim_wire.parse_chat(body)] if chat else sim_wire.parse_completion(body)
            fault = self._engine.fault(generations[0].model)
        except HubError as failure:
            return _json(sim_wire.error_body(failure, failure.status), failure.status)
        if fault is not None and fault.kind == "html":
            return _page()
        head: Json = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": generations[0].model or MODEL,
        }
        try:
            if body.get("stream") is True:
                news = asyncio.Event()
                size = len(generations) if isinstance(body.get("prompt"), list) else None
                outlet = sim_wire.Outlet(fault, news.set, nulls=size - 1 if size else 0)
                usage = sim_wire.wants_usage(body)
                sinks: Sequence[sim_wire.ChatStream] = (
                    [sim_wire.ChatStream(head, usage, outlet)]
                    if chat
                    else sim_wire.text_streams(head, usage, outlet, size)
                )
                with self._running(generations, sinks) as runs:
                    return await self._stream(request, runs, outlet, news, fault, sim_wire.DONE)
            folds = [sim_wire.ChatSink() if chat else sim_wire.TextSink() for _ in generations]
            await self._whole(generations, folds, fault)
            return _json(sim_wire.whole(head, folds))
        except HubError as refusal:
            return self._refusal(refusal, generations, fault)

    async def infill(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await _body(request)
            generations = sim_infill.parse_infill(body)
            fields = sim_infill.wanted(body)
            fault = self._engine.fault(generations[0].model)
        except HubError as failure:
            return _json(sim_wire.error_body(failure, failure.status), failure.status)
        if fault is not None and fault.kind == "html":
            return _page()
        if fault is not None and fault.kind == "noinfill":
            return _json(sim_infill.NO_MARKERS, 501)
        try:
            if body.get("stream") is True:
                news = asyncio.Event()
                outlet = sim_wire.Outlet(fault, news.set)
                streams = [
                    sim_infill.InfillStream(index, generation, fields, outlet)
                    for index, generation in enumerate(generations)
                ]
                with self._running(generations, streams) as runs:
                    return await self._stream(request, runs, outlet, news, fault, b"")
            folds = [
                sim_infill.InfillSink(index, generation, fields)
                for index, generation in enumerate(generations)
            ]
            await self._whole(generations, folds, fault)
            answers = [fold.answer() for fold in folds]
            return _json(answers if len(answers) > 1 else answers[0])
        except HubError as refusal:
            return self._refusal(refusal, generations, fault)

    async def _whole(
        self, generations: Sequence[Generation], sinks: Sequence[Sink], fault: Fault | None
    ) -> None:
        """Run what is not streamed to its end. Raises what breaks it."""
        with self._running(generations, sinks) as runs:
            try:
                for run in runs:
                    # Whoever waits may be cancelled, with what it waits for; a deaf run is not.
                    if (broken := await asyncio.shield(run.done)) is not None:
                        raise broken
            except asyncio.CancelledError:
                if fault is not None and fault.kind == "deaf":
                    for run in runs:
                        self._unheard[run.done] = run
                        run.done.add_done_callback(self._unheard.pop)
                    runs.clear()
                raise

    @contextmanager
    def _running(
        self, generations: Sequence[Generation], sinks: Sequence[Sink]
    ) -> Iterator[list[Run]]:
        """Run the generations side by side, until they are over or the block is left: then all
        of them stop that are still in the list. Those of an array share one fate."""
        runs: list[Run] = []
        try:
            for generation, sink in zip(generations, sinks, strict=True):
                runs.append(self._engine.start(generation, sink))
            yield runs
        finally:
            for run in runs:
                self._engine.stop(run)

    async def _stream(
        self,
        request: web.Request,
        runs: Sequence[Run],
        outlet: sim_wire.Outlet,
        news: asyncio.Event,
        fault: Fault | None,
        end: bytes,
    ) -> web.StreamResponse:
        """Write what is rendered; whatever came since the last write goes out as one. ``end`` is
        what a stream ends with."""
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        left = fault.amount if fault is not None and fault.kind == "cut" else sys.maxsize
        for run in runs:
            run.done.add_done_callback(lambda _: news.set())
        over = False
        while not over:
            await news.wait()
            news.clear()
            data = outlet.take()
            ended = [run.done.result() for run in runs if run.done.done()]
            failure = next((one for one in ended if one is not None), None)
            if over := failure is not None or len(ended) == len(runs):
                # Nothing has been promised yet: the client gets a real status.
                if failure is not None and not (data or response.prepared):
                    raise failure
                data += end if failure is None else _last_words(failure)
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
        return response

    def _refusal(
        self, failure: HubError, generations: Sequence[Generation], fault: Fault | None
    ) -> web.Response:
        if failure.code == "context_length_exceeded":
            tokens = max(map(sim_text.prompt_tokens, generations))
            return _json(sim_wire.too_long_body(failure, tokens, self._context), 400)
        # hub has one code for both of the statuses by which a server says that it is full.
        status = 429 if fault is not None and fault.kind == "429" else failure.status
        response = _json(sim_wire.error_body(failure, status), status)
        if failure.retry_after is not None:
            response.headers["Retry-After"] = str(math.ceil(failure.retry_after))
        return response


def _last_words(failure: Exception) -> bytes:
    """What a stream that fails ends with."""
    match failure:
        case HubError(code="upstream_incomplete_stream"):
            return b""
        case HubError():
            return sim_wire.event(orjson.dumps(sim_wire.error_body(failure, 500)))
        case _:
            raise failure


def _page() -> web.Response:
    """A proxy's."""
    return web.Response(status=502, text=_HTML, content_type="text/html")


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
