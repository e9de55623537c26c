"""Chat Completions as model servers speak it: a ``Generation`` out, stream chunks in.

What a stream may hold, apart from well-formed chunks and what ``stream_wire.py`` says, and what
becomes of it:

- a first chunk with a role and no text: nothing, as it is no token.
- ``reasoning_content`` (llama.cpp, SGLang, DeepSeek), ``reasoning`` (vLLM) or both: one of them.
- tool calls without an ``index``, arguments as an object, the old ``function_call``: read as meant.
- a whole message (``message`` in place of ``delta``) from a server that ignores ``stream``: the
  same calls, all at once.

No I/O here.
"""

import math

import orjson

from hub.api.requests import Generation, Json
from hub.engines.base import Sink
from hub.engines.stream_wire import (
    StreamReader,
    as_array,
    as_object,
    as_string,
    broken,
    common_body,
    wrong,
)

MAX_TOOL_CALLS = 1024
"""Tool calls of one message: a number beyond is a server's defect, not a model's wish."""


def request_body(generation: Generation, model: str) -> Json:
    """The body of ``POST /v1/chat/completions``."""
    body = common_body(generation, model)
    body["messages"] = list(generation.messages)
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
        raise broken("a list of models that is not JSON") from None
    if isinstance(answer, dict):
        answer = answer.get("data") or []
    names: list[str] = []
    for entry in as_array(answer, "data"):
        name = as_string(as_object(entry, "data").get("id"), "id")
        if name and name not in names:
            names.append(name)
    return sorted(names, key=lambda name: "embed" in name.lower())


class ChunkReader(StreamReader):
    """Reads the choices of a chat completion. See ``StreamReader``."""

    __slots__ = ("_calls",)
    key = "content"

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._calls: dict[int, str] = {}
        """The ids of the tool calls that were opened, by index; "" for none."""

    def choice(self, choice: Json) -> None:
        delta = choice.get("delta")
        if delta is not None:
            self._delta(as_object(delta, "delta"), choice)
        elif choice.get("message") is not None:
            self._delta(as_object(choice["message"], "message"), choice)
            self.done = True
        reason = choice.get("finish_reason")
        if reason:
            self._finish(reason)

    def only_text(self, choice: Json) -> object:
        delta = choice.get("delta")
        if not isinstance(delta, dict) or choice.get("logprobs"):
            return None
        said = {name for name, value in delta.items() if value}
        return delta.get("content") if said <= {"role", "content"} else None

    def _unsaid_reason(self) -> str:
        return "tool_calls" if self._calls else "stop"

    def _delta(self, delta: Json, choice: Json) -> None:
        """A delta or a whole message, in the order in which models speak.

        Servers spell what they do not say as "", null, [] or not at all, so only what is truthy is
        looked at. Every token passes here.
        """
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning:
            self._said = True
            self._sink.reasoning(as_string(reasoning, "reasoning"))
        content = delta.get("content")
        if content:
            self._said = True
            logprobs = choice.get("logprobs")
            self._sink.text(
                as_string(content, "content"), _logprobs(logprobs) if logprobs else None
            )
        refusal = delta.get("refusal")
        if refusal:
            self._said = True
            self._sink.refusal(as_string(refusal, "refusal"))
        calls = delta.get("tool_calls")
        if calls:
            for call in as_array(calls, "tool_calls"):
                self._tool_call(as_object(call, "tool_calls"))
        legacy = delta.get("function_call")
        if legacy:
            self._tool_call({"index": 0, "function": legacy})

    def _tool_call(self, call: Json) -> None:
        function = as_object(call.get("function") or {}, "function")
        call_id = as_string(call.get("id") or "", "id")
        name = as_string(function.get("name") or "", "name")
        arguments = _arguments(function.get("arguments"))
        index = call.get("index")
        if index is None:
            index = self._unnumbered(call_id, name)
        if type(index) is not int or not 0 <= index < MAX_TOOL_CALLS:
            raise broken("a tool call whose index is out of range")
        if index not in self._calls:
            if not name:
                raise broken("a tool call without a name")
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
            raise broken("a tool call whose arguments nest too deeply") from None
    raise wrong(value, "arguments")


def _logprobs(logprobs: object) -> list[Json] | None:
    """``logprobs.content``, rebuilt field by field, so that its shape and depth are known."""
    entries: list[Json] = []
    for entry in as_array(as_object(logprobs, "logprobs").get("content") or [], "logprobs"):
        token = _token(entry)
        alternatives = as_array(entry.get("top_logprobs") or [], "top_logprobs")
        token["top_logprobs"] = [_token(one) for one in alternatives]
        entries.append(token)
    return entries or None


def _token(entry: object) -> Json:
    fields = as_object(entry, "logprobs")
    logprob = fields.get("logprob")
    # 1e999 reads as infinity, which JSON cannot write again.
    if type(logprob) not in (int, float) or not math.isfinite(logprob or 0):
        raise wrong(logprob, "logprob")
    octets = fields.get("bytes")
    if octets is not None:
        for octet in as_array(octets, "bytes"):
            if type(octet) is not int or not 0 <= octet < 256:
                raise broken("log probabilities whose 'bytes' are none")
    return {"token": as_string(fields.get("token"), "token"), "logprob": logprob, "bytes": octets}
