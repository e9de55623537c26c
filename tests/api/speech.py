"""What a model may say, as calls on a ``hub.engines.base.Sink``; what that must come to; clients.

A *speech* is a list of calls in an order that an engine may make them, without the ``finish``.
"""

from itertools import groupby
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st

from hub.api.recorder import Recorder
from hub.api.requests import Json, Request, Usage
from hub.errors import TABLE, HubError
from hub.log import Event

Call = tuple[Any, ...]
"""A method of the sink and its arguments."""

no_deadline = settings(deadline=None)
"""For tests whose examples do much work: a busy machine is no defect."""

REASONS = ("stop", "tool_calls", "length", "content_filter")


def recorder(request: Request, *, reasoning_events: str = "reasoning_text") -> Recorder:
    """A recorder whose response was dispatched."""
    new = Recorder(
        request, id="resp_1", model="m", now=1_800_000_000.9, reasoning_events=reasoning_events
    )
    new.created()
    new.started()
    return new


def play(recorder: Recorder, *calls: Call) -> None:
    """Make the calls."""
    for name, *arguments in calls:
        getattr(recorder, name)(*arguments)


def heard(event: Event) -> Json:
    """An event as a client gets it."""
    body: Json = orjson.loads(event.wire + b"}")
    assert (body["type"], body["sequence_number"]) == (event.type, event.seq)
    return body


# Speeches.

_deltas = st.text(min_size=1, max_size=6)
_tokens = st.fixed_dictionaries(
    {
        "token": _deltas,
        "logprob": st.floats(-100, 0),
        "bytes": st.none() | st.lists(st.integers(0, 255), max_size=3),
    }
)
_logprobs = st.builds(
    lambda token, top: {**token, "top_logprobs": top}, _tokens, st.lists(_tokens, max_size=2)
)
_usage = st.builds(
    Usage,
    input_tokens=st.integers(0, 999),
    output_tokens=st.integers(0, 999),
    cached_tokens=st.integers(0, 99),
    reasoning_tokens=st.integers(0, 99),
)


def _runs(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Call]]:
    return st.lists(st.tuples(st.just(name), *arguments), min_size=1, max_size=4)


@st.composite
def _tool_call(draw: st.DrawFn) -> list[Call]:
    """One call, its index still open."""
    first = ("tool_call", 0, draw(st.none() | st.just("call_given")), draw(_deltas), "")
    pieces = draw(st.lists(_deltas, max_size=3))
    if draw(st.booleans()) and pieces:
        first = (*first[:4], pieces.pop(0))
    return [first, *(("tool_call", 0, None, None, piece) for piece in pieces)]


@st.composite
def speeches(draw: st.DrawFn) -> list[Call]:
    """Anything that a model can say."""
    runs = draw(
        st.lists(
            st.one_of(
                _runs("text", _deltas),
                _runs("text", _deltas, st.lists(_logprobs, min_size=1, max_size=2)),
                _runs("reasoning", _deltas),
                _runs("refusal", _deltas),
                _tool_call(),
                st.lists(st.tuples(st.just("usage"), _usage), min_size=1, max_size=1),
            ),
            max_size=6,
        )
    )
    calls: list[Call] = []
    for index, run in enumerate(runs):
        # Servers count calls from 0; what matters is that no two calls share an index.
        calls += [(*c[:1], index, *c[2:]) if c[0] == "tool_call" else c for c in run]
    return calls


ends: st.SearchStrategy[list[Call]] = st.one_of(
    st.sampled_from(REASONS).map(lambda reason: [("finish", reason), ("complete", 1_800_000_009)]),
    st.sampled_from(sorted(TABLE)).map(lambda code: [("fail", HubError(code, "No."))]),
    st.just([("complete", 1_800_000_009)]),
    st.just([("cancel",)]),
)
"""Every way that a response can end."""


def meaning(speech: list[Call]) -> list[Any]:
    """What a speech comes to: messages with their parts, reasoning, tool calls, in order."""
    pieces = [_piece(*call) for call in speech if call[0] != "usage"]
    items: list[Any] = []
    for item, said in groupby(pieces, key=lambda piece: piece[0]):
        if item == "message":
            parts = groupby(said, key=lambda piece: piece[1])
            items.append([(kind, "".join(piece[2] for piece in run)) for kind, run in parts])
        else:
            run = list(said)
            items.append((run[0][1], "".join(piece[2] for piece in run)))
    return items


