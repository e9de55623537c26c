"""The simulated model server's side of the OpenAI API: JSON to a ``Generation``, tokens to JSON.

Pure. The shapes are llama-server's where servers differ: errors with a numeric ``code``, a role
chunk with ``content: null`` first, ``choices: []`` in the chunk that has the usage, reasoning as
``reasoning_content``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from hub.api.requests import Fields, Generation, Json, Usage
from hub.engines.sim_faults import Fault
from hub.errors import HubError

_KNOWN = (
    "model",
    "messages",
    "prompt",
    "tools",
    "tool_choice",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "continue_final_message",
)


def parse_chat(body: Json) -> Generation:
    """The request of ``POST /v1/chat/completions``."""
    fields = Fields(body)
    messages = _objects(fields, "messages")
    if not messages:
        raise fields.missing("messages")
    # An unfinished assistant message at the end is gone on with, unless the client says otherwise.
    unfinished = messages[-1].get("role") == "assistant"
    return _generation(
        fields,
        messages,
        tools=_objects(fields, "tools"),
        tool_choice=fields.raw("tool_choice"),
        response_format=fields.object("response_format"),
        top_logprobs=(fields.integer("top_logprobs", 0, 20) or 0)
        if fields.flag("logprobs", False)
        else None,
        continues=fields.flag("continue_final_message", unfinished),
        extra={key: value for key, value in body.items() if key not in _KNOWN},
    )


def parse_completion(body: Json) -> Generation:
    """The request of ``POST /v1/completions``: one prompt, and that a string."""
    fields = Fields(body)
    prompt = fields.text("prompt")
    if prompt is None:
        raise fields.missing("prompt")
    extra = {key: value for key, value in body.items() if key == "seed"}
    return _generation(fields, [{"role": "user", "content": prompt}], extra=extra)


def wants_usage(body: Json) -> bool:
    """Whether a stream's last chunk is to have the usage."""
    return (Fields(body).object("stream_options") or {}).get("include_usage") is True


def _generation(fields: Fields, messages: list[Json], **more: Any) -> Generation:
    stop = fields.raw("stop")
    stop = [stop] if isinstance(stop, str) else stop or []
    if not (isinstance(stop, list) and all(isinstance(one, str) for one in stop)):
        raise fields.wrong_type("stop", "a string or an array of strings")
    limit = fields.integer("max_completion_tokens", 0)
    limit = fields.integer("max_tokens", -1) if limit is None else limit
    return Generation(
        model=fields.text("model") or "",
        messages=messages,
        # -1 is llama.cpp's word for no limit.
        max_tokens=None if limit == -1 else limit,
        stop=stop,
        **more,
    )


def _objects(fields: Fields, name: str) -> list[Json]:
    items = fields.array(name) or []
    if not all(isinstance(item, dict) for item in items):
        raise fields.wrong_type(name, "an array of objects")
    return items


def error_body(failure: HubError, status: int) -> Json:
    """The body of an error."""
    return {"error": {"code": status, "message": failure.message, "type": failure.row.type}}


def too_long_body(failure: HubError, prompt_tokens: int, context: int) -> Json:
    """The body of the 400 for a prompt that does not fit."""
    return {
        "error": {
            "code": 400,
            "message": failure.message,
            "type": "exceed_context_size_error",
            "n_prompt_tokens": prompt_tokens,
            "n_ctx": context,
        }
    }


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + data + b"\n\n"


DONE = event(b"[DONE]")


