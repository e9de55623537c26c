"""What the streams of Completions and Chat Completions have in common, out and in.

A stream of chunks may hold other things than well-formed chunks (seen in llama.cpp, vLLM, SGLang,
Ollama, TGI and the proxies in front of them), and this becomes of them:

- ``null`` events (llama.cpp, for prompt arrays) and empty ones: skipped.
- ``usage`` in a chunk of its own after ``finish_reason``, in the same chunk, or in every chunk
  (cumulative): the last one counts. llama.cpp says in ``timings`` beside it what was cached, and
  how long it took.
- an error as an event, although the status was 200: the ``HubError`` that it means.
- anything else (not JSON, wrong types): ``upstream_protocol_error``.

What an error says is in ``chat_errors.py``. No I/O here.
"""

from typing import Any

import orjson

from hub.api.requests import Generation, Json, Usage, json_type
from hub.engines.base import Sink, notes_of
from hub.engines.chat_errors import error_from_event
from hub.engines.template import Template
from hub.errors import HubError

MAX_TOKENS = 2**53
"""The largest count that every JSON reader holds exactly."""

FINISH_REASONS = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "function_call": "tool_calls",
    "max_tokens": "length",
}
"""OpenAI's finish reasons, and other servers' words for them. A word that is not here
(``eos_token``, ``stop_sequence``, …) is an end like any other: ``stop``."""

FAILED_REASONS = {
    "abort": "upstream_incomplete_stream",  # vLLM, SGLang: somebody stopped the request
    "error": "upstream_error",
    "insufficient_system_resource": "upstream_overloaded",  # DeepSeek
}
"""Finish reasons that own up to an unfinished answer, and the error that each one is."""


