"""Completions as model servers speak it: a raw prompt out, chunks of text in.

See ``stream_wire.py`` for what a stream may hold. A choice has ``text`` and, in its last chunk, a
``finish_reason``; a server that ignores ``stream`` sends the same shape, all at once. No I/O here.
"""

from hub.api.requests import Generation, Json
from hub.engines.stream_wire import StreamReader, as_string, common_body


def text_body(generation: Generation, model: str) -> Json:
    """The body of ``POST /v1/completions`` for a generation that has a ``prompt``."""
    assert generation.prompt is not None, "a completion goes on from a raw prompt"
    body = common_body(generation, model)
    body["prompt"] = generation.prompt
    return body


class TextReader(StreamReader):
    """Reads the choices of a completion. See ``StreamReader``."""

    __slots__ = ()
    key = "text"

    def choice(self, choice: Json) -> None:
        text = choice.get("text")
        if text:
            self._said = True
            self._sink.text(as_string(text, "text"))
        reason = choice.get("finish_reason")
        if reason:
            self._finish(reason)

    def only_text(self, choice: Json) -> object:
        return choice.get("text")