class ChatSink:
    """A ``Sink`` that folds a chat completion."""

    object = "chat.completion"

    def __init__(self) -> None:
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[Json] = []
        self._logprobs: list[Json] = []
        self._finish = ""
        self._usage = Usage()

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self._text.append(delta)
        self._logprobs.extend(logprobs or ())

    def reasoning(self, delta: str) -> None:
        self._reasoning.append(delta)

    def refusal(self, delta: str) -> None:
        raise AssertionError("the simulated model refuses nothing")  # pragma: no cover

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        if index == len(self._calls):
            self._calls.append(_call(call_id, name, ""))
        self._calls[index]["function"]["arguments"] += arguments

    def finish(self, reason: str) -> None:
        self._finish = reason

    def usage(self, usage: Usage) -> None:
        self._usage = usage

    def body(self, head: Json) -> Json:
        """The response, when the generation is over. ``head``: its id, time and model."""
        choice = {"index": 0, **self._choice(), "finish_reason": self._finish}
        return {**head, "object": self.object, "choices": [choice], "usage": self._usage.chat()}

    def _choice(self) -> Json:
        message: Json = {"role": "assistant", "content": "".join(self._text)}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
            message["content"] = message["content"] or None
        choice: Json = {"message": message}
        if self._logprobs:
            choice["logprobs"] = {"content": self._logprobs}
        return choice


class TextSink(ChatSink):
    """A ``Sink`` that folds a completion. Nobody can ask for reasoning or tools there."""

    object = "text_completion"

    def _choice(self) -> Json:
        return {"text": "".join(self._text)}


class ChatStream:
    """A ``Sink`` that renders the events of a streamed chat completion.

    It calls ``wake`` when there is something to ``take``. The faults that need a wire happen here:
    ``null``, ``comment`` and ``garbage``.
    """

    object = "chat.completion.chunk"

    def __init__(
        self, head: Json, include_usage: bool, fault: Fault | None, wake: Callable[[], None]
    ) -> None:
        self._head = {**head, "object": self.object}
        self._include_usage = include_usage
        self._wake = wake
        self._events = 0
        self._pending: list[bytes] = []
        kind, amount = (fault.kind, fault.amount) if fault else ("", 0)
        self._comments = b": comment\n\n" * amount if kind == "comment" else b""
        self._garbage = amount if kind == "garbage" else -1
        self._nulls = amount if kind == "null" else 0

    def take(self) -> bytes:
        """What is new since the last call."""
        taken = b"".join(self._pending)
        self._pending.clear()
        return taken

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self._delta({"content": delta}, logprobs)

    def reasoning(self, delta: str) -> None:
        self._delta({"reasoning_content": delta})

    def refusal(self, delta: str) -> None:
        raise AssertionError("the simulated model refuses nothing")  # pragma: no cover

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        if name is None:
            call: Json = {"function": {"arguments": arguments}}
        else:
            call = _call(call_id, name, arguments)
        self._delta({"tool_calls": [{"index": index, **call}]})

    def finish(self, reason: str) -> None:
        self._open()
        self._choice({"delta": {}}, reason)

    def usage(self, usage: Usage) -> None:
        if self._include_usage:
            self._emit({**self._head, "choices": [], "usage": usage.chat()})

    def _open(self) -> None:
        """The role comes with the first token and not before it."""
        if not self._events:
            self._pending += [event(b"null")] * self._nulls
            self._choice({"delta": {"role": "assistant", "content": None}})

    def _delta(self, delta: Json, logprobs: list[Json] | None = None) -> None:
        self._open()
        choice: Json = {"delta": delta}
        if logprobs is not None:
            choice["logprobs"] = {"content": logprobs}
        self._choice(choice)

    def _choice(self, choice: Mapping[str, Any], finish: str | None = None) -> None:
        choices = [{"index": 0, **choice, "finish_reason": finish}]
        self._emit({**self._head, "choices": choices})

    def _emit(self, chunk: Json) -> None:
        data = b'{"choices":[{"delta' if self._events == self._garbage else orjson.dumps(chunk)
        self._events += 1
        self._pending.append(self._comments + event(data))
        self._wake()


class TextStream(ChatStream):
    """A ``Sink`` that renders the events of a streamed completion, which are text alone."""

    object = "text_completion"

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self._open()
        self._choice({"text": delta})

    def finish(self, reason: str) -> None:
        self._open()
        self._choice({"text": ""}, reason)

    def _open(self) -> None:
        """A completion has no role; what a fault puts first is all that comes before its text."""
        if not self._events:
            self._pending += [event(b"null")] * self._nulls


def _call(call_id: str | None, name: str | None, arguments: str) -> Json:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
