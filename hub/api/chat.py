"""The Chat Completions dialect: a request's JSON into a ``Request``, a log into chunks.

A chat completion is another rendering of the same log that a Responses client reads. Source:
OpenAI's Chat Completions reference, and what vLLM and llama.cpp add to it (``reasoning_content``,
sampling parameters).
"""

from collections.abc import Callable
from typing import Any

import orjson

from hub.api.recorder import TERMINAL_EVENTS, Recorder
from hub.api.requests import (
    Fields,
    Generation,
    Json,
    Request,
    check_depth,
    json_type,
    sampling,
)
from hub.api.sse import DONE
from hub.errors import HubError
from hub.log import Event

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PLAIN_ROLES = tuple(role for role in ROLES if role != "developer")

PASSED_ON = (
    "seed",
    "logit_bias",
    "reasoning_effort",
    "verbosity",
    "parallel_tool_calls",
    "user",
    # What local model servers add.
    "top_k",
    "min_p",
    "typical_p",
    "repeat_penalty",
    "repetition_penalty",
    "mirostat",
    "grammar",
    "ignore_eos",
    "min_tokens",
    "cache_prompt",
    "chat_template_kwargs",
)
"""Parameters that reach the model server as they are. Everything else that hub does not know is
ignored: a field like llama.cpp's ``id_slot`` would let one client hold another's place."""


def parse_chat(body: Any) -> Request:
    """Check the body of a chat completion and say what was asked. Raises ``HubError``."""
    if not isinstance(body, dict):
        raise HubError("invalid_type", f"The body must be an object, not {json_type(body)}.")
    check_depth(body)
    fields = Fields(body)
    if fields.integer("n", 1) not in (None, 1):
        raise HubError("unsupported_value", "'n' must be 1.", param="n")
    tools = fields.objects("tools")
    tool_choice = fields.raw("tool_choice")
    if tool_choice is not None and not isinstance(tool_choice, (str, dict)):
        raise fields.wrong_type("tool_choice", "a string or an object")
    model = fields.text("model") or ""
    asked_by = "max_completion_tokens"
    if (max_tokens := fields.integer(asked_by, 1)) is None:
        asked_by = "max_tokens"
        max_tokens = fields.integer(asked_by, 1)
    top_logprobs = fields.integer("top_logprobs", 0, 20)
    return Request(
        model=model,
        generation=Generation(
            model=model,
            messages=_messages(fields),
            tools=tools,
            tool_choice=tool_choice if tools else None,
            response_format=fields.object("response_format"),
            max_tokens=max_tokens,
            stop=stop_strings(fields),
            top_logprobs=(top_logprobs or 0) if fields.flag("logprobs", False) else None,
            extra=parameters(fields),
        ),
        stream=fields.flag("stream", False),
        store=False,
        asked_by=asked_by,
        flex=fields.raw("service_tier") == "flex",
        include_usage=wants_usage(fields),
    )


def _messages(fields: Fields) -> list[Json]:
    messages = fields.objects("messages")
    if not messages:
        raise fields.missing("messages")
    checked: list[Json] = []
    for index, message in enumerate(messages):
        if message.get("role") in _PLAIN_ROLES and isinstance(message.get("content"), str):
            # Nearly all are such: 4 times as fast, and nothing else is to be checked.
            checked.append(message)
            continue
        inner = Fields(message, f"messages[{index}].")
        role = inner.choice("role", ROLES)
        if role is None:
            raise inner.missing("role")
        content = inner.raw("content")
        if isinstance(content, list):
            inner.objects("content")
        elif content is not None and not isinstance(content, str):
            raise inner.wrong_type("content", "a string or an array")
        # Local models know no developer.
        checked.append({**message, "role": "system"} if role == "developer" else message)
    return checked


# What this dialect and ``completions`` have in common.


def parameters(fields: Fields) -> Json:
    """The sampling parameters, and those of ``PASSED_ON``, that were given."""
    extra = sampling(fields)
    for name in PASSED_ON:
        if fields.raw(name) is not None:
            extra[name] = fields.raw(name)
    return extra


def stop_strings(fields: Fields) -> list[str]:
    """``stop``: one string or several; an empty one would end every answer, and is left out."""
    stop = fields.raw("stop")
    if stop is None:
        return []
    if isinstance(stop, str):
        stop = [stop]
    if not isinstance(stop, list) or not all(isinstance(one, str) for one in stop):
        raise fields.wrong_type("stop", "a string or an array of strings")
    return [one for one in stop if one]


def wants_usage(fields: Fields) -> bool:
    """``stream_options.include_usage``."""
    options = Fields(fields.object("stream_options") or {}, "stream_options.")
    return options.flag("include_usage", False)


def failure(recorder: Recorder) -> HubError | None:
    """What an ended response tells its client instead of a whole answer, if it has none."""
    if recorder.status == "cancelled":
        # These dialects have no word for it, and half an answer must not look like a whole one.
        return HubError("shutting_down", "The response was cancelled before it was finished.")
    return recorder.error


