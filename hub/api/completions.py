"""The Completions dialect: raw text to go on from, and what comes after it.

One body asks for several completions: ``n`` of every prompt, each with an index of its own. Every
one of them is a ``Request`` of its own, with its own log, so that it may run, end and fail by
itself; their logs are rendered as one answer. With a ``suffix``, even an empty one, it is what is
between the prompt and the suffix that is asked for.

Sources: OpenAI's Completions reference, and vLLM for the order of the indices and for what ``seed``
means where ``n`` is more than one. ``single_line`` is hub's own, and ``n_indent`` and
``t_max_predict_ms`` are llama.cpp's: see ``early_stop``.
"""

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from hub.api.chat import failure, parameters, stop_strings, wants_usage
from hub.api.early_stop import EarlyStop
from hub.api.recorder import TERMINAL_EVENTS, Recorder
from hub.api.requests import Fields, Generation, Json, Request, Usage, check_depth, json_type
from hub.api.sse import DONE
from hub.errors import HubError
from hub.log import Event

MAX_N = 16
"""Completions of one prompt."""

MAX_MEMBERS = 128
"""Completions of one body."""

MAX_SEED = 2**63 - 1
"""OpenAI's bound."""

REASONS = ("stop", "length", "content_filter")
"""The finish reasons that this dialect knows. A raw text calls no tools."""


def parse_completions(body: Any) -> list[Request]:
    """Check the body of a completion and say what was asked: a request for each index, in order.

    The index of completion ``k`` of prompt ``i`` is ``i * n + k``. Raises ``HubError``.
    """
    if not isinstance(body, dict):
        raise HubError("invalid_type", f"The body must be an object, not {json_type(body)}.")
    check_depth(body)
    fields = Fields(body)
    _refuse_unsupported(fields)
    prompts = _prompts(fields)
    suffix = fields.text("suffix")
    if suffix is not None and len(prompts) > 1:
        raise fields.wrong_value("suffix", f"goes with one prompt, but there are {len(prompts)}")
    n = fields.integer("n", 1, MAX_N) or 1
    if len(prompts) * n > MAX_MEMBERS:
        why = f"asks for {len(prompts) * n} completions; {MAX_MEMBERS} are the most"
        raise fields.wrong_value("n", why)
    model = fields.text("model") or ""
    # 0 is allowed here: it fills a model server's prompt cache.
    max_tokens = fields.integer("max_tokens", 0)
    stop, extra = stop_strings(fields), parameters(fields)
    seed = fields.integer("seed", -MAX_SEED - 1, MAX_SEED)
    rules = early_stop(fields, suffix)
    stream, include_usage = fields.flag("stream", False), wants_usage(fields)
    flex = fields.raw("service_tier") == "flex"
    return [
        Request(
            model=model,
            generation=Generation(
                model=model,
                messages=(),
                prompt=prompt,
                suffix=suffix,
                max_tokens=max_tokens,
                stop=stop,
                extra=extra if seed is None else {**extra, "seed": seed_of(seed, k)},
            ),
            stream=stream,
            store=False,
            early_stop=rules,
            include_usage=include_usage,
            flex=flex,
        )
        for prompt in prompts
        for k in range(n)
    ]


def _refuse_unsupported(fields: Fields) -> None:
    """Refuse, by name, what would change the answer and is not done."""
    refused: str | None = None
    if fields.flag("echo", False):
        refused = "echo"
    elif fields.integer("logprobs", 0, 5) is not None:
        refused = "logprobs"
    if refused is not None:
        raise HubError("unsupported_parameter", f"'{refused}' is not supported.", param=refused)
    if (fields.integer("best_of", 1) or 1) > 1:
        raise HubError("unsupported_value", "'best_of' must be 1.", param="best_of")


