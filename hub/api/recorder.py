"""Deltas in, numbered events out: the one writer of a response's log.

The machine: a response is ``queued`` or ``in_progress`` until exactly one of ``complete``, ``fail``
or ``cancel`` ends it. While it runs at most one output item is open; what the model says next
either extends the open item or closes it and opens the next, by this table:

    open item      text        refusal     reasoning     tool call k
    none           message     message     reasoning     call k
    message        extend      next part   close, new    close, new
    reasoning      close, new  close, new  extend        close, new
    call j         close, new  close, new  close, new    extend if j = k, else close, new

Source: Open Responses 2026-04-24, "Streaming"; OpenAI's event sequences for text, function calls
and reasoning. A cancelled response ends with ``response.incomplete`` whose ``status`` is
``cancelled``: neither protocol has an event for it, and a reader must never be left in silence.

The calls of ``Sink`` are the hot path: one event, its text kept by reference, encoded when the
first reader asks.
"""

from copy import deepcopy

import orjson

from hub.api.ids import item_id
from hub.api.parts import NOT_IN_DONE, DeltaPart, copy_item, logprob
from hub.api.requests import Json, Request, Usage
from hub.api.responses import response_object
from hub.errors import HubError
from hub.log import Event, ResponseLog

TERMINAL_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete"})

FINISH: dict[str, str | None] = {
    "stop": None,
    "tool_calls": None,
    "length": "max_output_tokens",
    "content_filter": "content_filter",
}
"""Why a model stopped, in Chat Completions' words -> ``incomplete_details.reason``, if any."""