# The answer.


def completion_id(recorder: Recorder) -> str:
    """The id of a chat completion, made from its response's id."""
    return "chatcmpl-" + recorder.id.removeprefix("resp_")


def completion(recorder: Recorder) -> Json:
    """The whole answer of an ended response as a ``chat.completion`` object.

    Raises ``HubError`` if it has no whole answer.
    """
    if (error := failure(recorder)) is not None:
        raise error
    message: Json = {"role": "assistant", "content": None, "refusal": None}
    logprobs: list[Json] = []
    for item in recorder.snapshot()["output"]:
        if item["type"] == "function_call":
            calls = message.setdefault("tool_calls", [])
            calls.append(
                {
                    "id": item["call_id"],
                    "type": "function",
                    "function": {"name": item["name"], "arguments": item["arguments"]},
                }
            )
            continue
        field = "reasoning_content" if item["type"] == "reasoning" else "content"
        for part in item["content"]:
            if part["type"] == "refusal":
                message["refusal"] = (message["refusal"] or "") + part["refusal"]
            else:
                message[field] = (message.get(field) or "") + part["text"]
                logprobs += part.get("logprobs", ())
    choice: Json = {
        "index": 0,
        "message": message,
        "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
        "finish_reason": recorder.finish_reason,
    }
    answer: Json = {
        "id": completion_id(recorder),
        "object": "chat.completion",
        "created": recorder.created_at,
        "model": recorder.model,
        "choices": [choice],
    }
    if recorder.reported_usage is not None:
        answer["usage"] = recorder.reported_usage.chat()
    return answer


class ChatStream:
    """Renders a log's events as the SSE blocks of a chat completion stream.

    Call ``render`` with every event in order; it gives the bytes to send, possibly none. The last
    event's bytes end with ``[DONE]``.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._calls = -1
        self._began = False
        head = {
            "id": completion_id(recorder),
            "object": "chat.completion.chunk",
            "created": recorder.created_at,
            "model": recorder.model,
        }
        if recorder.request.include_usage:
            head["usage"] = None
        self._head = b"data: " + orjson.dumps(head)[:-1]
        self._content = self._head + b',"choices":[{"index":0,"delta":{"content":'
        self._content_end = b'},"logprobs":null,"finish_reason":null}]}\n\n'
        self._renderers: dict[str, Callable[[Event], bytes]] = {
            "response.output_text.delta": self._text,
            "response.reasoning_text.delta": self._reasoning,
            "response.reasoning.delta": self._reasoning,
            "response.refusal.delta": self._refusal,
            "response.output_item.added": self._item,
            "response.function_call_arguments.delta": self._arguments,
            "response.completed": self._end,
            "response.incomplete": self._end,
        }

    def render(self, event: Event) -> bytes:
        if event.type in TERMINAL_EVENTS and (error := failure(self._recorder)) is not None:
            return b"data: " + orjson.dumps({"error": error.body()}) + b"\n\n" + DONE
        renderer = self._renderers.get(event.type)
        block = b"" if renderer is None else renderer(event)
        if block and not self._began:
            # The role comes with the first news, never earlier: whoever takes the role chunk for
            # the first token would measure hub's queue as zero.
            self._began = True
            return self._chunk({"role": "assistant", "content": ""}) + block
        return block

    def _text(self, event: Event) -> bytes:
        if event.body is not None:
            logprobs = {"content": event.body["logprobs"], "refusal": None}
            return self._chunk({"content": event.delta}, logprobs=logprobs)
        return self._content + orjson.dumps(event.delta) + self._content_end

    def _reasoning(self, event: Event) -> bytes:
        return self._chunk({"reasoning_content": event.delta})

    def _refusal(self, event: Event) -> bytes:
        return self._chunk({"refusal": event.delta})

    def _item(self, event: Event) -> bytes:
        assert event.body is not None
        item: Any = event.body["item"]
        if item["type"] != "function_call":
            return b""
        self._calls += 1
        function = {"name": item["name"], "arguments": ""}
        call = {"index": self._calls, "id": item["call_id"], "type": "function"}
        return self._chunk({"tool_calls": [{**call, "function": function}]})

    def _arguments(self, event: Event) -> bytes:
        function = {"arguments": event.delta}
        return self._chunk({"tool_calls": [{"index": self._calls, "function": function}]})

    def _end(self, event: Event) -> bytes:
        last = self._chunk({}, finish_reason=self._recorder.finish_reason)
        usage = self._recorder.reported_usage
        if self._recorder.request.include_usage and usage is not None:
            body = orjson.loads(self._head.removeprefix(b"data: ") + b"}")
            body |= {"choices": [], "usage": usage.chat()}
            last += b"data: " + orjson.dumps(body) + b"\n\n"
        return last + DONE

    def _chunk(
        self, delta: Json, *, logprobs: Json | None = None, finish_reason: str | None = None
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return self._head + b',"choices":[' + orjson.dumps(choice) + b"]}\n\n"
