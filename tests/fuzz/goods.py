"""Good examples of everything that comes from outside, to make bad ones of."""

import orjson

_TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
_CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
_SAMPLED = {"temperature": 0.5, "top_p": 0.9, "presence_penalty": 0, "frequency_penalty": 1}

_CREATES = (
    {"input": "Hello"},
    {
        "model": "m",
        "input": [
            {"type": "message", "role": "user", "content": "Hello"},
            {"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]},
            {
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "No"}, {"type": "text", "text": "x"}],
            },
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "1"},
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_image", "image_url": "data:,", "detail": "low"}],
            },
            {"type": "reasoning", "summary": []},
        ],
        "tools": [_TOOL],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "f"}],
        },
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "metadata": {"a": "b"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "max_output_tokens": 4,
        "truncation": "auto",
        "stream": False,
        **_SAMPLED,
    },
    {
        "input": "Hello",
        "tools": [_TOOL],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "max_tool_calls": 1,
        "generate": False,
        "store": False,
        "service_tier": "flex",
        "instructions": "Be brief.",
    },
)

_CHATS = (
    {"messages": [{"role": "user", "content": "Hello"}]},
    {
        "model": "m",
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
            {"role": "tool", "tool_call_id": "c", "content": "1"},
        ],
        "tools": [_CHAT_TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}},
        "n": 1,
        "stop": ["a", "b"],
        "max_completion_tokens": 4,
        "max_tokens": 5,
        "logprobs": True,
        "top_logprobs": 3,
        "seed": 1,
        "logit_bias": {"1": 2},
        "stream": False,
        "stream_options": {"include_usage": True},
        **_SAMPLED,
    },
)

_COMPLETIONS = (
    {"prompt": "Hello"},
    {"prompt": ["Hello", "Bye"], "n": 2, "seed": 7, "max_tokens": 3, "stop": "x", **_SAMPLED},
    {
        "prompt": "def f(",
        "suffix": "):\n",
        "model": "qwen2.5-coder",
        "single_line": True,
        "n_indent": 4,
        "t_max_predict_ms": 100,
        "stream": False,
        "stream_options": {"include_usage": False},
        "echo": False,
        "best_of": 1,
        "max_tokens": 5,
    },
)

_FIMS = (
    {"prompt": "def f(", "suffix": "):\n", "random_seed": 3, "min_tokens": 1, "max_tokens": 9},
    {"prompt": "a", "model": "codestral", "stop": ["\n"], "n_indent": 1, **_SAMPLED},
)

_INFILLS = (
    {"input_prefix": "a", "input_suffix": "b"},
    {
        "input_prefix": "a",
        "input_suffix": "b",
        "prompt": "c",
        "input_extra": [{"filename": "x.py", "text": "y"}, {"text": "z"}],
        "n_predict": 5,
        "n_cmpl": 2,
        "samplers": ["top_k"],
        "t_max_predict_ms": 1000,
        "response_fields": ["content", "timings/prompt_ms"],
        "id_slot": 0,
        "seed": 5,
        "stop": ["\n"],
        "single_line": True,
        "top_k": 40,
    },
)

_COMPACTS = (
    {"model": "m", "input": "Hello"},
    {"model": "m", "input": [{"role": "user", "content": "x"}]},
)

_MESSAGES = (
    *({"type": "response.create", "stream_id": "a", **create} for create in _CREATES),
    {"type": "response.resume", "stream_id": "a", "response_id": "resp_1", "starting_after": 3},
    {"type": "response.cancel", "stream_id": "a"},
    {"type": "response.cancel", "response_id": "resp_1"},
    {"type": "response.steer", "previous_response_id": "resp_1", "input": [{"a": 1}]},
    {"type": "response.processed"},
)

_CREATED = {
    "type": "completion.create",
    "stream_id": "b",
    "version": 1,
    "prefix": "def f(",
    "suffix": "):\n",
    "model": "m",
    "max_tokens": 5,
    "stop": ["\n"],
    "files": [{"name": "a.py", "text": "x"}],
    "kind": "foreground",
    "single_line": True,
    "indent": 4,
    "budget_ms": 100,
    "temperature": 0.2,
}
_TYPED = {"type": "completion.type", "stream_id": "b", "version": 2, "insert": "ab", "delete": 1}
_ACCEPTED = {"type": "completion.accepted", "stream_id": "b", "version": 3, "characters": 2}
_KEYSTROKES = (
    [_CREATED, _TYPED, {**_TYPED, "version": 3}],
    [_TYPED, _CREATED, _ACCEPTED],
    [_CREATED, {"type": "completion.cancel", "stream_id": "b"}, {**_CREATED, "kind": "warmup"}],
)


def _dumped(*values: object) -> list[bytes]:
    return [orjson.dumps(value) for value in values]


