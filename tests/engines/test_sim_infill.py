"""The simulated model server's ``/infill`` over TCP, and clients that go away from it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from aiohttp import ClientSession

from hub.api.requests import ContextFile, Generation, Json
from hub.engines.sim import SimEngine
from hub.engines.sim_text import full_text, script
from tests.engines.test_sim_server import FAST, GLACIAL, events, serving, until

BODY: Json = {
    "input_prefix": "def add(a, b):\n",
    "prompt": "    return ",
    "input_suffix": "\n\n\ndef mul",
    "input_extra": [{"filename": "a.py", "text": "A = 1"}],
    "n_predict": 12,
}
GAP = Generation(
    "",
    (),
    prompt="def add(a, b):\n    return ",
    suffix="\n\n\ndef mul",
    files=(ContextFile("a.py", "A = 1"),),
    max_tokens=12,
)


@pytest.fixture
async def client() -> AsyncIterator[ClientSession]:
    async with serving(SimEngine(FAST, faults=True)) as client:
        yield client


async def ask(client: ClientSession, **fields: Any) -> Any:
    async with client.post("/infill", json={**BODY, **fields}) as response:
        assert response.status == 200
        return orjson.loads(await response.read())


async def test_a_whole_answer(client: ClientSession) -> None:
    """llama-server's shape, with the counts and why it stopped."""
    answer = await ask(client)
    assert answer["content"] == full_text(GAP)
    assert (answer["stop"], answer["stop_type"]) == (True, "limit")
    assert answer["tokens_predicted"] == len(script(GAP)) == 12
    assert answer["tokens_evaluated"] == (len("def add(a, b):\n    return \n\n\ndef mulA = 1")) // 4
    assert answer["timings"].keys() >= {"prompt_n", "prompt_ms", "predicted_n", "predicted_ms"}
    assert (await ask(client, n_predict=-1))["stop_type"] == "eos"


async def test_a_stream_ends_with_its_last_event(client: ClientSession) -> None:
    """No ``[DONE]`` follows; the text is that of the whole answer."""
    async with client.post("/infill", json={**BODY, "stream": True}) as response:
        assert response.content_type == "text/event-stream"
        chunks = [orjson.loads(data) for data in events(await response.read())]
    *pieces, last = chunks
    assert [piece["content"] for piece in pieces] == list(script(GAP).text)
    assert [piece["stop"] for piece in pieces] == [False] * len(pieces)
    assert [piece["tokens_predicted"] for piece in pieces] == [*range(1, len(pieces) + 1)]
    assert (last["content"], last["stop"], last["stop_type"]) == ("", True, "limit")
    assert last["tokens_predicted"] == len(pieces)


@pytest.mark.parametrize("stream", [True, False])
async def test_response_fields_are_flat(client: ClientSession, stream: bool) -> None:
    """They hold for the last event of a stream, too; what is not there is left out."""
    fields = ["content", "timings/prompt_n", "nope", "timings/nope/x"]
    body = {**BODY, "response_fields": fields, "stream": stream}
    async with client.post("/infill", json=body) as response:
        data = await response.read()
    answer = orjson.loads(events(data)[-1] if stream else data)
    assert answer == {"content": "" if stream else full_text(GAP), "timings/prompt_n": 10}
    warm = {**BODY, "n_predict": 0, "samplers": [], "prompt": "", "response_fields": [""]}
    async with client.post("/infill", json=warm) as response:
        assert await response.read() == b"{}"


async def test_several_answers_are_an_array(client: ClientSession) -> None:
    """Each with its own text, the first as if it were alone; streamed, each event says whose."""
    answers = await ask(client, n_cmpl=3)
    assert [one["index"] for one in answers] == [0, 1, 2]
    texts = [one["content"] for one in answers]
    assert texts[0] == full_text(GAP)
    assert len(set(texts)) == 3
    async with client.post("/infill", json={**BODY, "n_cmpl": 3, "stream": True}) as response:
        chunks = [orjson.loads(data) for data in events(await response.read())]
    streamed = ["".join(c["content"] for c in chunks if c["index"] == i) for i in range(3)]
    assert streamed == texts


@pytest.mark.parametrize(
    "change",
    [
        {"input_prefix": None},
        {"input_suffix": None},
        {"input_prefix": 7},
        {"input_extra": [7]},
        {"input_extra": [{"filename": "a"}]},
        {"n_predict": "x"},
        {"n_cmpl": 0},
        {"response_fields": [7]},
    ],
)
async def test_refusals(client: ClientSession, change: Json) -> None:
    async with client.post("/infill", json={**BODY, **change}) as response:
        error = orjson.loads(await response.read())["error"]
        assert (response.status, error["code"]) == (400, 400)


@pytest.mark.parametrize(
    ("model", "status", "kind"),
    [
        ("sim+noinfill", 501, "not_supported_error"),
        ("sim+503", 503, "server_error"),
        ("gpt", 404, "invalid_request_error"),
    ],
)
async def test_models_that_fill_in_nothing(
    client: ClientSession, model: str, status: int, kind: str
) -> None:
    """One without markers is refused in llama.cpp's words."""
    async with client.post("/infill", json={**BODY, "model": model}) as response:
        error = orjson.loads(await response.read())["error"]
        assert (response.status, error["type"]) == (status, kind)
    if status == 501:
        assert error["message"].startswith("Infill is not supported by this model: prefix token")
    async with client.post("/infill", json={**BODY, "model": "sim+html"}) as response:
        assert response.content_type == "text/html"


async def test_suffix_of_a_completion_is_ignored(client: ClientSession) -> None:
    """As llama.cpp does."""
    body = {"prompt": "Once", "suffix": "the end", "max_tokens": 5}
    async with client.post("/v1/completions", json=body) as response:
        answer = orjson.loads(await response.read())
    assert answer["choices"][0]["text"] == full_text(
        Generation("", (), prompt="Once", max_tokens=5)
    )


@pytest.mark.parametrize("path", ["/infill", "/v1/completions"])
@pytest.mark.parametrize(
    ("model", "stream", "goes_on"),
    [("sim", False, False), ("sim+deaf", False, True), ("sim+deaf", True, False)],
)
async def test_a_deaf_server_goes_on_with_what_is_not_streamed(
    path: str, model: str, stream: bool, goes_on: bool
) -> None:
    """A client that leaves stops any stream, and what is not streamed unless the server is deaf."""
    engine = SimEngine(FAST if goes_on else GLACIAL, faults=True)
    body = {**BODY, "prompt": "x", "model": model, "stream": stream, "max_tokens": 12}
    async with serving(engine) as client:
        request = asyncio.create_task(client.post(path, json=body))
        await until(client, lambda: engine.statistics().running == 1)
        if stream:
            (await request).close()
        else:
            request.cancel()
        await until(client, lambda: engine.statistics().running == 0)
    statistics = engine.statistics()
    assert (statistics.finished, statistics.aborted) == ((1, 0) if goes_on else (0, 1))


async def test_what_nobody_waits_for_ends_with_the_server() -> None:
    """A deaf server can be stopped."""
    engine = SimEngine(GLACIAL, faults=True)
    async with serving(engine) as client:
        body = {**BODY, "model": "sim+deaf"}
        requests = [asyncio.create_task(client.post("/infill", json=body))]
        await until(client, lambda: engine.statistics().running == 1)
        requests[0].cancel()
        await asyncio.wait(requests)
        assert engine.statistics().aborted == 0
    assert engine.statistics().aborted == 1
