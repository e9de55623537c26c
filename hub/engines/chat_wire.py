"""Chat Completions as model servers speak it: a ``Generation`` out, stream chunks in.

What a stream may hold, apart from well-formed chunks (seen in llama.cpp, vLLM, SGLang, Ollama, TGI
and the proxies in front of them), and what becomes of it:

- ``null`` events (llama.cpp, for prompt arrays) and empty ones: skipped.
- a first chunk with a role and no text: nothing, as it is no token.
- ``reasoning_content`` (llama.cpp, SGLang, DeepSeek), ``reasoning`` (vLLM) or both: one of them.
- tool calls without an ``index``, arguments as an object, the old ``function_call``: read as meant.
- ``usage`` in a chunk of its own after ``finish_reason``, in the same chunk, or in every chunk
  (cumulative): the last one counts.
- an error as an event, although the status was 200: the ``HubError`` that it means.
- a whole message (``message`` in place of ``delta``) from a server that ignores ``stream``: the
  same calls, all at once.
- anything else (not JSON, wrong types): ``upstream_protocol_error``.

Only choice 0 counts. What an error says is in ``chat_errors.py``. No I/O here.
"""

import math
from typing import Any

import orjson

from hub.api.requests import Generation, Json, Usage, json_type
from hub.engines.base import Sink
from hub.engines.chat_errors import error_from_event
from hub.errors import HubError

MAX_TOOL_CALLS = 1024
"""Tool calls of one message: a number beyond is a server's defect, not a model's wish."""

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
"""Chat Completions' finish reasons, and other servers' words for them. A word that is not here
(``eos_token``, ``stop_sequence``, …) is an end like any other: ``stop``."""

FAILED_REASONS = {
    "abort": "upstream_incomplete_stream",  # vLLM, SGLang: somebody stopped the request
    "error": "upstream_error",
    "insufficient_system_resource": "upstream_overloaded",  # DeepSeek
}
"""Finish reasons that own up to an unfinished answer, and the error that each one is."""