def _piece(name: str, *arguments: Any) -> tuple[Any, str, str]:
    """Which item a call belongs to, which part of it, and what it adds."""
    match name:
        case "text":
            return "message", "output_text", arguments[0]
        case "refusal":
            return "message", "refusal", arguments[0]
        case "reasoning":
            return "reasoning", "reasoning_text", arguments[0]
        case _:
            index, _, function, piece = arguments
            return index, function, piece


def meaning_of_output(output: list[Json]) -> list[Any]:
    """The same of a response's output."""
    items: list[Any] = []
    for item in output:
        if item["type"] == "function_call":
            items.append((item["name"], item["arguments"]))
            continue
        parts = [(part["type"], part.get("text", part.get("refusal"))) for part in item["content"]]
        items.append(parts if item["type"] == "message" else parts[0])
    return items


class Client:
    """Folds events into output, as an SDK does, and checks all that they promise it."""

    def __init__(self) -> None:
        self.output: list[Json] = []
        self.cursor = -1
        self.response: Json | None = None
        """The terminal response."""
        self._open: Json | None = None
        self._deltas = ""

    def feed(self, events: list[Event]) -> None:
        for event in events:
            assert self.response is None, "an event after the terminal event"
            assert event.seq > self.cursor
            self.cursor = event.seq
            self._handle(heard(event))

    def _handle(self, event: Json) -> None:
        match event["type"].removeprefix("response.").split("."):
            case ["created" | "queued" | "in_progress"]:
                assert event["response"]["output"] == []
            case ["completed" | "failed" | "incomplete"]:
                self._end(event["response"])
            case ["output_item", "added"]:
                assert self._open is None
                assert event["output_index"] == len(self.output)
                self._open = event["item"]
                self.output.append(self._open)
            case ["output_item", "done"]:
                done = event["item"]
                assert done.get("status") != "in_progress"
                assert done == {**self._item(event), **_status(done)}
                self.output[-1] = done
                self._open = None
            case ["content_part", "added"]:
                content = self._item(event)["content"]
                assert event["content_index"] == len(content)
                content.append(event["part"])
                self._deltas = ""
            case ["content_part", "done"]:
                assert event["part"] == self._part(event)
            case [_, "delta"]:
                self._delta(event)
            case [kind, "done"]:
                self._done(kind, event)
            case other:
                raise AssertionError(other)

    def _item(self, event: Json) -> Json:
        assert self._open is not None
        assert event["output_index"] == len(self.output) - 1
        assert event.get("item_id", self._open["id"]) == self._open["id"]
        return self._open

    def _part(self, event: Json) -> Json:
        content = self._item(event)["content"]
        assert event["content_index"] == len(content) - 1
        part: Json = content[-1]
        return part

    def _delta(self, event: Json) -> None:
        if event["type"] == "response.function_call_arguments.delta":
            self._item(event)["arguments"] += event["delta"]
            return
        part = self._part(event)
        part["refusal" if part["type"] == "refusal" else "text"] += event["delta"]
        self._deltas += event["delta"]
        if part["type"] == "output_text":
            part["logprobs"] += event["logprobs"]

    def _done(self, kind: str, event: Json) -> None:
        if kind == "function_call_arguments":
            item = self._item(event)
            assert (event["name"], event["arguments"]) == (item["name"], item["arguments"])
            return
        part = self._part(event)
        field = "refusal" if kind == "refusal" else "text"
        assert event[field] == part[field] == self._deltas
        assert event.get("logprobs") == part.get("logprobs")

    def _end(self, response: Json) -> None:
        if response["status"] in ("failed", "cancelled"):
            # The open item was left as it is.
            if self._open is not None and "status" in self._open:
                self._open["status"] = "incomplete"
        else:
            assert self._open is None
        self.response = response


def _status(item: Json) -> Json:
    return {"status": item["status"]} if "status" in item else {}
