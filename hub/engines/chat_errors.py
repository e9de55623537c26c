"""What a model server's errors mean: HTTP answers and error events to rows of hub's error table.

The sources disagree about everything but "JSON with a text somewhere in it":

- OpenAI, llama.cpp, vLLM, SGLang, LM Studio: ``{"error": {message, type, code}}``, where ``code``
  is an HTTP status (llama.cpp, vLLM) or a word (OpenAI). llama.cpp says
  ``exceed_context_size_error`` in ``type`` for a prompt that is too long; others say it in prose.
- Ollama: ``{"error": "text"}``. Older vLLM: ``{"object": "error", message, type, code}``.
- FastAPI under vLLM and SGLang: ``{"detail": "text"}`` or ``{"detail": [{loc, msg, input}]}``.
- A proxy in between: HTML or plain text, which is never quoted. Neither is what comes with 401 and
  403, since it may repeat a part of hub's own key.
"""

import re
from typing import Any, NamedTuple

import orjson

from hub.api.requests import Json
from hub.errors import HubError

MAX_MESSAGE = 300
"""How much of a model server's own words is repeated to clients, in characters."""

MAX_RETRY_AFTER = 3600.0
"""A model server that asks for more patience than this (seconds) is not believed."""

_CONTEXT = re.compile(
    r"exceed_context_size|context_length_exceeded|(maximum|max) context"
    r"|context[ _-](length|size|window)",
    re.IGNORECASE,
)
_NO_MODEL = re.compile(
    r"model_not_found|\bmodel\b.*\b(not found|not exist|unknown)\b", re.IGNORECASE | re.DOTALL
)
_BUSY = re.compile(r"rate_?limit|overloaded|too_?many_?requests|unavailable_error", re.IGNORECASE)
_CREDENTIALS = re.compile(r"authentication|invalid_api_key|permission", re.IGNORECASE)
# llama.cpp's words when sequences that share one KV cache have filled it together: the request may
# be small. Its status is 500; a prompt that is too long by itself is a 400.
_SHARED_CACHE_FULL = "context size has been exceeded"


class _Report(NamedTuple):
    """What could be read of an error: its words for people and for programs."""

    message: str = ""
    kind: str = ""
    """``type`` and ``code``, joined."""
    status: int | None = None
    """The status in ``code``, if it is one."""


def error_from_response(status: int, body: bytes, retry_after: str | None = None) -> HubError:
    """The error for an HTTP answer other than 200.

    ``body`` may be cut off. ``retry_after`` is the header of that name: only its form in seconds
    is understood, since an HTTP date would need a clock.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = None
    return _judge(status, _report(parsed), _seconds(retry_after))


def error_from_event(event: Json) -> HubError:
    """The error for an event that reports one after a 200, or for such a body."""
    report = _report(event)
    return _judge(report.status, report, None)


def _judge(status: int | None, report: _Report, retry_after: float | None) -> HubError:
    message, kind = report.message, report.kind
    words = f"{kind} {message}"
    if status in (401, 403) or _CREDENTIALS.search(kind):
        return HubError("upstream_unavailable", "The model server refuses hub's credentials.")
    if status == 500 and _SHARED_CACHE_FULL in message.lower():
        return _error("upstream_overloaded", "The model server ran out of context memory", report)
    if status in (None, 400, 413, 422, 500) and _CONTEXT.search(words):
        return _error("context_length_exceeded", "The prompt is too long for the model", report)
    if status in (429, 503) or _BUSY.search(kind):
        error = _error("upstream_overloaded", "The model server is overloaded", report)
        error.retry_after = retry_after
        return error
    if status in (None, 400, 404) and _NO_MODEL.search(words):
        return _error("model_not_found", "The model server does not know the model", report)
    if status in (404, 405):
        # The address is wrong, not the request.
        return HubError("upstream_error", f"The model server has no such endpoint ({status}).")
    if status == 408 or status == 504:
        return _error("upstream_timeout", "The model server timed out", report)
    if status == 502:
        return HubError("upstream_unavailable", "The model server cannot be reached (502).")
    if status == 501 or (status is not None and 400 <= status < 500):
        return _error("upstream_rejected_request", "The model server refused the request", report)
    if status is not None and 300 <= status < 400:
        return HubError(
            "upstream_unavailable", "The model server redirects, which hub does not follow."
        )
    if status is not None and 100 <= status < 300:
        return HubError(
            "upstream_protocol_error", f"The model server answered {status} without a response."
        )
    return _error("upstream_error", "The model server failed", report)


def _error(code: str, what: str, report: _Report) -> HubError:
    return HubError(code, f"{what}: {report.message}" if report.message else f"{what}.")


def _report(value: Any) -> _Report:
    """Read an error in whatever shape it came; never fails."""
    if not isinstance(value, dict):
        return _Report()
    inner = value.get("error") or value
    if isinstance(inner, str):
        return _Report(_clean(inner))
    if not isinstance(inner, dict):
        return _Report()
    code = inner.get("code")
    kind = " ".join(one for one in (inner.get("type"), code) if isinstance(one, str))
    for name in ("message", "detail", "msg"):
        text = inner.get(name)
        if isinstance(text, list) and text and isinstance(text[0], dict):
            text = text[0].get("msg")  # and not its "input", which is the prompt
        if isinstance(text, str):
            return _Report(_clean(text), kind, _status(code))
    return _Report("", kind, _status(code))


def _status(code: object) -> int | None:
    if isinstance(code, str) and re.fullmatch("[1-5][0-9][0-9]", code):
        return int(code)
    if isinstance(code, int) and 100 <= code <= 599:
        return int(code)
    return None


def _clean(text: str) -> str:
    """Foreign words, fit for a message: one line, no control characters, of bounded length."""
    text = " ".join(text[: 4 * MAX_MESSAGE].split())
    if text.startswith("<"):
        return ""
    text = "".join(c for c in text if c.isprintable())
    return text if len(text) <= MAX_MESSAGE else text[: MAX_MESSAGE - 1] + "…"


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None or not re.fullmatch(r"\s*[0-9]{1,9}(\.[0-9]{1,9})?\s*", retry_after):
        return None
    return min(float(retry_after), MAX_RETRY_AFTER)
