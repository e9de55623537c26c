"""The simulated model server's side of llama.cpp's ``/infill``: JSON in, tokens as JSON out.

Pure. ``n_cmpl`` makes several answers, which are an array if they are not streamed.
``response_fields`` leaves of an answer, or of the last event of a stream, what they name; the path
of what is nested is its key, and what is not there is left out.
"""

from collections.abc import Sequence
from dataclasses import replace

from hub.api.requests import ContextFile, Fields, Generation, Json, Usage
from hub.engines.sim_wire import Outlet, Timings, generation_of, objects

NO_MARKERS: Json = {
    "error": {
        "code": 501,
        "message": "Infill is not supported by this model: prefix token is missing. "
        "suffix token is missing. middle token is missing. ",
        "type": "not_supported_error",
    }
}
"""The body of the 501 for a model that was not trained to fill in."""

MOST = 16
"""Answers to one request."""


def parse_infill(body: Json) -> list[Generation]:
    """The request of ``POST /infill``: a generation for each answer."""
    fields = Fields(body)
    prefix, suffix = fields.text("input_prefix"), fields.text("input_suffix")
    if prefix is None:
        raise fields.missing("input_prefix")
    if suffix is None:
        raise fields.missing("input_suffix")
    files = []
    for index, one in enumerate(objects(fields, "input_extra")):
        extra = Fields(one, f"input_extra[{index}].")
        text = extra.text("text")
        if text is None:
            raise extra.missing("text")
        files.append(ContextFile(extra.text("filename") or "tmp", text))
    generation = generation_of(
        fields,
        [],
        limit="n_predict",
        prompt=prefix + (fields.text("prompt") or ""),
        suffix=suffix,
        files=files,
        extra={"seed": fields.raw("seed")},
    )
    return [
        replace(generation, extra={"seed": [generation.extra["seed"], index]})
        if index
        else generation
        for index in range(fields.integer("n_cmpl", 1, MOST) or 1)
    ]


def wanted(body: Json) -> list[str] | None:
    """The ``response_fields``; ``None`` for all."""
    fields = Fields(body)
    names = fields.array("response_fields") or []
    if not all(isinstance(name, str) for name in names):
        raise fields.wrong_type("response_fields", "an array of strings")
    return names or None


class InfillSink:
    """A ``Sink`` that folds an answer. See ``InfillStream`` for one that does not."""

    def __init__(self, index: int, generation: Generation, fields: Sequence[str] | None) -> None:
        self._index = index
        self._generation = generation
        self._fields = fields
        self._text: list[str] = []
        self._reason = ""
        self._spent = Usage()
        self.notes = Timings()

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self._text.append(delta)

    def reasoning(self, delta: str) -> None:
        raise AssertionError("nothing is thought about a gap")  # pragma: no cover

    def refusal(self, delta: str) -> None:
        raise AssertionError("the simulated model refuses nothing")  # pragma: no cover

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        raise AssertionError("a gap calls no tools")  # pragma: no cover

    def finish(self, reason: str) -> None:
        self._reason = reason

    def usage(self, usage: Usage) -> None:
        """The engine tells it last."""
        self._spent = usage

    def answer(self) -> Json:
        """All of it, when its generation is over."""
        return self._last("".join(self._text))

    def _last(self, content: str) -> Json:
        asked, spent = self._generation, self._spent
        whole: Json = {
            "index": self._index,
            "content": content,
            "tokens": [],
            "id_slot": 0,
            "stop": True,
            "model": asked.model,
            "tokens_predicted": spent.output_tokens,
            "tokens_evaluated": spent.input_tokens,
            "generation_settings": {"n_predict": asked.max_tokens, "stop": list(asked.stop)},
            "prompt": f"{asked.prompt}{asked.suffix}",
            "has_new_line": "\n" in content,
            "truncated": False,
            "stop_type": "limit" if self._reason == "length" else "eos",
            "stopping_word": "",
            "tokens_cached": spent.input_tokens + spent.output_tokens,
            "timings": {
                "cache_n": 0,
                "prompt_n": spent.input_tokens,
                "predicted_n": spent.output_tokens,
                **self.notes.said,
            },
        }
        if self._fields is None:
            return whole
        found = {path: _at(whole, path) for path in self._fields}
        return {path: value for path, value in found.items() if value is not None}


class InfillStream(InfillSink):
    """A ``Sink`` that renders the events of a streamed answer."""

    def __init__(
        self, index: int, generation: Generation, fields: Sequence[str] | None, outlet: Outlet
    ) -> None:
        super().__init__(index, generation, fields)
        self._outlet = outlet
        self._tokens = 0

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self._tokens += 1
        self._outlet.emit(
            {
                "index": self._index,
                "content": delta,
                "tokens": [self._tokens],
                "stop": False,
                "id_slot": -1,
                "tokens_predicted": self._tokens,
                "tokens_evaluated": 0,
            }
        )

    def usage(self, usage: Usage) -> None:
        super().usage(usage)
        self._outlet.emit(self._last(""))


def _at(whole: Json, path: str) -> object:
    value: object = whole
    for name in path.split("/"):
        value = value.get(name) if isinstance(value, dict) else None
    return value
