"""llama.cpp's ``/infill``: what is asked between two texts, and the answers. Pure.

Sources: llama.cpp's server, its README, and what llama.vim and llama.vscode send. Its clients
depend on things that are easy to miss:

- What is before the cursor is ``input_prefix`` followed by ``prompt``, the cursor's line.
- Parameters that hub does not know are passed on. ``id_slot`` is not: these clients always send 0,
  and requests for one slot run one after the other.
- ``response_fields`` picks from the answer by paths such as ``timings/prompt_ms``, which are the
  keys of a flat object. Unknown paths are left out, so ``[""]`` asks for ``{}``.
- Several completions (``n_cmpl``) are answered with an array of such objects.
- A stream ends with the block whose ``stop`` is true, without ``[DONE]``.
- ``{}`` shows nothing, and unlike an empty ``content`` it is not remembered: that is what somebody
  gets who was superseded. Every error is a message on the user's screen.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from hub.api.chat import failure, stop_strings
from hub.api.completions import MAX_N, MAX_SEED, early_stop, raw_text, seed_of
from hub.api.recorder import TERMINAL_EVENTS, Recorder
from hub.api.requests import (
    ContextFile,
    Fields,
    Generation,
    Json,
    Request,
    Usage,
    check_depth,
    json_type,
    sampling,
)
from hub.errors import HubError
from hub.log import Event

Kind = Literal["foreground", "speculative", "warmup"]
"""What somebody waits for; what somebody may ask for next; what only fills a model's cache."""

SPECULATIVE_MS = 1000
"""The ``t_max_predict_ms`` from which on nobody waits for the answer yet."""

UNNAMED = "tmp"
"""llama.cpp's name for a file that has none."""

_OWN = frozenset(
    {
        *("model", "input_prefix", "prompt", "input_suffix", "input_extra", "stop", "seed"),
        *("n_predict", "max_tokens", "n_cmpl", "n", "single_line"),
        *("stream", "response_fields", "id_slot"),
    }
)
"""What is no parameter to be passed on."""


@dataclass(frozen=True, slots=True)
class InfillAsked:
    """One body: a request for each completion, and how they are to be answered."""

    requests: list[Request]
    kind: Kind
    response_fields: list[str]
    """What of the answer is wanted; empty for all."""

    @property
    def stream(self) -> bool:
        return self.requests[0].stream

    @property
    def array(self) -> bool:
        """Whether a whole answer is an array of ``infill_answer``, and not one alone."""
        return len(self.requests) > 1


def parse_infill(body: Any) -> InfillAsked:
    """Check the body of an infill and say what was asked. Raises ``HubError``."""
    if not isinstance(body, dict):
        raise HubError("invalid_type", f"The body must be an object, not {json_type(body)}.")
    check_depth(body)
    fields = Fields(body)
    prefix, suffix = fields.text("input_prefix"), fields.text("input_suffix")
    if prefix is None:
        raise fields.missing("input_prefix")
    if suffix is None:
        raise fields.missing("input_suffix")
    if isinstance(fields.raw("prompt"), list):
        raise HubError(
            "unsupported_value", "'prompt' must be text: tokens are not supported.", param="prompt"
        )
    prompt = prefix + (fields.text("prompt") or "")
    files = _files(fields)
    response_fields = _strings(fields, "response_fields")
    asked_by = "n_predict"
    if (most := fields.integer(asked_by, -2)) is None:
        asked_by = "max_tokens"
        most = fields.integer(asked_by, -2)
    kind = _kind(fields, most, response_fields)
    # -1 is llama.cpp's "no bound", -2 "until the context is full".
    max_tokens = 0 if kind == "warmup" else most if most is None or most >= 0 else None
    n = fields.integer("n_cmpl", 1, MAX_N) or fields.integer("n", 1, MAX_N) or 1
    seed = fields.integer("seed", -MAX_SEED - 1, MAX_SEED)
    rules = early_stop(fields, suffix)
    extra = {name: value for name, value in body.items() if name not in _OWN and value is not None}
    extra |= sampling(fields)
    model, stop = fields.text("model") or "", stop_strings(fields)
    stream = fields.flag("stream", False)
    requests = [
        Request(
            model=model,
            generation=Generation(
                model=model,
                messages=(),
                prompt=prompt,
                suffix=suffix,
                files=files,
                max_tokens=max_tokens,
                stop=stop,
                extra=extra if seed is None else {**extra, "seed": seed_of(seed, k)},
            ),
            stream=stream,
            store=False,
            asked_by=asked_by,
            early_stop=rules,
            ahead=kind != "foreground",
        )
        for k in range(n)
    ]
    return InfillAsked(requests, kind, response_fields)


def _strings(fields: Fields, name: str) -> list[str]:
    """An array of strings; empty if it is absent."""
    values = fields.array(name) or []
    for index, value in enumerate(values):
        if not isinstance(value, str):
            at = f"{fields.param(name)}[{index}]"
            raise HubError(
                "invalid_type", f"'{at}' must be a string, but it is {json_type(value)}.", param=at
            )
    return values