class Recorder:
    """Writes one response's log. Implements ``engines.base.Sink``.

    The caller calls ``created`` first, ``started`` when the request is dispatched, and then one of
    ``complete``, ``fail``, ``cancel`` exactly once; ``now`` is Unix time in seconds.
    """

    __slots__ = (
        "_call_index",
        "_calls",
        "_completed_at",
        "_content_index",
        "_error",
        "_incomplete",
        "_item",
        "_part",
        "_reasoning_type",
        "_usage",
        "created_at",
        "dispatched",
        "finished",
        "id",
        "log",
        "model",
        "output",
        "request",
        "status",
        "told",
    )

    def __init__(
        self,
        request: Request,
        *,
        id: str,
        model: str,
        now: float,
        reasoning_events: str = "reasoning_text",
    ) -> None:
        self.request = request
        self.id = id
        self.model = model
        self.log = ResponseLog()
        self.status = "queued" if request.background else "in_progress"
        self.output: list[Json] = []
        self.dispatched = False
        self.created_at = int(now)
        self._completed_at: int | None = None
        self._error: HubError | None = None
        self._incomplete: str | None = None
        self._usage: Usage | None = None
        self.finished: str | None = None
        """Why the model stopped, once it has told."""
        self.told: Json | None = None
        """What hub tells of an ended response: the key ``hub`` of its object."""
        self._item: Json | None = None
        self._part: DeltaPart | None = None
        self._content_index = 0
        self._call_index = -1
        self._calls: set[int] = set()
        self._reasoning_type = f"response.{reasoning_events}"

    # The life of a response.

    def created(self) -> None:
        """The request was accepted."""
        self._lifecycle("response.created")
        if self.request.background:
            self._lifecycle("response.queued")

    def started(self) -> None:
        """The request was dispatched to a model server."""
        self.dispatched = True
        self.status = "in_progress"
        self._lifecycle("response.in_progress")

    def complete(self, now: float) -> None:
        """The engine has returned: end the response as its ``finish`` said."""
        if self.finished is None and self.request.generate:
            why = "The model server ended the stream without saying why."
            self.fail(HubError("upstream_incomplete_stream", why))
            return
        if self.request.generate and not self.output:
            # An empty answer is still an answer: clients look for an output item.
            self._open_text()
        incomplete = FINISH[self.finished or "stop"]
        self._close("incomplete" if incomplete else "completed")
        self._completed_at = int(now)
        self._incomplete = incomplete
        self._end("incomplete" if incomplete else "completed")

    def fail(self, error: HubError) -> None:
        """End the response as failed. Open items stay as they are and get no done event."""
        self._abandon()
        self._error = error
        self._end("failed")

    def cancel(self) -> None:
        """End the response as cancelled; what was said so far stays in it."""
        self._abandon()
        self._incomplete = "cancelled"
        self._end("cancelled")

    # What the model says: engines.base.Sink.

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        part = self._part
        if part is None or part.type != "response.output_text.delta":
            part = self._open_text()
        if logprobs:
            self._text_with_logprobs(part, delta, logprobs)
        else:
            part.pieces.append(delta)
            self.log.say(part, delta)

    def reasoning(self, delta: str) -> None:
        part = self._part
        if part is None or self._item is None or self._item["type"] != "reasoning":
            part = self._open_reasoning()
        part.pieces.append(delta)
        self.log.say(part, delta)

    def refusal(self, delta: str) -> None:
        part = self._part
        if part is None or part.type != "response.refusal.delta":
            part = self._open_message_part(
                "response.refusal.delta", {"type": "refusal", "refusal": ""}
            )
        part.pieces.append(delta)
        self.log.say(part, delta)

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        part = self._part
        if part is None or self._call_index != index:
            part = self._open_call(index, call_id, name)
        if arguments:
            part.pieces.append(arguments)
            self.log.say(part, arguments)

    def usage(self, usage: Usage) -> None:
        self._usage = usage

    def finish(self, reason: str) -> None:
        assert reason in FINISH, f"no finish reason of an engine: {reason}"
        self.finished = reason

    # What can be seen of it.

    @property
    def ended(self) -> bool:
        """Whether it reached its terminal state."""
        return self.log.ended

    @property
    def error(self) -> HubError | None:
        """Why it failed, if it did."""
        return self._error

    @property
    def finish_reason(self) -> str:
        """Chat Completions' ``finish_reason`` for an ended response."""
        reason = self.finished or "stop"
        # Some model servers say "stop" after tool calls; clients go by the reason.
        return "tool_calls" if reason == "stop" and self._calls else reason

    @property
    def reported_usage(self) -> Usage | None:
        """The token counts, if the engine has told them yet."""
        return self._usage

    def unfinished(self) -> tuple[str, int] | None:
        """The text that an engine may go on with, and its deltas; empty if nothing was said yet.

        ``None`` if what was said is not the beginning of one text: a tool call, half a thought.
        """
        if not self.output:
            return "", 0
        if any(item["type"] != "reasoning" for item in self.output[:-1]):
            return None
        part = self._part
        if part is None or part.type != "response.output_text.delta" or self._content_index:
            return None
        return part.text, len(part.pieces)

    def snapshot(self) -> Json:
        """The response object as it is now."""
        self._sync()
        return response_object(
            self.request,
            id=self.id,
            model=self.model,
            status=self.status,
            created_at=self.created_at,
            completed_at=self._completed_at,
            output=self.output,
            usage=self._usage,
            error=self._error,
            incomplete=self._incomplete,
            told=self.told,
        )

    # Events.

    def _emit(self, type: str, body: Json) -> None:
        wire = orjson.dumps({"type": type, "sequence_number": self.log.next, **body})[:-1]
        self.log.append(Event(type, body, wire=wire))

    def _lifecycle(self, type: str, *, terminal: bool = False) -> None:
        # Only the encoded object is kept: the snapshot's output goes on growing.
        fields = {"type": type, "sequence_number": self.log.next, "response": self.snapshot()}
        self.log.append(Event(type, {}, wire=orjson.dumps(fields)[:-1]), terminal=terminal)

    def _end(self, status: str) -> None:
        self.status = status
        type = "incomplete" if status == "cancelled" else status
        self._lifecycle(f"response.{type}", terminal=True)

    def _item_event(self, type: str) -> None:
        assert self._item is not None
        self._emit(
            f"response.output_item.{type}",
            {"output_index": len(self.output) - 1, "item": copy_item(self._item)},
        )

    # Items and parts.

    def _next_id(self, prefix: str) -> str:
        return item_id(prefix, self.id, len(self.output))

    def _open_item(self, item: Json) -> None:
        self._close("completed")
        self._item = item
        self._content_index = -1
        self.output.append(item)
        self._item_event("added")

    def _open_text(self) -> DeltaPart:
        return self._open_message_part(
            "response.output_text.delta",
            {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
        )

    def _open_message_part(self, type: str, part: Json) -> DeltaPart:
        if self._item is None or self._item["type"] != "message":
            self._open_item(
                {
                    "id": self._next_id("msg"),
                    "type": "message",
                    "status": "in_progress",
                    "role": "assistant",
                    "content": [],
                }
            )
        else:
            self._close_part()
        return self._open_part(type, part)

    def _open_reasoning(self) -> DeltaPart:
        self._open_item(
            {"id": self._next_id("rs"), "type": "reasoning", "summary": [], "content": []}
        )
        return self._open_part(
            f"{self._reasoning_type}.delta", {"type": "reasoning_text", "text": ""}
        )

    def _open_part(self, type: str, part: Json) -> DeltaPart:
        assert self._item is not None
        self._content_index += 1
        self._emit("response.content_part.added", self._place({"part": part}))
        self._item["content"].append(deepcopy(part))
        self._part = DeltaPart(type, self._item, len(self.output) - 1, self._content_index)
        return self._part

    def _open_call(self, index: int, call_id: str | None, name: str | None) -> DeltaPart:
        if index in self._calls:
            raise HubError(
                "upstream_protocol_error",
                "The model server went back to a tool call that it had already left.",
            )
        self._calls.add(index)
        self._open_item(
            {
                "id": self._next_id("fc"),
                "type": "function_call",
                "status": "in_progress",
                "call_id": call_id or self._next_id("call"),
                "name": name or "",
                "arguments": "",
            }
        )
        assert self._item is not None
        self._call_index = index
        self._part = DeltaPart(
            "response.function_call_arguments.delta", self._item, len(self.output) - 1, None
        )
        return self._part

    def _text_with_logprobs(self, part: DeltaPart, delta: str, logprobs: list[Json]) -> None:
        clean = [logprob(one) for one in logprobs]
        part.pieces.append(delta)
        part.item["content"][self._content_index]["logprobs"].extend(clean)
        body = self._place({"delta": delta, "logprobs": clean})
        wire = orjson.dumps({"type": part.type, "sequence_number": self.log.next, **body})[:-1]
        self.log.append(Event(part.type, body, delta=delta, wire=wire))

    def _close(self, status: str) -> None:
        """Close the open item, if there is one, with its done events."""
        item = self._item
        if item is None:
            return
        self._close_part()
        if item["type"] != "reasoning":
            item["status"] = status
        self._item_event("done")
        self._item, self._call_index = None, -1

    def _close_part(self) -> None:
        part = self._part
        assert part is not None, "an open item has an open part"
        self._sync()
        done = f"{part.type.removesuffix('.delta')}.done"
        if part.item["type"] == "function_call":
            call = {"name": part.item["name"], "arguments": part.item["arguments"]}
            at = {"item_id": part.item["id"], "output_index": part.output_index}
            self._emit(done, {**at, **call})
        else:
            content = part.item["content"][self._content_index]
            said = {key: value for key, value in content.items() if key not in NOT_IN_DONE}
            self._emit(done, self._place(said))
            self._emit("response.content_part.done", self._place({"part": dict(content)}))
        self._part = None

    def _abandon(self) -> None:
        """Mark the open item as incomplete, without events."""
        self._sync()
        if self._item is not None and self._item["type"] != "reasoning":
            self._item["status"] = "incomplete"
        self._item = self._part = None

    def _sync(self) -> None:
        """Write the open part's text into its item."""
        part = self._part
        if part is None:
            return
        if part.item["type"] == "function_call":
            part.item["arguments"] = part.text
        else:
            content = part.item["content"][self._content_index]
            content["refusal" if content["type"] == "refusal" else "text"] = part.text

    def _place(self, body: Json) -> Json:
        assert self._item is not None
        return {
            "item_id": self._item["id"],
            "output_index": len(self.output) - 1,
            "content_index": self._content_index,
            **body,
        }
