"""Filling in the middle: which way the upstream engine goes with which model server."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from hub.api.fim import FAMILIES, Other, Way, parse_way
from hub.api.requests import ContextFile, Generation, Usage
from hub.engines import upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_server import create_runner
from hub.engines.sim_text import full_text
from hub.engines.upstream import MAX_REFUSED, UpstreamEngine
from hub.errors import HubError
from tests.engines.recording import RecordingSink
from tests.engines.scripted import SSE, Peer, Script, Server, answer, serve
from tests.engines.test_sim_server import GLACIAL
from tests.engines.test_upstream import HearingSink

GAP = Generation(
    "m", (), prompt="def add(a, b):\n    return ", suffix="\n\n\ndef mul", max_tokens=9
)
QWEN = "qwen2.5-coder:7b"
PROPS = answer(200, b'{"total_slots":4,"default_generation_settings":{"n_ctx":8192}}')
MODELS = answer(200, b'{"data":[{"id":"qwen2.5-coder-7b-q8_0.gguf"}]}')
NO_MARKERS = answer(
    501,
    b'{"error":{"code":501,"message":"Infill is not supported by this model: prefix token is '
    b'missing. suffix token is missing. middle token is missing. ","type":"not_supported_error"}}',
)
FILLED = (
    b'data: {"index":0,"content":"a + b","tokens":[7],"stop":false,"id_slot":-1,'
    b'"tokens_predicted":1,"tokens_evaluated":9}\n\n'
    b'data: {"content":"","stop":true,"stop_type":"eos","tokens_predicted":2,'
    b'"tokens_evaluated":9}\n\n'
)
SAID = b'data: {"choices":[{"index":0,"text":"a + b","finish_reason":"stop"}]}\n\n'
INFILL, COMPLETIONS = "POST /infill", "POST /v1/completions"


def server(*, llama: bool = True, infill: bytes | None = None) -> Script:
    """A model server; llama.cpp or another one."""
    answers = {
        "GET /props": PROPS if llama else answer(404, b"{}"),
        "GET /metrics": answer(404, b"{}"),
        "GET /v1/models": MODELS,
        INFILL: infill or SSE + FILLED,
        COMPLETIONS: SSE + SAID,
    }

    async def script(peer: Peer) -> None:
        await peer.send(answers[peer.request])

    return script


@asynccontextmanager
async def engine_for(
    script: Script, **options: Any
) -> AsyncIterator[tuple[UpstreamEngine, Server]]:
    """An engine that has probed its model server; the server's peers are those after that."""
    async with serve(script) as there:
        engine = UpstreamEngine(there.url, **options)
        try:
            await engine.probe()
            there.peers.clear()
            yield engine, there
        finally:
            await engine.close()


async def said(engine: UpstreamEngine, generation: Generation) -> str:
    """What fills the gap."""
    sink = RecordingSink()
    await engine.generate(generation, sink)
    assert sink.ended
    return sink.said


def asked(there: Server) -> list[str]:
    """What the server was asked, in order."""
    return [peer.request for peer in there.peers]


@contextmanager
def unsupported(model: str) -> Iterator[None]:
    with pytest.raises(HubError) as raised:
        yield
    assert raised.value.code == "fim_not_supported"
    assert f"'{model}'" in raised.value.message


async def test_llama_cpp_fills_in_itself() -> None:
    """By its own endpoint beside ``/v1``, streamed, whatever the model is called."""
    sink = RecordingSink()
    async with engine_for(server(), models={"m": "real"}, api_key="key") as (engine, there):
        await engine.generate(GAP, sink)
        (peer,) = there.peers
    assert peer.request == INFILL
    assert peer.headers["authorization"] == "Bearer key"
    assert (peer.body["model"], peer.body["stream"], peer.body["n_predict"]) == ("real", True, 9)
    assert peer.body["input_prefix"] == GAP.prompt
    assert peer.body["input_suffix"] == GAP.suffix
    assert sink.calls == [("text", "a + b"), ("usage", Usage(9, 2)), ("finish", "stop")]


