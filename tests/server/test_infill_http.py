"""Editors over HTTP: what their plugins send, as seen on the wire, and what they must get."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from hub.errors import HubError
from tests.manual import Call, ManualEngine
from tests.running import Running, Start

LLAMA_VIM: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "import os\n\ndef add(a, b):\n",
    "prompt": "    return ",
    "input_suffix": "\n\n\ndef mul(a, b):\n",
    "input_extra": [{"text": "x = 1\n", "time": [1, 2], "filename": "other.py"}],
    "n_predict": 128,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "samplers": ["top_k", "top_p", "infill"],
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 250,
    "model": "",
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}
"""llama.vim's foreground request."""
EMPTY_KEY = {"Authorization": "Bearer ", "Content-Type": "application/json"}
WARM_UP = {
    **LLAMA_VIM,
    "prompt": "",
    "n_predict": 0,
    "samplers": [],
    "t_max_predict_ms": 1,
    "response_fields": [""],
}
MINUET: dict[str, Any] = {
    "model": "",
    "max_tokens": 56,
    "top_p": 0.9,
    "prompt": "# language: python\n",
    "suffix": "\n",
}


class Editor:
    """A client's requests to one hub, whose engine is in the test's hands."""

    def __init__(self, hub: Running, session: aiohttp.ClientSession) -> None:
        self.hub = hub
        self.engine: ManualEngine = hub.engine
        self._session = session

    def post(self, path: str, body: Any, **headers: str) -> "asyncio.Task[tuple[int, bytes]]":
        async def ask() -> tuple[int, bytes]:
            answer = await self._session.post(self.hub.url + path, json=body, headers=headers)
            async with answer:
                return answer.status, await answer.read()

        return asyncio.create_task(ask())

    async def head(self, path: str, body: Any) -> dict[str, str]:
        """The headers of an answer."""
        async with self._session.post(self.hub.url + path, json=body) as answer:
            return {**answer.headers}

    async def get(self, path: str) -> bytes:
        async with self._session.get(self.hub.url + path) as answer:
            return await answer.read()

    async def call(self, number: int) -> Call:
        """The engine's call of that number, once it has come."""
        return await self.engine.call(number)


@pytest.fixture
async def editor(start: Start) -> AsyncIterator[Editor]:
    hub = await start(ManualEngine())
    async with aiohttp.ClientSession() as session:
        one = Editor(hub, session)
        # A model that has said nothing may be loading, which is another matter.
        loaded = one.post("/infill", {"input_prefix": "", "input_suffix": "loaded"})
        call = await one.call(0)
        call.sink.text("x")
        call.finish()
        await loaded
        one.engine.calls.clear()
        yield one


def say(call: Call, text: str, reason: str = "stop") -> None:
    call.sink.text(text)
    call.finish(reason)


# llama.cpp's clients.


@pytest.mark.parametrize("path", ["/infill", "/v1/infill"])
async def test_llama_vim_gets_flat_fields_in_compact_json(editor: Editor, path: str) -> None:
    """It looks for ``"content":"`` in the raw text, and sends an empty key and an empty model."""
    asking = editor.post(path, LLAMA_VIM, **EMPTY_KEY)
    call = await editor.call(0)
    generation = call.generation
    assert generation.prompt == "import os\n\ndef add(a, b):\n    return "
    assert generation.suffix == "\n\n\ndef mul(a, b):\n"
    assert [(one.name, one.text) for one in generation.files] == [("other.py", "x = 1\n")]
    assert "id_slot" not in generation.extra
    say(call, "a + b")
    status, body = await asking
    assert status == 200
    assert b'"content":"a + b"' in body
    assert b"\n" not in body
    assert [*json.loads(body)] == LLAMA_VIM["response_fields"]


async def test_a_warm_up_is_answered_with_nothing(editor: Editor) -> None:
    asking = editor.post("/infill", WARM_UP)
    call = await editor.call(0)
    assert call.generation.max_tokens == 0
    call.finish("length")
    assert await asking == (200, b"{}")


async def test_several_completions_are_an_array(editor: Editor) -> None:
    """What llama.vscode asks for."""
    asking = editor.post("/infill", {**LLAMA_VIM, "n_cmpl": 3, "t_max_predict_ms": 500})
    for number, text in enumerate("abc"):
        say(await editor.call(number), text)
    status, body = await asking
    assert status == 200
    assert [one["content"] for one in json.loads(body)] == ["a", "b", "c"]