def _files(fields: Fields) -> list[ContextFile]:
    files = []
    for index, one in enumerate(fields.objects("input_extra")):
        inner = Fields(one, f"input_extra[{index}].")
        text = inner.text("text")
        if text is None:
            raise inner.missing("text")
        files.append(ContextFile(inner.text("filename") or UNNAMED, text))
    return files


def _kind(fields: Fields, most: int | None, response_fields: list[str]) -> Kind:
    if most == 0 or fields.raw("samplers") == [] or response_fields == [""]:
        return "warmup"
    patience = fields.integer("t_max_predict_ms", -1)
    return "speculative" if patience is not None and patience >= SPECULATIVE_MS else "foreground"


# The answer.


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds that a completion took; ``None`` if it is not known."""

    prompt: float | None = None
    """From when it was dispatched to its first token."""
    predicted: float | None = None
    """From there to its end."""


def infill_answer(
    recorder: Recorder,
    asked: InfillAsked,
    *,
    index: int = 0,
    took: Took | None = None,
    superseded: bool = False,
) -> Json:
    """The whole answer of an ended response, the completion number ``index``.

    Raises ``HubError`` if it has no whole answer. What nobody has counted or measured is 0, since
    clients calculate with it.
    """
    if superseded:
        return {}
    if (error := failure(recorder)) is not None:
        raise error
    return _picked(_final(recorder, index, raw_text(recorder), took), asked.response_fields)


def _final(recorder: Recorder, index: int, content: str, took: Took | None) -> Json:
    usage = recorder.reported_usage or Usage()
    return {
        "index": index,
        "content": content,
        "stop": True,
        # It cannot be told whether a stop string or the model itself has ended it.
        "stop_type": "limit" if recorder.finish_reason == "length" else "eos",
        "model": recorder.model,
        "tokens_predicted": usage.output_tokens,
        "tokens_evaluated": usage.input_tokens,
        "tokens_cached": usage.cached_tokens,
        "truncated": False,
        "timings": _timings(usage, took or Took()),
    }


def _timings(usage: Usage, took: Took) -> Json:
    timings: Json = {"cache_n": usage.cached_tokens}
    evaluated = max(0, usage.input_tokens - usage.cached_tokens)
    for name, tokens, seconds in (
        ("prompt", evaluated, took.prompt or 0.0),
        ("predicted", usage.output_tokens, took.predicted or 0.0),
    ):
        timings |= {
            f"{name}_n": tokens,
            f"{name}_ms": round(seconds * 1000, 3),
            f"{name}_per_token_ms": round(seconds * 1000 / tokens, 3) if tokens else 0.0,
            f"{name}_per_second": round(tokens / seconds, 3) if seconds else 0.0,
        }
    return timings


def _picked(answer: Json, paths: list[str]) -> Json:
    if not paths:
        return answer
    picked: Json = {}
    for path in paths:
        value: Any = answer
        for name in path.split("/"):
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        else:
            picked[path] = value
    return picked


class InfillStream:
    """Renders the log of one completion as SSE blocks. Call ``render`` with every event in order;
    several of one body may be mixed, since each block has its ``index``."""

    def __init__(
        self,
        recorder: Recorder,
        asked: InfillAsked,
        *,
        index: int = 0,
        took: Callable[[], Took] = Took,
        superseded: Callable[[], bool] = lambda: False,
    ) -> None:
        """``took`` is asked at the end. So is ``superseded`` if the response was cancelled then:
        the stream ends without an error, and what it has said is to be thrown away."""
        self._recorder = recorder
        self._asked = asked
        self._index = index
        self._took = took
        self._superseded = superseded
        self._start = b'data: {"index":%d,"content":' % index

    def render(self, event: Event) -> bytes:
        """An event's block; empty for what is no part of the text, such as reasoning."""
        if event.type == "response.output_text.delta":
            return self._start + orjson.dumps(event.delta) + b',"stop":false}\n\n'
        if event.type not in TERMINAL_EVENTS:
            return b""
        recorder = self._recorder
        if recorder.status == "cancelled" and self._superseded():
            return self._start + b'"","stop":true}\n\n'
        if (error := failure(recorder)) is not None:
            return b"data: " + orjson.dumps({**infill_error(error), "index": self._index}) + b"\n\n"
        last = _final(recorder, self._index, "", self._took())
        return b"data: " + orjson.dumps(_picked(last, self._asked.response_fields)) + b"\n\n"


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


def infill_error(error: HubError) -> Json:
    """An error as llama.cpp tells it; its code is the HTTP status."""
    if error.code == "context_length_exceeded":
        type = "exceed_context_size_error"
    else:
        other = "invalid_request_error" if error.status < 500 else "server_error"
        type = _TYPES.get(error.status, other)
    return {"error": {"code": error.status, "message": error.message, "type": type}}