async def test_a_model_without_markers_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp refuses it once; then the markers of its family do it, until some time is over."""
    generation = replace(GAP, model=QWEN)
    async with engine_for(server(infill=NO_MARKERS)) as (engine, there):
        for _ in range(2):
            assert await said(engine, generation) == "a + b"
        assert asked(there) == [INFILL, COMPLETIONS, COMPLETIONS]
        assert there.peers[-1].body["prompt"] == (
            "<|fim_prefix|>def add(a, b):\n    return <|fim_suffix|>\n\n\ndef mul<|fim_middle|>"
        )
        assert there.peers[-1].body["stop"] == list(FAMILIES["qwen-coder"].stop)
        there.peers.clear()
        await said(engine, replace(generation, model="codellama:7b"))
        assert asked(there) == [INFILL, COMPLETIONS]
        there.peers.clear()
        monkeypatch.setattr(upstream, "ASK_AGAIN", 0.0)
        await said(engine, replace(generation, model="glm-4"))
        await said(engine, replace(generation, model="glm-4"))
        assert asked(there) == [INFILL, COMPLETIONS] * 2


async def test_another_server_at_the_address_is_asked_again() -> None:
    """A server that was away may have come back with another model."""
    away = False

    async def script(peer: Peer) -> None:
        if not (away and peer.request.startswith("GET")):
            await server(infill=NO_MARKERS)(peer)

    async with engine_for(script) as (engine, there):
        await said(engine, replace(GAP, model=QWEN))
        away = True
        with pytest.raises(HubError):
            await engine.probe()
        away = False
        await engine.probe()
        there.peers.clear()
        await said(engine, replace(GAP, model=QWEN))
        assert asked(there) == [INFILL, COMPLETIONS]


async def test_only_so_many_models_are_remembered() -> None:
    """Clients can make names up; those refused longest ago are asked about again."""
    async with engine_for(server(infill=NO_MARKERS)) as (engine, there):
        for number in range(MAX_REFUSED + 1):
            await said(engine, replace(GAP, model=f"codestral-{number}"))
        there.peers.clear()
        await said(engine, replace(GAP, model=f"codestral-{MAX_REFUSED}"))
        await said(engine, replace(GAP, model="codestral-0"))
        assert asked(there) == [COMPLETIONS, INFILL, COMPLETIONS]


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_whoever_hides_the_endpoint_has_none(status: int) -> None:
    """A proxy in front of llama.cpp may know it under no such name."""
    refusal = answer(status, b"<html></html>", kind="text/html")
    async with engine_for(server(infill=refusal)) as (engine, there):
        assert await said(engine, replace(GAP, model=QWEN)) == "a + b"
        assert asked(there) == [INFILL, COMPLETIONS]


@pytest.mark.parametrize(
    ("infill", "code"),
    [
        (answer(503, b'{"error":{"message":"Loading model"}}'), "upstream_overloaded"),
        (answer(400, b'{"error":{"message":"no"}}'), "upstream_rejected_request"),
        (SSE + FILLED[:120], "upstream_incomplete_stream"),
    ],
)
async def test_what_fails_there_is_not_asked_twice(infill: bytes, code: str) -> None:
    """Only a refusal of the endpoint itself leads to another one."""
    async with engine_for(server(infill=infill)) as (engine, there):
        with pytest.raises(HubError) as raised:
            await said(engine, replace(GAP, model=QWEN))
        assert raised.value.code == code
        assert asked(there) == [INFILL]


async def test_other_servers_get_the_markers_of_the_models_family() -> None:
    """The family is that of the server's name for the model, its default model included."""
    files = (ContextFile("a.py", "A"),)
    async with engine_for(server(llama=False), models={"fast": "codestral"}) as (engine, there):
        assert await said(engine, replace(GAP, model="fast", files=files)) == "a + b"
        assert await said(engine, replace(GAP, model="")) == "a + b"
        first, models, default = there.peers
    assert first.body["prompt"] == (
        "[SUFFIX]\n\n\ndef mul[PREFIX]+++++ a.py\nA\n\n+++++ filename\ndef add(a, b):\n    return "
    )
    assert models.request == "GET /v1/models"
    assert default.body["model"] == "qwen2.5-coder-7b-q8_0.gguf"
    assert default.body["prompt"].endswith("<|fim_middle|>")
    assert (default.body["stream"], default.body["max_tokens"]) == (True, 9)


async def test_a_marker_in_the_answer_ends_it() -> None:
    """And the connection, so that the server stops, too."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.request != COMPLETIONS:
            await server(llama=False)(peer)
            return
        said = [b'"a + b"', b'"<|file"', b'"_sep|>x"']
        pieces = [b'data: {"choices":[{"index":0,"text":%b}]}\n\n' % text for text in said]
        await peer.send(SSE, *pieces)
        await peer.gone()
        gone.set()

    async with engine_for(script) as (engine, _):
        sink = RecordingSink()
        await engine.generate(replace(GAP, model=QWEN), sink)
        await gone.wait()
    assert sink.calls == [("text", "a + b"), ("finish", "stop")]


@pytest.mark.parametrize("llama", [True, False])
async def test_an_unknown_model_is_refused(llama: bool) -> None:
    """In llama.cpp's words, and nothing is made up for it."""
    async with engine_for(server(llama=llama, infill=NO_MARKERS)) as (engine, there):
        with unsupported("m"):
            await said(engine, GAP)
        assert COMPLETIONS not in asked(there)


async def test_where_nothing_is_behind_the_gap_an_unknown_model_goes_on() -> None:
    """Some clients always send a suffix, an empty one at the end of a file."""
    async with engine_for(server(llama=False)) as (engine, there):
        extra = {"top_p": 0.9, "samplers": ["infill"], "t_max_predict_ms": 250}
        assert await said(engine, replace(GAP, suffix="", extra=extra)) == "a + b"
        (peer,) = there.peers
    assert peer.body["prompt"] == GAP.prompt
    assert "suffix" not in peer.body
    # What is llama.cpp's own, others may refuse.
    assert peer.body.keys() & extra.keys() == {"top_p"}