async def test_the_latest_wins_and_the_older_one_gets_an_empty_success(editor: Editor) -> None:
    """``{}``, which no client remembers; its upstream is let go of, although it did not stream."""
    old = editor.post("/infill", LLAMA_VIM)
    call = await editor.call(0)
    call.sink.text("a")
    new = editor.post("/infill", {**LLAMA_VIM, "prompt": "    raise "})
    assert await old == (200, b"{}")
    assert (await editor.call(1)) is not call
    assert call.result.cancelled()
    say(await editor.call(1), "Error")
    assert b'"content":"Error"' in (await new)[1]


async def test_what_is_typed_as_predicted_needs_no_new_request(editor: Editor) -> None:
    asking = editor.post("/infill", LLAMA_VIM)
    say(await editor.call(0), "a + b")
    await asking
    status, body = await editor.post("/infill", {**LLAMA_VIM, "prompt": "    return a "})
    assert (status, json.loads(body)["content"]) == (200, "+ b")
    assert len(editor.engine.calls) == 1


async def test_a_request_ahead_of_time_answers_the_one_who_comes_there(editor: Editor) -> None:
    """llama.vim asks for what comes after the completion that it shows, with another budget."""
    ahead = {**LLAMA_VIM, "prompt": "    return a + b", "t_max_predict_ms": 1000}
    asking = editor.post("/infill", ahead)
    say(await editor.call(0), " + c")
    await asking
    status, body = await editor.post("/infill", {**LLAMA_VIM, "prompt": "    return a + b"})
    assert (status, json.loads(body)["content"]) == (200, " + c")
    assert len(editor.engine.calls) == 1


async def test_what_nobody_waits_for_is_shed_without_an_error(editor: Editor) -> None:
    """A speculative request that found no place is answered with ``{}``."""
    asking = editor.post("/infill", {**LLAMA_VIM, "t_max_predict_ms": 1000})
    (await editor.call(0)).result.set_exception(HubError("deadline_exceeded", "full"))
    assert await asking == (200, b"{}")


async def test_a_refusal_has_llama_cpps_shape(editor: Editor) -> None:
    asking = editor.post("/infill", LLAMA_VIM)
    message = "Infill is not supported by this model: prefix token is missing."
    (await editor.call(0)).result.set_exception(HubError("fim_not_supported", message))
    status, body = await asking
    assert status == 501
    error = {"code": 501, "message": message, "type": "not_supported_error"}
    assert json.loads(body) == {"error": error}
    status, body = await editor.post("/infill", {"input_prefix": 7, "input_suffix": ""})
    assert (status, json.loads(body)["error"]["code"]) == (400, 400)


async def test_what_will_be_refused_again_tells_the_sdks_so(editor: Editor) -> None:
    """They try every status from 500 on again, unless a header says no."""
    answers: list[dict[str, str]] = []
    for code in ("fim_not_supported", "upstream_unavailable"):
        editor.engine.calls.clear()
        asking = asyncio.create_task(editor.head("/v1/completions", MINUET))
        (await editor.call(0)).result.set_exception(HubError(code, "no"))
        answers.append(await asking)
    assert [one.get("X-Should-Retry") for one in answers] == ["false", None]


async def test_a_stream_of_an_infill_ends_with_stop_and_without_done(editor: Editor) -> None:
    asking = editor.post("/infill", {**LLAMA_VIM, "stream": True, "response_fields": []})
    say(await editor.call(0), "a + b", "length")
    _, body = await asking
    *blocks, last = [json.loads(line[6:]) for line in body.decode().split("\n\n") if line]
    assert "".join(block["content"] for block in blocks) == "a + b"
    assert (last["stop"], last["stop_type"]) == (True, "limit")


async def test_a_text_ends_by_hubs_own_rules_and_its_upstream_is_let_go_of(editor: Editor) -> None:
    """A line that is indented by less than the cursor's."""
    asking = editor.post("/infill", LLAMA_VIM)
    call = await editor.call(0)
    call.sink.text("a + b\n\ndef x")
    status, body = await asking
    assert (status, json.loads(body)["content"]) == (200, "a + b")
    assert call.result.cancelled()


