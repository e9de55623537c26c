"""What the errors of model servers mean."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.engines.chat_errors import (
    MASK,
    MAX_MESSAGE,
    error_from_event,
    error_from_response,
    withhold,
)
from hub.errors import TABLE

LLAMA_TOO_LONG = (
    b'{"error":{"code":400,"message":"the request exceeds the available context size",'
    b'"type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":4096}}'
)
VLLM_TOO_LONG = (
    b'{"object":"error","message":"This model\'s maximum context length is 4096 tokens.",'
    b'"type":"BadRequestError","param":null,"code":400}'
)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (400, LLAMA_TOO_LONG, "context_length_exceeded"),
        (400, VLLM_TOO_LONG, "context_length_exceeded"),
        (413, b'{"detail":"longer than the context window"}', "context_length_exceeded"),
        (400, b'{"error":{"code":"context_length_exceeded"}}', "context_length_exceeded"),
        (400, b'{"error":{"message":"bad tool"}}', "upstream_rejected_request"),
        (409, b"", "upstream_rejected_request"),
        (413, b"", "upstream_rejected_request"),
        (422, b'{"detail":[{"msg":"Field required"}]}', "upstream_rejected_request"),
        (501, b'{"error":{"message":"no FIM"}}', "upstream_rejected_request"),
        (404, b'{"error":{"message":"The model `x` does not exist."}}', "model_not_found"),
        (
            404,
            b'{"error":{"message":"model \\"x\\" not found, try pulling it"}}',
            "model_not_found",
        ),
        (400, b'{"error":{"code":"model_not_found"}}', "model_not_found"),
        (404, b'{"detail":"Not Found"}', "upstream_error"),
        (404, b"404 page not found", "upstream_error"),
        (405, b"", "upstream_error"),
        (401, b'{"error":{"message":"Incorrect key sk-abc"}}', "upstream_unavailable"),
        (403, b"", "upstream_unavailable"),
        (408, b"", "upstream_timeout"),
        (429, b"", "upstream_overloaded"),
        (500, b'{"error":{"message":"boom"}}', "upstream_error"),
        (500, b'{"error":{"message":"Context size has been exceeded."}}', "upstream_overloaded"),
        (502, b"<html>", "upstream_unavailable"),
        (503, b'{"error":{"message":"Loading model"}}', "upstream_overloaded"),
        (504, b"", "upstream_timeout"),
        (599, b"", "upstream_error"),
        (307, b"", "upstream_unavailable"),
        (204, b"", "upstream_protocol_error"),
        (999, b"", "upstream_error"),
    ],
)
def test_answers(status: int, body: bytes, code: str) -> None:
    assert error_from_response(status, body).code == code


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (b'{"error":{"code":500,"message":"boom","type":"server_error"}}', "upstream_error"),
        (b'{"error":"boom"}', "upstream_error"),
        (b'{"object":"error","message":"boom"}', "upstream_error"),
        (b'{"error":{"message":"prompt exceeds context length"}}', "context_length_exceeded"),
        (LLAMA_TOO_LONG, "context_length_exceeded"),
        (VLLM_TOO_LONG, "context_length_exceeded"),
        # llama.cpp with one KV cache for all slots: it is full, whoever filled it.
        (
            b'{"error":{"code":500,"message":"Context size has been exceeded."}}',
            "upstream_overloaded",
        ),
        (b'{"error":{"code":429,"message":"busy"}}', "upstream_overloaded"),
        (b'{"error":{"code":"429"}}', "upstream_overloaded"),
        (b'{"error":{"type":"rate_limit_error"}}', "upstream_overloaded"),
        (b'{"error":{"type":"overloaded_error"}}', "upstream_overloaded"),
        (b'{"error":{"type":"authentication_error","message":"sk-1"}}', "upstream_unavailable"),
        (b'{"error":{"code":400,"message":"bad"}}', "upstream_rejected_request"),
        (b'{"error":{"message":"model x not found"}}', "model_not_found"),
        (b'{"error":7}', "upstream_error"),
        (b'{"error":[]}', "upstream_error"),
    ],
)
def test_events(event: bytes, code: str) -> None:
    assert error_from_event(orjson.loads(event)).code == code


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":{"message":"no\\n such\\u0000 \\u001b[1m tool"}}', "no such [1m tool"),
        (b'{"error":"no tool"}', "no tool"),
        (b'{"detail":[{"loc":["body"],"msg":"bad","input":"the prompt"}]}', "bad"),
        (b'{"error":{"message":{"a":1}}}', ""),
        (b'{"error":{"message":"<html>oops</html>"}}', ""),
        (b"<html>oops</html>", ""),
        (b"plain text", ""),
        (b"", ""),
    ],
)
def test_their_words_are_cleaned(body: bytes, message: str) -> None:
    prefix = "The model server refused the request"
    assert error_from_response(400, body).message == (
        f"{prefix}: {message}" if message else f"{prefix}."
    )


def test_their_words_are_cut() -> None:
    """Between words: half of one may be half of a key that no longer looks like one."""
    body = orjson.dumps({"error": "words " * 10_000})
    words = error_from_response(400, body).message.partition(": ")[2]
    assert words == " ".join(["words"] * (MAX_MESSAGE // 6)) + "…"
    assert error_from_response(400, b'{"error":"' + b"x" * 999 + b'"}').message.endswith(": …")


@pytest.mark.parametrize("status", [429, 500, 501, 503, 504, 599])
def test_what_concerns_whoever_runs_the_server_is_not_told(status: int) -> None:
    """Of 5xx, and of a server that is busy, clients are told what happened, in hub's words."""
    assert "boom" not in error_from_response(status, b'{"error":{"message":"boom"}}').message
    event = {"error": {"code": status, "message": "boom"}}
    assert "boom" not in error_from_event(event).message
    full = {"error": {"code": status, "message": "boom, context length exceeded"}}
    assert "boom" not in error_from_event(full).message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_tokens must be at least 1, got 0", "max_tokens must be at least 1, got 0"),
        ("no tool 'a' in org/model-7b and/or b", "no tool 'a' in org/model-7b and/or b"),
        ('model "qwen3:30b" is busy', 'model "qwen3:30b" is busy'),
        ("at most 4096 tokens: 2048 + 4000", "at most 4096 tokens: 2048 + 4000"),
        ("key sk-abc123, bad", f"key {MASK} bad"),
        ("wants Bearer abc here", f"wants Bearer {MASK} here"),
        ("api_key=abc is wrong", f"{MASK} is wrong"),
        ("token: abc is wrong", f"token: {MASK} is wrong"),
        ("hub_0011223344556677_secret", MASK),
        ("got 0123456789abcdef0123456789abcdef.", f"got {MASK}"),
        ("ask http://gpu1:8000/v1 or 10.0.0.7", f"ask {MASK} or {MASK}"),
        ("gpu1.lan:8000 and [fd00::1]:80 and ::1", f"{MASK} and {MASK} and {MASK}"),
        ("in /home/me/model.gguf and C:\\x", f"in {MASK} and {MASK}"),
        ("by me@example.com", f"by {MASK}"),
        ('bad input Traceback (most recent call last): File "/a"', "bad input"),
        ('bad File "serve.py", line 3', "bad"),
    ],
)
def test_keys_addresses_and_paths_are_masked(text: str, told: str) -> None:
    """Word by word; the rest of the sentence stays."""
    message = error_from_response(400, orjson.dumps({"error": text})).message
    assert message == f"The model server refused the request: {told}"


