"""The simulated model server's side of the OpenAI API: JSON to a ``Generation``, tokens to JSON.

Pure. The shapes are llama-server's where servers differ: errors with a numeric ``code``, a role
chunk with ``content: null`` first, ``choices: []`` in the chunk that has the usage, reasoning as
``reasoning_content``; for an array of prompts, a ``null`` event less than there are prompts, and
each one's usage in its last chunk. The sum of those in a chunk of its own is vLLM's. Beside the
usage stand llama-server's ``timings``; here ``prompt_ms`` begins when the request came, not when it
got its slot.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from hub.api.requests import Fields, Generation, Json, Usage
from hub.engines.base import Unnoted
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
    messages = objects(fields, "messages")
    if not messages:
        raise fields.missing("messages")
    # An unfinished assistant message at the end is gone on with, unless the client says otherwise.
    unfinished = messages[-1].get("role") == "assistant"
    return generation_of(
        fields,
        messages,
        tools=objects(fields, "tools"),
        tool_choice=fields.raw("tool_choice"),
        response_format=fields.object("response_format"),
        top_logprobs=(fields.integer("top_logprobs", 0, 20) or 0)
        if fields.flag("logprobs", False)
        else None,
        continues=fields.flag("continue_final_message", unfinished),
        extra={key: value for key, value in body.items() if key not in _KNOWN},
    )


def parse_completion(body: Json) -> list[Generation]:
    """The request of ``POST /v1/completions``: a generation for each prompt. No tokens."""
    fields = Fields(body)
    prompts = fields.raw("prompt")
    if prompts is None or prompts == []:
        raise fields.missing("prompt")
    if isinstance(prompts, str):
        prompts = [prompts]
    if not (isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts)):
        raise fields.wrong_type("prompt", "a string or an array of strings")
    extra = {key: value for key, value in body.items() if key == "seed"}
    return [generation_of(fields, [], prompt=prompt, extra=extra) for prompt in prompts]


def wants_usage(body: Json) -> bool:
    """Whether a stream's last chunk is to have the usage."""
    return (Fields(body).object("stream_options") or {}).get("include_usage") is True


def generation_of(
    fields: Fields, messages: list[Json], *, limit: str = "max_tokens", **more: Any
) -> Generation:
    """The generation that a body asks for, as far as all bodies are alike. ``limit`` is what the
    most tokens are called."""
    stop = fields.raw("stop")
    stop = [stop] if isinstance(stop, str) else stop or []
    if not (isinstance(stop, list) and all(isinstance(one, str) for one in stop)):
        raise fields.wrong_type("stop", "a string or an array of strings")
    most = fields.integer("max_completion_tokens", 0)
    most = fields.integer(limit, -1) if most is None else most
    return Generation(
        model=fields.text("model") or "",
        messages=messages,
        # -1 is llama.cpp's word for no limit.
        max_tokens=None if most == -1 else most,
        stop=stop,
        **more,
    )


def objects(fields: Fields, name: str) -> list[Json]:
    """An array of objects; empty if it is absent."""
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
        self.spent = Usage()

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
        self.spent = usage

    def choice(self, index: int) -> Json:
        """A choice of the response, when its generation is over."""
        return {"index": index, **self._said(), "finish_reason": self._finish}

    def _said(self) -> Json:
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

    def _said(self) -> Json:
        return {"text": "".join(self._text)}


def whole(head: Json, sinks: Sequence[ChatSink]) -> Json:
    """The response when all is over, a choice for each sink. ``head``: its id, time and model."""
    return {
        **head,
        "object": sinks[0].object,
        "choices": [sink.choice(index) for index, sink in enumerate(sinks)],
        "usage": sum((sink.spent for sink in sinks), Usage()).chat(),
    }