def request_body(generation: Generation, model: str) -> Json:
    """The body of ``POST /v1/chat/completions``, always for a stream.

    A server notices a dropped stream within a token, but may run an unstreamed request to its end.
    ``generation.extra`` goes along, but never overrides what hub sets.
    """
    body: Json = {
        **generation.extra,
        "model": model,
        "messages": list(generation.messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if generation.max_tokens is not None:
        # Not max_completion_tokens: every server knows the older name.
        body["max_tokens"] = generation.max_tokens
    if generation.stop:
        body["stop"] = list(generation.stop)
    if generation.tools:
        body["tools"] = list(generation.tools)
    if generation.tool_choice is not None:
        body["tool_choice"] = generation.tool_choice
    if generation.response_format is not None:
        body["response_format"] = generation.response_format
    if generation.top_logprobs is not None:
        body["logprobs"] = True
        body["top_logprobs"] = generation.top_logprobs
    if generation.continues:
        # vLLM and SGLang; llama.cpp goes on from a last assistant message by itself.
        body["continue_final_message"] = True
        body["add_generation_prompt"] = False
    return body


def model_names(body: bytes) -> list[str]:
    """The models in an answer to ``GET /v1/models``, in the order to prefer them.

    That is the server's order, embedding models last: LM Studio and Ollama list them among the
    others. A list may stand alone (Together) or be null when it is empty (Ollama).
    """
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise _broken("a list of models that is not JSON") from None
    if isinstance(answer, dict):
        answer = answer.get("data") or []
    names: list[str] = []
    for entry in _array(answer, "data"):
        name = _string(_object(entry, "data").get("id"), "id")
        if name and name not in names:
            names.append(name)
    return sorted(names, key=lambda name: "embed" in name.lower())


class ChunkReader:
    """Turns the chunks of one stream into calls on a ``Sink``, in order.

    Call ``feed`` with every event's data, then ``end`` once the stream is over. Text goes to the
    sink at once; ``usage`` and ``finish`` at the end, since the usage comes after the reason. Any
    call may raise a ``HubError``; the stream has failed then, and nothing more may be called.
    """

    __slots__ = ("_calls", "_reason", "_said", "_sink", "_usage", "done")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._reason: str | None = None
        self._said = False
        self._usage: Json | None = None
        self._calls: dict[int, str] = {}
        """The ids of the tool calls that were opened, by index; "" for none."""
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
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError:
            # Here and not first, so that no token pays for the comparison.
            if payload.strip() == b"[DONE]":
                self.done = True
            elif payload.strip():
                raise _broken("an event that is not JSON") from None
            return
        if chunk is None:
            return
        if not isinstance(chunk, dict):
            raise _wrong(chunk, "chunk")
        if chunk.get("error"):
            raise error_from_event(chunk)
        usage = chunk.get("usage")
        if usage is not None:
            self._usage = _object(usage, "usage")
        choices = chunk.get("choices")
        if choices:
            for choice in _array(choices, "choices"):
                index = _object(choice, "choices").get("index")
                if not index:
                    self._choice(choice)
                elif type(index) is not int:
                    raise _wrong(index, "index")
        elif chunk.get("object") == "error":
            raise error_from_event(chunk)

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
            reason = "tool_calls" if self._calls else "stop"
        if self._usage is not None:
            self._sink.usage(_usage(self._usage))
        self._sink.finish(reason)

    def _choice(self, choice: Json) -> None:
        delta = choice.get("delta")
        if delta is not None:
            self._delta(_object(delta, "delta"), choice)
        elif choice.get("message") is not None:
            self._delta(_object(choice["message"], "message"), choice)
            self.done = True
        reason = choice.get("finish_reason")
        if reason:
            self._finish(_string(reason, "finish_reason"))

    def _delta(self, delta: Json, choice: Json) -> None:
        """A delta or a whole message, in the order in which models speak.

        Servers spell what they do not say as "", null, [] or not at all, so only what is truthy is
        looked at. Every token passes here.
        """
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            self._said = True
            self._sink.reasoning(_string(reasoning, "reasoning"))
        content = delta.get("content")
        if content:
            self._said = True
            logprobs = choice.get("logprobs")
            self._sink.text(_string(content, "content"), _logprobs(logprobs) if logprobs else None)
        refusal = delta.get("refusal")
        if refusal:
            self._said = True
            self._sink.refusal(_string(refusal, "refusal"))
        calls = delta.get("tool_calls")
        if calls:
            for call in _array(calls, "tool_calls"):
                self._tool_call(_object(call, "tool_calls"))
        legacy = delta.get("function_call")
        if legacy:
            self._tool_call({"index": 0, "function": legacy})

    def _tool_call(self, call: Json) -> None:
        function = _object(call.get("function") or {}, "function")
        call_id = _string(call.get("id") or "", "id")
        name = _string(function.get("name") or "", "name")
        arguments = _arguments(function.get("arguments"))
        index = call.get("index")
        if index is None:
            index = self._unnumbered(call_id, name)
        if type(index) is not int or not 0 <= index < MAX_TOOL_CALLS:
            raise _broken("a tool call whose index is out of range")
        if index not in self._calls:
            if not name:
                raise _broken("a tool call without a name")
            self._said = True
            self._calls[index] = call_id
            self._sink.tool_call(index, call_id or None, name, arguments)
        elif arguments:
            # Some servers repeat id and name in every piece; the sink wants them once.
            self._sink.tool_call(index, None, None, arguments)

    def _unnumbered(self, call_id: str, name: str) -> int:
        """The index of a piece that has none.

        Servers that leave it out send whole calls, several in one chunk or one per chunk: a new id,
        or a name without an id, opens the next call. Anything else goes on with the latest.
        """
        for index, known in self._calls.items():
            if call_id and call_id == known:
                return index
        latest = max(self._calls, default=-1)
        return latest + 1 if call_id or name or latest < 0 else latest

    def _finish(self, reason: str) -> None:
        if reason in FAILED_REASONS:
            raise HubError(FAILED_REASONS[reason], "The model server gave up on the answer.")
        if self._reason is None:
            self._reason = FINISH_REASONS.get(reason, "stop")


def _arguments(value: object) -> str:
    """A piece of a tool call's arguments as text. Some servers send the object itself."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, dict):
        try:
            return orjson.dumps(value).decode()
        except orjson.JSONEncodeError:  # nested deeper than orjson writes
            raise _broken("a tool call whose arguments nest too deeply") from None
    raise _wrong(value, "arguments")


def _usage(usage: Json) -> Usage:
    prompt = _object(usage.get("prompt_tokens_details") or {}, "prompt_tokens_details")
    completion = _object(usage.get("completion_tokens_details") or {}, "completion_tokens_details")
    return Usage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cached_tokens=_count(prompt, "cached_tokens"),
        reasoning_tokens=_count(completion, "reasoning_tokens"),
    )


def _count(holder: Json, name: str) -> int:
    value = holder.get(name)
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value < MAX_TOKENS:
        raise _broken(f"a '{name}' that is no count")
    return value


def _logprobs(logprobs: object) -> list[Json] | None:
    """``logprobs.content``, rebuilt field by field, so that its shape and depth are known."""
    entries: list[Json] = []
    for entry in _array(_object(logprobs, "logprobs").get("content") or [], "logprobs"):
        token = _token(entry)
        alternatives = _array(entry.get("top_logprobs") or [], "top_logprobs")
        token["top_logprobs"] = [_token(one) for one in alternatives]
        entries.append(token)
    return entries or None


def _token(entry: object) -> Json:
    fields = _object(entry, "logprobs")
    logprob = fields.get("logprob")
    # 1e999 reads as infinity, which JSON cannot write again.
    if type(logprob) not in (int, float) or not math.isfinite(logprob or 0):
        raise _wrong(logprob, "logprob")
    octets = fields.get("bytes")
    if octets is not None:
        for octet in _array(octets, "bytes"):
            if type(octet) is not int or not 0 <= octet < 256:
                raise _broken("log probabilities whose 'bytes' are none")
    return {"token": _string(fields.get("token"), "token"), "logprob": logprob, "bytes": octets}


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise _wrong(value, name)
    return value


def _array(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong(value, name)
    return value


def _object(value: object, name: str) -> Json:
    if not isinstance(value, dict):
        raise _wrong(value, name)
    return value


def _wrong(value: object, name: str) -> HubError:
    return _broken(f"a '{name}' that is {json_type(value)}")


def _broken(what: str) -> HubError:
    return HubError("upstream_protocol_error", f"The model server sent {what}.")