@pytest.mark.parametrize("name", ["m", "real", "m*"])
@pytest.mark.parametrize(
    ("setting", "prompt"),
    [
        (
            "santacoder",
            "<fim-prefix>def add(a, b):\n    return <fim-suffix>\n\n\ndef mul<fim-middle>",
        ),
        ("<a>{prefix}<b>{suffix}", "<a>def add(a, b):\n    return <b>\n\n\ndef mul"),
        ("native", "def add(a, b):\n    return "),
    ],
)
async def test_what_the_settings_say_comes_first(name: str, setting: str, prompt: str) -> None:
    """Before llama.cpp's own way, by either name of the model."""
    ways = {name: parse_way(setting)}
    async with engine_for(server(), models={"m": "real"}, ways=ways) as (engine, there):
        assert await said(engine, GAP) == "a + b"
        (peer,) = there.peers
    assert peer.request == COMPLETIONS
    assert peer.body["prompt"] == prompt
    assert peer.body.get("suffix") == (GAP.suffix if setting == "native" else None)
    assert peer.body["model"] == "real"


async def test_the_settings_may_refuse_a_model() -> None:
    ways: dict[str, Way] = {"m": Other.NONE}
    async with engine_for(server(), ways=ways) as (engine, there):
        with unsupported("m"):
            await said(engine, GAP)
        assert asked(there) == []


async def test_cancelling_closes_the_connection() -> None:
    """Which is how llama.cpp is told to stop."""
    begun, gone = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        if peer.request != INFILL:
            await server()(peer)
            return
        await peer.send(SSE, FILLED[: FILLED.index(b"\n\n") + 2])
        begun.set()
        await peer.gone()
        gone.set()

    async with engine_for(script) as (engine, _):
        task = asyncio.create_task(engine.generate(GAP, RecordingSink()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone.wait()


# Against the simulated server.


@asynccontextmanager
async def simulated(sim: SimEngine | None = None, **options: Any) -> AsyncIterator[UpstreamEngine]:
    """An engine whose model server is the simulated one."""
    sim = sim or SimEngine(PROFILES["h100-8b"], speed=100.0, faults=True)
    runner = create_runner(sim)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    engine = UpstreamEngine(f"http://{host}:{port}", **options)
    try:
        await engine.probe()
        yield engine
    finally:
        await engine.close()
        await runner.cleanup()
        await sim.close()


@pytest.mark.parametrize("model", ["sim", "sim+comment=2", ""])
async def test_a_gap_against_the_simulated_server(model: str) -> None:
    """What it says is what the simulated engine says itself."""
    generation = replace(GAP, model=model, max_tokens=None, files=(ContextFile("a", "x" * 40),))
    sink = RecordingSink()
    async with simulated() as engine:
        await engine.generate(generation, sink)
    assert sink.said == full_text(generation)
    kind, usage = sink.calls[-2]
    assert (kind, usage.input_tokens) == ("usage", (26 + 10 + 40) // 4)
    assert sink.calls[-1] == ("finish", "stop")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("noinfill", "fim_not_supported"),
        ("error=2", "upstream_error"),
        ("eof=2", "upstream_incomplete_stream"),
        ("400", "context_length_exceeded"),
        ("429", "upstream_overloaded"),
        ("garbage=1", "upstream_protocol_error"),
        ("cut=200", "upstream_incomplete_stream"),
        ("html", "upstream_unavailable"),
    ],
)
async def test_faults_of_the_simulated_server(fault: str, code: str) -> None:
    async with simulated() as engine:
        with pytest.raises(HubError) as raised:
            await engine.generate(replace(GAP, model=f"sim+{fault}"), RecordingSink())
    assert raised.value.code == code


@pytest.mark.parametrize("way", ["", "native", "qwen-coder"])
async def test_a_deaf_server_stops_for_hub(way: str) -> None:
    """Whatever the way, it is asked for a stream: leaving it stops the server, that would have gone
    on with anything else."""
    sim = SimEngine(GLACIAL, faults=True)
    ways = {"sim*": parse_way(way)} if way else {}
    sink = HearingSink()
    async with simulated(sim, ways=ways) as engine:
        task = asyncio.create_task(engine.generate(replace(GAP, model="sim+deaf"), sink))
        await sink.heard.wait()
        assert sim.statistics().running == 1
        task.cancel()
        await asyncio.wait([task])
        while not sim.statistics().aborted:
            await engine.probe()
        assert (sim.statistics().running, sim.statistics().tokens) == (0, 1)


async def test_a_model_without_markers_goes_by_the_settings_there() -> None:
    """The simulated server takes the prompt with the markers for any other text."""
    generation = replace(GAP, model="sim+noinfill")
    async with simulated(ways={"sim*": parse_way("<a>{prefix}<b>{suffix}<c>")}) as engine:
        text = await said(engine, generation)
    prompt = "<a>def add(a, b):\n    return <b>\n\n\ndef mul<c>"
    assert text == full_text(Generation("sim", (), prompt=prompt, max_tokens=9))