SHAPES = (
    "{}",
    "Incorrect key: {}.",
    "('{}')",
    "{}{}",
    "…{}\x00",
    "x" * 280 + " {}",
    "w " * 598 + "{}",
)


@given(
    key=st.text("abcXYZ019-_.:/+=~", min_size=12, max_size=80),
    shape=st.sampled_from(SHAPES),
    noise=st.text(max_size=20),
    status=st.integers(400, 599) | st.none(),
)
def test_a_key_that_a_server_repeats_goes_no_further(
    key: str, shape: str, noise: str, status: int | None
) -> None:
    """Whatever it looks like, as a whole or in part, and wherever it stands."""
    text = f"{noise} {shape.format(key, key)}"
    body = {"error": {"message": text, "code": status}}
    for error in (error_from_response(status or 400, orjson.dumps(body)), error_from_event(body)):
        withhold(key, error)
        assert key not in error.message
        assert key not in str(error)
        # What is left of a key is no part of it that could be used.
        assert not any(key[at : at + 11] in error.message for at in range(len(key) - 10))


@pytest.mark.parametrize("status", [401, 403])
def test_keys_are_not_repeated(status: int) -> None:
    error = error_from_response(status, b'{"error":{"message":"Incorrect API key: sk-secret"}}')
    assert "sk-secret" not in error.message


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("999999", 3600.0),
        *((bad, None) for bad in ("-1", "nan", "1e9", "soon", "", "٣")),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        (None, None),
    ],
)
def test_retry_after(header: str | None, seconds: float | None) -> None:
    assert error_from_response(429, b"", header).retry_after == seconds
    assert error_from_response(503, b"", header).retry_after == seconds


values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 999) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "detail", "msg"]), inner
        )
    ),
    max_leaves=8,
)


@given(status=st.integers(100, 999), value=values)
def test_any_json_is_an_error_of_the_table(status: int, value: object) -> None:
    error = error_from_response(status, orjson.dumps(value))
    assert error.code in TABLE
    assert error.message.isprintable()
    assert len(error.message) <= MAX_MESSAGE + 80


@given(st.binary())
def test_any_bytes_are_an_error_of_the_table(body: bytes) -> None:
    assert error_from_response(400, body).code == "upstream_rejected_request"