class Outlet:
    """The events of one stream, on their way to whoever writes them.

    It calls ``wake`` when there is something to ``take``. ``nulls`` events that are ``null`` come
    first. The faults that need a wire happen here: ``null``, ``comment`` and ``garbage``.
    """

    def __init__(self, fault: Fault | None, wake: Callable[[], None], *, nulls: int = 0) -> None:
        self._wake = wake
        self._events = 0
        self._pending: list[bytes] = []
        kind, amount = (fault.kind, fault.amount) if fault else ("", 0)
        self._comments = b": comment\n\n" * amount if kind == "comment" else b""
        self._garbage = amount if kind == "garbage" else -1
        self._nulls = nulls + (amount if kind == "null" else 0)

    @property
    def fresh(self) -> bool:
        """Whether nothing was emitted yet."""
        return not self._events

    def emit(self, chunk: Json) -> None:
        """Send a chunk."""
        if self.fresh:
            self._pending += [event(b"null")] * self._nulls
        data = b'{"choices":[{"delta' if self._events == self._garbage else orjson.dumps(chunk)
        self._events += 1
        self._pending.append(self._comments + event(data))
        self._wake()

    def take(self) -> bytes:
        """What is new since the last call."""
        taken = b"".join(self._pending)
        self._pending.clear()
        return taken


class Timings(Unnoted):
    """What the engine says of its own time, in llama-server's words."""

    def __init__(self) -> None:
        self.said: Json = {}

    def timings(self, prompt: float, predicted: float) -> None:
        self.said = {"prompt_ms": round(prompt, 3), "predicted_ms": round(predicted, 3)}


class ChatStream:
    """A ``Sink`` that renders the events of a streamed chat completion."""

    object = "chat.completion.chunk"
    index = 0

    def __init__(self, head: Json, include_usage: bool, outlet: Outlet) -> None:
        self._head = {**head, "object": self.object}
        self._include_usage = include_usage
        self._outlet = outlet
        self.notes = Timings()

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
            timings = {
                "prompt_n": usage.input_tokens,
                "predicted_n": usage.output_tokens,
                **self.notes.said,
            }
            chunk = {**self._head, "choices": [], "usage": usage.chat(), "timings": timings}
            self._outlet.emit(chunk)

    def _open(self) -> None:
        """The role comes with the first token and not before it."""
        if self._outlet.fresh:
            self._choice({"delta": {"role": "assistant", "content": None}})

    def _delta(self, delta: Json, logprobs: list[Json] | None = None) -> None:
        self._open()
        choice: Json = {"delta": delta}
        if logprobs is not None:
            choice["logprobs"] = {"content": logprobs}
        self._choice(choice)

    def _choice(self, choice: Mapping[str, Any], finish: str | None = None, **more: Json) -> None:
        choices = [{"index": self.index, **choice, "finish_reason": finish}]
        self._outlet.emit({**self._head, "choices": choices, **more})


class TextStream(ChatStream):
    """A ``Sink`` that renders the events of a streamed completion, which are text alone."""

    object = "text_completion"

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self._choice({"text": delta})

    def finish(self, reason: str) -> None:
        self._choice({"text": ""}, reason)


class MemberStream(TextStream):
    """A ``TextStream`` for one prompt of an array, beside the others on the same outlet.

    ``counts`` gathers the usage of all ``size`` of them.
    """

    def __init__(
        self,
        head: Json,
        include_usage: bool,
        outlet: Outlet,
        *,
        index: int,
        size: int,
        counts: list[Usage],
    ) -> None:
        super().__init__(head, include_usage, outlet)
        self.index = index
        self._size = size
        self._counts = counts
        self._reason = ""

    def finish(self, reason: str) -> None:
        self._reason = reason

    def usage(self, usage: Usage) -> None:
        """The engine tells it last."""
        self._choice({"text": ""}, self._reason, usage=usage.chat())
        self._counts.append(usage)
        if len(self._counts) == self._size:
            super().usage(sum(self._counts, Usage()))


def text_streams(
    head: Json, include_usage: bool, outlet: Outlet, size: int | None
) -> list[TextStream]:
    """The sinks of a streamed completion: of an array of ``size`` prompts, or of one string."""
    if size is None:
        return [TextStream(head, include_usage, outlet)]
    counts: list[Usage] = []
    return [
        MemberStream(head, include_usage, outlet, index=index, size=size, counts=counts)
        for index in range(size)
    ]


def _call(call_id: str | None, name: str | None, arguments: str) -> Json:
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