def _prompts(fields: Fields) -> list[str]:
    prompt = fields.raw("prompt")
    if prompt is None:
        raise fields.missing("prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, list):
        raise fields.wrong_type("prompt", "a string or an array of strings")
    for index, one in enumerate(prompt):
        if isinstance(one, list) or type(one) is int:
            raise HubError(
                "unsupported_value",
                "'prompt' must be text: tokens are not supported.",
                param="prompt",
            )
        if not isinstance(one, str):
            at = f"prompt[{index}]"
            raise HubError(
                "invalid_type", f"'{at}' must be a string, but it is {json_type(one)}.", param=at
            )
    if not 1 <= len(prompt) <= MAX_MEMBERS:
        why = f"must hold 1 to {MAX_MEMBERS} prompts, but it holds {len(prompt)}"
        raise fields.wrong_value("prompt", why)
    return prompt


# What this dialect and the others for raw text have in common.


def seed_of(seed: int, k: int) -> int:
    """The seed of the completion number ``k`` of a prompt, so that they are not all the same.

    A negative one is a model server's word for "any", and stays.
    """
    return seed + k if seed >= 0 else seed


def early_stop(fields: Fields, suffix: str | None) -> EarlyStop | None:
    """The rules by which hub ends the text; ``None`` for a plain text that has none.

    Zero stands for no rule, as for llama.cpp.
    """
    single_line = fields.flag("single_line", False)
    indent = fields.integer("n_indent", 0) or None
    # llama.cpp has -1 for none.
    budget = max(0, fields.integer("t_max_predict_ms", -1) or 0)
    if suffix is None and not (single_line or indent or budget):
        return None
    return EarlyStop(
        single_line=single_line,
        indent=indent,
        budget=budget / 1000 if budget else None,
        suffix=suffix or "",
    )


def raw_text(recorder: Recorder) -> str:
    """What an ended response has said, without reasoning."""
    parts = [
        part for item in recorder.output if item["type"] == "message" for part in item["content"]
    ]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


# The answer.


def text_completion(recorders: Sequence[Recorder], *, superseded: bool = False) -> Json:
    """The whole answer of ended responses, in the order of their indices.

    Raises the ``HubError`` of the first that has no whole answer. Who was ``superseded`` gets
    empty texts, whatever was said: half a completion for a text that has changed is of no use, and
    editors show an error at each key.
    """
    for recorder in recorders:
        if not superseded and (error := failure(recorder)) is not None:
            raise error
    answer: Json = {
        **_head(recorders[0]),
        "choices": [
            {
                "index": index,
                "text": "" if superseded else raw_text(recorder),
                "logprobs": None,
                "finish_reason": "stop" if superseded else _finish_reason(recorder),
            }
            for index, recorder in enumerate(recorders)
        ],
    }
    if (usage := _total(recorders)) is not None:
        answer["usage"] = usage.chat()
    return answer


def _head(first: Recorder) -> Json:
    """What all chunks of an answer share: it goes by its first completion."""
    return {
        "id": "cmpl-" + first.id.removeprefix("resp_"),
        "object": "text_completion",
        "created": first.created_at,
        "model": first.model,
    }


def _finish_reason(recorder: Recorder) -> str:
    reason = recorder.finish_reason
    return reason if reason in REASONS else "stop"


def _total(recorders: Sequence[Recorder]) -> Usage | None:
    """The tokens of all completions; those of a prompt count once for each, as they were asked.

    ``None`` if one of them did not tell: a sum without it would look like the whole. One that
    failed has no part in it.
    """
    told = [recorder.reported_usage for recorder in recorders if failure(recorder) is None]
    counts = [usage for usage in told if usage is not None]
    return sum(counts, Usage()) if counts and len(counts) == len(told) else None


class CompletionStream:
    """Renders the logs of the completions of one body as the SSE blocks of one stream.

    ``choices`` holds a renderer for each recorder, in the same order: call its ``render`` with
    every event of that log in order, the logs in any order. The last block of the last one ends
    with ``[DONE]``.
    """

    def __init__(
        self, recorders: Sequence[Recorder], superseded: Callable[[], bool] = lambda: False
    ) -> None:
        """``superseded`` is asked if a response was cancelled: whether that was because a newer
        request took its place. It ends without an error then, and what it has said is to be thrown
        away."""
        self._recorders = recorders
        self._superseded = superseded
        self._left = len(recorders)
        head = _head(recorders[0])
        self._include_usage = recorders[0].request.include_usage
        if self._include_usage:
            head["usage"] = None
        self._head = head
        start = b"data: " + orjson.dumps(head)[:-1]
        self.choices = [
            ChoiceStream(self, index, recorder, start + b',"choices":[{"index":%d,"text":' % index)
            for index, recorder in enumerate(recorders)
        ]

    def failure(self, recorder: Recorder) -> HubError | None:
        """What one of the completions that has ended tells instead of its end."""
        if recorder.status == "cancelled" and self._superseded():
            return None
        return failure(recorder)

    def end(self) -> bytes:
        """One of the completions has ended: what follows, which is nothing but for the last."""
        self._left -= 1
        if self._left:
            return b""
        usage = _total(self._recorders) if self._include_usage else None
        if usage is None:
            return DONE
        chunk = {**self._head, "choices": [], "usage": usage.chat()}
        return b"data: " + orjson.dumps(chunk) + b"\n\n" + DONE


class ChoiceStream:
    """Renders the log of one completion. See ``CompletionStream``."""

    __slots__ = ("_index", "_recorder", "_start", "_stream")

    def __init__(
        self, stream: CompletionStream, index: int, recorder: Recorder, start: bytes
    ) -> None:
        self._stream = stream
        self._index = index
        self._recorder = recorder
        self._start = start

    def render(self, event: Event) -> bytes:
        """An event's block; empty for what is no part of a raw text, such as reasoning."""
        if event.type == "response.output_text.delta":
            return self._start + orjson.dumps(event.delta) + _GOES_ON
        if event.type not in TERMINAL_EVENTS:
            return b""
        if (error := self._stream.failure(self._recorder)) is not None:
            # The others go on, so the error says whose it is.
            told = {"error": error.body(), "index": self._index}
            return b"data: " + orjson.dumps(told) + b"\n\n" + self._stream.end()
        reason = _finish_reason(self._recorder).encode()
        return self._start + _ENDS % reason + self._stream.end()


_GOES_ON = b',"logprobs":null,"finish_reason":null}]}\n\n'
_ENDS = b'"","logprobs":null,"finish_reason":"%b"}]}\n\n'
