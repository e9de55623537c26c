"""What a model server's errors mean: HTTP answers and error events to rows of hub's error table.

The sources disagree about everything but "JSON with a text somewhere in it":

- OpenAI, llama.cpp, vLLM, SGLang, LM Studio: ``{"error": {message, type, code}}``, where ``code``
  is an HTTP status (llama.cpp, vLLM) or a word (OpenAI). llama.cpp says
  ``exceed_context_size_error`` in ``type`` for a prompt that is too long; others say it in prose.
- Ollama: ``{"error": "text"}``. Older vLLM: ``{"object": "error", message, type, code}``.
- FastAPI under vLLM and SGLang: ``{"detail": "text"}`` or ``{"detail": [{loc, msg, input}]}``.
- A proxy in between: HTML or plain text, which is never quoted.

Of a model server's own words a client is told those that concern its request: what is wrong with
it (4xx, or an error event without a status). All others concern whoever runs the server: what comes
with 401 and 403 may repeat a part of hub's own key, and what comes with 5xx is where a server's
addresses and paths are. What is told has no key, no address and no path in it, as far as these can
be told from words.
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
_TRACEBACK = re.compile(r"(?<!\S)(Traceback \(most recent|File \"|at [\w.$]+\()")
_HIDDEN = re.compile(
    r"(?<![a-z0-9])(sk|pk|hf|gsk|xai|hub|whsec|ghp|glpat)[-_]"
    r"|eyJ[\w-]{8}"  # a JSON Web Token
    r"|(key|token|secret|password|authorization)[\"']?[=:]."
    r"|(?=[a-z]*[0-9])(?=[0-9]*[a-z])[a-z0-9+=]{32}"
    r"|[a-z]://"
    r"|[0-9]{1,3}(\.[0-9]{1,3}){3}"
    r"|(?<!\w)[0-9a-f]{0,4}(:[0-9a-f]{0,4}){2}"  # IPv6
    r"|[a-z0-9\]]:[0-9]{2,5}(?![0-9a-z])"  # host:port, and not Ollama's model:30b
    r"|@[\w-]+\."
    r"|(?<![\w.:])[~.]{0,2}/[\w.~-]+/"
    r"|[a-z]:\\",
    re.IGNORECASE,
)
"""What is in a word that is none for clients: a key, an address or a path. (A model's name, as in
``org/name``, is not one: no slash begins it.)"""
_INTRODUCED = re.compile(
    r"(?<!\w)(bearer|basic)$|(key|token|secret|password|authorization)[\"']?[=:]$", re.IGNORECASE
)
"""What ends a word after which a key comes."""
MASK = "[…]"
_OF_THE_REQUEST = frozenset(
    {"context_length_exceeded", "model_not_found", "upstream_rejected_request"}
)
"""The errors of which a client is told in the model server's own words."""
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
        return _error(
            "upstream_overloaded", "The model server ran out of context memory", status, report
        )
    if status in (None, 400, 413, 422, 500) and _CONTEXT.search(words):
        return _error(
            "context_length_exceeded", "The prompt is too long for the model", status, report
        )
    if status in (429, 503) or _BUSY.search(kind):
        error = _error("upstream_overloaded", "The model server is overloaded", status, report)
        error.retry_after = retry_after
        return error
    if status in (None, 400, 404) and _NO_MODEL.search(words):
        return _error("model_not_found", "The model server does not know the model", status, report)
    if status in (404, 405):
        # The address is wrong, not the request.
        return HubError("upstream_error", f"The model server has no such endpoint ({status}).")
    if status == 408 or status == 504:
        return _error("upstream_timeout", "The model server timed out", status, report)
    if status == 502:
        return HubError("upstream_unavailable", "The model server cannot be reached (502).")
    if status == 501 or (status is not None and 400 <= status < 500):
        return _error(
            "upstream_rejected_request", "The model server refused the request", status, report
        )
    if status is not None and 300 <= status < 400:
        return HubError(
            "upstream_unavailable", "The model server redirects, which hub does not follow."
        )
    if status is not None and 100 <= status < 300:
        return HubError(
            "upstream_protocol_error", f"The model server answered {status} without a response."
        )
    return _error("upstream_error", "The model server failed", status, report)


def _error(code: str, what: str, status: int | None, report: _Report) -> HubError:
    told = code in _OF_THE_REQUEST and (status is None or 400 <= status < 500)
    words = _fit(report.message) if told else ""
    return HubError(code, f"{what}: {words}" if words else f"{what}.")


def withhold(secret: str, error: HubError) -> None:
    """Take the model server's words out of an error if they have the secret in them."""
    if secret and secret in error.message:
        error.message = error.message.partition(": ")[0] + "."
        error.args = (error.message,)


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
    """Foreign words on one line, without control characters; nothing of what is no prose."""
    text = " ".join(text.split())
    return "" if text.startswith("<") else "".join(c for c in text if c.isprintable())


def _fit(text: str) -> str:
    """Foreign words, fit for clients, and of bounded length. A word is there as a whole or not at
    all, so that none is cut down to something that no longer looks like a key."""
    text = _cut(_TRACEBACK.split(text, maxsplit=1)[0].rstrip(), 4 * MAX_MESSAGE)
    words = text.split(" ")
    for at, word in enumerate(words):
        if _HIDDEN.search(word) or (at and _INTRODUCED.search(words[at - 1])):
            words[at] = MASK
    return _cut(" ".join(words), MAX_MESSAGE)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[:most].rpartition(" ")[0] + "…"


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None or not re.fullmatch(r"\s*[0-9]{1,9}(\.[0-9]{1,9})?\s*", retry_after):
        return None
    return min(float(retry_after), MAX_RETRY_AFTER)