async def test_what_becomes_of_completions_is_told(editor: Editor) -> None:
    """In ``/metrics`` and ``/health``."""
    first = editor.post("/infill", LLAMA_VIM)
    (await editor.call(0)).sink.text("a")
    new = editor.post("/infill", {**LLAMA_VIM, "prompt": "    raise "})
    await first
    say(await editor.call(1), "Error")
    await new
    await editor.post("/infill", {**LLAMA_VIM, "prompt": "    raise Er"})
    told = (await editor.get("/metrics")).decode()
    # The one that has loaded the model counts, too.
    for line in (
        "hub_completions_asked_total 4.0",
        "hub_completions_dispatched_total 3.0",
        "hub_completions_reused_total 1.0",
        "hub_completions_superseded_total 1.0",
        'hub_completions_ended_total{reason="superseded"} 1.0',
    ):
        assert line in told
    assert json.loads(await editor.get("/health"))["completions"]["reused"] == 1


# OpenAI's and Mistral's clients.


async def test_minuets_copies_are_siblings(editor: Editor) -> None:
    """It asks three times for the same, and kills all three at its next key."""
    asking = [editor.post("/v1/completions", MINUET) for _ in range(3)]
    for number in range(3):
        say(await editor.call(number), f"text {number}")
    bodies = [json.loads(body) for _, body in await asyncio.gather(*asking)]
    assert {one["choices"][0]["text"] for one in bodies} == {"text 0", "text 1", "text 2"}


async def test_an_editor_that_hangs_up_stops_its_upstream(editor: Editor) -> None:
    """Although it did not ask for a stream."""
    asking = editor.post("/v1/completions", MINUET)
    call = await editor.call(0)
    asking.cancel()
    await asyncio.wait([call.result], timeout=5)
    assert call.result.cancelled()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_superseded_completion_is_an_empty_success(editor: Editor, streamed: bool) -> None:
    old = editor.post("/v1/completions", {**MINUET, "stream": streamed})
    call = await editor.call(0)
    if streamed:
        call.sink.text("begin")
    else:
        call.sink.text("x")
    new = editor.post("/v1/completions", {**MINUET, "prompt": MINUET["prompt"] + "!"})
    status, body = await old
    assert status == 200
    if streamed:
        *chunks, done = [line[6:] for line in body.decode().split("\n\n") if line]
        assert done == "[DONE]"
        assert json.loads(chunks[-1])["choices"][0]["finish_reason"] == "stop"
    else:
        choice = json.loads(body)["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("", "stop")
    say(await editor.call(1), "y")
    assert json.loads((await new)[1])["choices"][0]["text"] == "y"


async def test_plain_completions_supersede_nobody_without_a_lane(editor: Editor) -> None:
    """A script may ask for many texts at a time; with a lane, the latest wins there."""
    plain = [editor.post("/v1/completions", {"prompt": f"{n}"}) for n in range(2)]
    await editor.call(1)
    lane = {"X-Hub-Lane": "buffer"}
    old = editor.post("/v1/completions", {"prompt": "x"}, **lane)
    await editor.call(2)
    new = editor.post("/v1/completions", {"prompt": "y"}, **lane)
    assert json.loads((await old)[1])["choices"][0]["text"] == ""
    await editor.call(3)
    for call in editor.engine.calls:
        if not call.result.done():
            say(call, "z")
    for asking in (*plain, new):
        assert json.loads((await asking)[1])["choices"][0]["text"] == "z"


@pytest.mark.parametrize("streamed", [False, True])
async def test_mistrals_shape(editor: Editor, streamed: bool) -> None:
    """Continue reads ``choices[0].delta.content``."""
    body = {"model": "", "prompt": "def f(", "suffix": "):", "max_tokens": 8, "stream": streamed}
    asking = editor.post("/v1/fim/completions", body)
    call = await editor.call(0)
    assert (call.generation.prompt, call.generation.suffix) == ("def f(", "):")
    say(call, "x, y")
    status, answer = await asking
    assert status == 200
    if streamed:
        chunks = [json.loads(line[6:]) for line in answer.decode().split("\n\n")[:-2]]
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    else:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    assert text == "x, y"