CREATES = _dumped(*_CREATES)
CHATS = _dumped(*_CHATS)
COMPLETIONS = _dumped(*_COMPLETIONS)
FIMS = _dumped(*_FIMS)
INFILLS = _dumped(*_INFILLS)
COMPACTS = _dumped(*_COMPACTS)
SETTINGS = _dumped({"batch_size": 4}, {"flush_interval_ms": 0.5, "batch_size": 1})
KEYSTROKES = _dumped(*_KEYSTROKES)
MESSAGES = _dumped(*_MESSAGES, _CREATED, _TYPED, _ACCEPTED)


def _events(*chunks: object) -> bytes:
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks)


def _chat(delta: object, finish: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def _text(text: str, index: int = 0, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": index, "text": text, "finish_reason": finish}]}


_USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
_LOGPROBS = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
_DONE = b"data: [DONE]\n\n"

STREAMS = [
    _events(
        _chat({"role": "assistant", "content": ""}),
        _chat({"content": "He"}),
        _chat({"content": "llo"}),
        _chat({}, "stop"),
        {"choices": [], "usage": _USAGE, "timings": {"cache_n": 2, "prompt_ms": 1.5}},
    )
    + _DONE,
    _events(
        _chat({"reasoning_content": "Hm"}),
        {"choices": [{"index": 0, "delta": {"content": "x"}, "logprobs": _LOGPROBS}]},
        _chat({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "f"}}]}),
        _chat({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        _chat({"function_call": {"name": "g", "arguments": {"a": 1}}}, "tool_calls"),
    ),
    _events(_text("He"), _text("llo<|fim_pad|>x"), _text("", finish="length"))
    + b": ping\r\n\r\nevent: error\ndata: null\n\n"
    + _DONE,
    _events(_text("a", 0), _text("b", 1), _text("", 1, "stop"), _text("c", 0, "length")) + _DONE,
    _events(
        {"content": "a", "stop": False},
        {
            "content": "",
            "stop": True,
            "stop_type": "limit",
            "tokens_predicted": 1,
            "tokens_evaluated": 2,
            "timings": {"prompt_ms": 1, "predicted_ms": 2, "cache_n": 1},
        },
    ),
    _events({"error": {"message": "too long", "type": "x", "code": 400}}),
    orjson.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}),
]

ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + STREAMS[0],
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"%x\r\n%b\r\n0\r\n\r\n" % (len(STREAMS[0]), STREAMS[0]),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    + b"Content-Length: %d\r\n\r\n%b" % (len(STREAMS[-1]), STREAMS[-1]),
    b"HTTP/1.1 429 Too Many\r\nRetry-After: 3\r\nContent-Length: 20\r\n\r\n"
    + b'{"error": {"a": 12}}',
]

FAILURES = _dumped(
    {"error": {"message": "context length exceeded", "type": "t", "code": "c"}},
    {"error": "text"},
    {"object": "error", "message": "m", "code": 404},
    {"detail": [{"loc": ["a"], "msg": "m", "input": "p"}]},
)
MODELS = _dumped({"data": [{"id": "a"}, {"id": "embed"}]}, [{"id": "b"}], {"data": None})
PROPS = _dumped({"total_slots": 4, "default_generation_settings": {"n_ctx": 4096}})
METRICS = [
    b'# HELP x y\nvllm:num_requests_running{engine="0"} 3\nvllm:num_requests_waiting 1.0\n'
    b'vllm:kv_cache_usage_perc 0.5\nvllm:cache_config_info{block_size="16",num_gpu_blocks="9"} 1\n',
    b"llamacpp:requests_processing 2\nllamacpp:requests_deferred 1e3 1700000000\n",
    b'sglang:num_running_reqs{priority=""} 1\nsglang:token_usage 0.25\n',
]
HEADERS = [
    b"X-Hub-Class: completion\nX-Hub-Lane: a\nX-Hub-Deadline-Ms: 2000\nAuthorization: Bearer k",
    b"X-Hub-Class: background\nX-Hub-Deadline-Ms: 86400000\nUser-Agent: x",
]
URLS = [
    b"https://example.com/path?x=1#whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    b"https://[2001:db8::1]:8443/#0123456789012345678901234567",
    b"http://0x7f.1/#0123456789012345678901234567",
]
ORIGINS = [
    b"Origin: https://app.example\nHost: hub.example:8765",
    b"Origin: http://127.0.0.1:8765\nHost: 127.0.0.1:8765",
    b"Origin: http://[::1]\nHost: [::1]:80\nAccess-Control-Request-Headers: x-hub-lane, accept",
    b"Origin: null\nHost: localhost.",
]
FORWARDED = [
    b"X-Forwarded-For: 192.0.2.7, 10.0.0.2\nX-Forwarded-Proto: https\nX-Forwarded-Host: a.example",
    b"Host: hub\nX-Forwarded-For: [2001:db8::1]:99, ::ffff:10.0.0.3",
]
SHOWN = [
    b"Authorization: Bearer KEY",
    b"Sec-WebSocket-Protocol: hub, hub.ticket.TICKET\nAuthorization: bearer x",
]
