"""What the errors of model servers mean."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.engines.chat_errors import MAX_MESSAGE, error_from_event, error_from_response
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
    body = orjson.dumps({"error": "x" * 10_000})
    words = error_from_response(500, body).message.partition(": ")[2]
    assert words == "x" * (MAX_MESSAGE - 1) + "…"


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