def common_body(generation: Generation, model: str) -> Json:
    """What a request has in either dialect. It is always one for a stream.

    A server notices a dropped stream within a token, but may run an unstreamed request to its end.
    ``generation.extra`` goes along, but never overrides what hub sets.
    """
    body: Json = {
        **generation.extra,
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if generation.max_tokens is not None:
        # Not max_completion_tokens: every server knows the older name.
        body["max_tokens"] = generation.max_tokens
    if generation.stop:
        body["stop"] = list(generation.stop)
    return body


def decode(payload: bytes) -> Json | None:
    """The chunk that an event's data is: ``None`` for ``[DONE]``, empty if it says nothing."""
    try:
        chunk = orjson.loads(payload)
    except orjson.JSONDecodeError:
        # Here and not first, so that no token pays for the comparison.
        said = payload.strip()
        if said == b"[DONE]":
            return None
        if said:
            raise broken("an event that is not JSON") from None
        return {}
    if chunk is None:
        return {}
    if not isinstance(chunk, dict):
        raise wrong(chunk, "chunk")
    return chunk


class StreamReader:
    """Turns the chunks of one stream into calls on a ``Sink``, in order.

    Call ``feed`` with every event's data, then ``end`` once the stream is over. Text goes to the
    sink at once; ``usage`` and ``finish`` at the end, since the usage comes after the reason. Any
    call may raise a ``HubError``; the stream has failed then, and nothing more may be called.

    Only choice 0 counts. What is in a choice is the dialect's: a subclass has ``choice``,
    ``only_text`` and ``key``.
    """

    __slots__ = ("_counts", "_reason", "_said", "_sink", "_template", "done")

    key = ""
    """What a choice's text is called."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._template = Template(self.key)
        self._reason: str | None = None
        self._said = False
        """The model has said something."""
        self._counts: Json | None = None
        """The last chunk with a usage."""
        self.done = False
        """The server has said that nothing follows (``[DONE]``, or the message was whole)."""

    @property
    def finished(self) -> bool:
        """The model has finished: only the usage can be missing, and no more text follows."""
        return self._reason is not None

    def feed(self, payload: bytes) -> None:
        """Read one event's data. Whatever follows the end is ignored."""
        if self.done:
            return
        text = self._template.read(payload)
        if text is not None:
            if text:
                self._sink.text(text)
            return
        chunk = decode(payload)
        if chunk is None:
            self.done = True
            return
        self._read(chunk)
        if (said := self._text_of(chunk)) is not None:
            self._template.learn(payload, said)

    def _read(self, chunk: Json) -> None:
        if chunk.get("error"):
            raise error_from_event(chunk)
        if chunk.get("usage") is not None:
            self.count(chunk)
        choices = chunk.get("choices")
        if choices:
            for choice in as_array(choices, "choices"):
                index = as_object(choice, "choices").get("index")
                if not index:
                    self.choice(choice)
                elif type(index) is not int:
                    raise wrong(index, "index")
        elif chunk.get("object") == "error":
            raise error_from_event(chunk)

    def choice(self, choice: Json) -> None:
        """Read what a choice has to say."""
        raise NotImplementedError

    def only_text(self, choice: Json) -> object:
        """The text of a choice that says nothing else; ``finish_reason`` apart."""
        raise NotImplementedError

    def _text_of(self, chunk: Json) -> str | None:
        """The text of a chunk that was read and says nothing else, if it is such a chunk."""
        choices = chunk.get("choices")
        if not choices or len(choices) > 1 or chunk.get("usage") is not None:
            return None
        (choice,) = choices
        if choice.get("index") or choice.get("finish_reason") or self.done:
            return None
        text = self.only_text(choice)
        return text if isinstance(text, str) and text else None

    def count(self, chunk: Json) -> None:
        """Remember the usage of a chunk that has one."""
        as_object(chunk["usage"], "usage")
        self._counts = chunk

    def end(self) -> None:
        """The stream is over: report usage and finish, or raise what is wrong with the end.

        Without a finish reason an answer counts as finished only if the server said ``[DONE]`` and
        the model had said something. A connection that just ends, or a ``[DONE]`` after nothing
        at all, is how servers that crash or abort look from outside.
        """
        reason = self._reason
        if reason is None:
            if not (self.done and self._said):
                raise HubError(
                    "upstream_incomplete_stream",
                    "The model server ended the stream before the answer was finished.",
                )
            reason = self._unsaid_reason()
        if self._counts is not None:
            self._sink.usage(_usage(self._counts))
            if (timings := _timings(self._counts)) is not None:
                notes_of(self._sink).timings(*timings)
        self._sink.finish(reason)

    def _unsaid_reason(self) -> str:
        """Why the model stopped, if the server has not said."""
        return "stop"

    def _finish(self, reason: object) -> None:
        """Read a choice's ``finish_reason``."""
        word = as_string(reason, "finish_reason")
        if word in FAILED_REASONS:
            raise HubError(FAILED_REASONS[word], "The model server gave up on the answer.")
        if self._reason is None:
            self._reason = FINISH_REASONS.get(word, "stop")


def _usage(chunk: Json) -> Usage:
    usage = chunk["usage"]
    prompt = as_object(usage.get("prompt_tokens_details") or {}, "prompt_tokens_details")
    completion = as_object(
        usage.get("completion_tokens_details") or {}, "completion_tokens_details"
    )
    cached = _count(prompt, "cached_tokens")
    if not cached:
        # One server's extension: whatever else goes by this name is nobody's fault.
        timings = chunk.get("timings")
        reused = timings.get("cache_n") if isinstance(timings, dict) else None
        if type(reused) is int and 0 <= reused < MAX_TOKENS:
            cached = reused
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cached_tokens=cached,
        reasoning_tokens=_count(completion, "reasoning_tokens"),
    )


def _timings(chunk: Json) -> tuple[float, float] | None:
    """How long the prompt and the rest took by the server's own clock (ms), if it has told."""
    timings = chunk.get("timings")
    if not isinstance(timings, dict):
        return None
    prompt, predicted = timings.get("prompt_ms"), timings.get("predicted_ms")
    if not (isinstance(prompt, int | float) and isinstance(predicted, int | float)):
        return None
    return float(prompt), float(predicted)


def _count(holder: Json, name: str) -> int:
    value = holder.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < MAX_TOKENS:
        raise broken(f"a '{name}' that is no count")
    return value


# Typed reading: a value of another type is the server's fault.


def as_string(value: object, name: str) -> str:
    """A string. Raises ``upstream_protocol_error``."""
    if not isinstance(value, str):
        raise wrong(value, name)
    return value


def as_array(value: object, name: str) -> list[Any]:
    """An array. Raises ``upstream_protocol_error``."""
    if not isinstance(value, list):
        raise wrong(value, name)
    return value


def as_object(value: object, name: str) -> Json:
    """An object. Raises ``upstream_protocol_error``."""
    if not isinstance(value, dict):
        raise wrong(value, name)
    return value


def wrong(value: object, name: str) -> HubError:
    """The error for a value of the wrong type."""
    return broken(f"a '{name}' that is {json_type(value)}")


def broken(what: str) -> HubError:
    """The error for what no server should send."""
    return HubError("upstream_protocol_error", f"The model server sent {what}.")
