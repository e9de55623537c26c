"""Filling in the middle as model servers speak it: the text around a gap out, what fills it in.

Three ways, see ``hub.api.fim``:

- llama.cpp's ``/infill`` takes the parts apart and sets the markers itself. All that the user wrote
  goes into ``input_prefix``, ``input_suffix`` and ``input_extra``, whose markers it takes as mere
  text; of ``prompt`` it would make tokens (``tokenize_input_prompts(…, parse_special = true)``).
  ``id_slot`` never goes along: it would let one client hold another's place.
- ``/v1/completions`` with a prompt that has the markers of the model's family. The answer has none.
- ``/v1/completions`` with ``suffix``, for servers that can do it.

The stream of ``/infill`` is that of llama.cpp's ``/completion``: ``content`` in every event, and in
the last one ``stop`` with a ``stop_type`` and the counts. No ``[DONE]`` follows. No I/O here.
"""

from collections.abc import Callable
from dataclasses import replace

from hub.api.early_stop import EarlyStop
from hub.api.fim import Family, render, stop_strings
from hub.api.requests import Generation, Json
from hub.api.stopping import Stopping
from hub.engines.base import Sink, notes_of
from hub.engines.chat_errors import error_from_event
from hub.engines.stream_wire import StreamReader, as_string
from hub.engines.text_wire import TextReader, text_body

_HUBS_OWN = frozenset({"id_slot", "max_tokens", "n", "n_cmpl", "stream_options"})
"""Never passed on to ``/infill``; what else hub sets it overrides."""

_SAID = (
    "content",
    "stop",
    "stop_type",
    "stopped_limit",
    "tokens_predicted",
    "tokens_evaluated",
    "timings",
)
"""What the last event has to say. Without this it repeats the whole prompt and all settings."""

_KNOWN = frozenset(
    {
        *("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias"),
        *("user", "reasoning_effort", "verbosity", "parallel_tool_calls", "chat_template_kwargs"),
        *("top_k", "min_p", "typical_p", "repeat_penalty", "repetition_penalty", "mirostat"),
        *("grammar", "ignore_eos", "min_tokens", "cache_prompt"),
    }
)
"""Parameters that ``/v1/completions`` is sent for any raw text. What is llama.cpp's own some
servers refuse."""


def infill_body(generation: Generation, model: str) -> Json:
    """The body of llama.cpp's ``POST /infill``."""
    extra = {name: value for name, value in generation.extra.items() if name not in _HUBS_OWN}
    body: Json = {
        **extra,
        "model": model,
        "input_prefix": generation.prompt,
        "prompt": "",
        "input_suffix": generation.suffix,
        "input_extra": [{"filename": one.name, "text": one.text} for one in generation.files],
        "cache_prompt": True,
        "response_fields": list(_SAID),
        "stream": True,
    }
    body.pop("n_predict", None)
    if generation.max_tokens is not None:
        body["n_predict"] = generation.max_tokens
    body["stop"] = list(generation.stop)
    return body


def rendered_body(generation: Generation, model: str, family: Family) -> Json:
    """The body of ``POST /v1/completions`` whose prompt has a family's markers."""
    assert generation.prompt is not None, "there is something before a gap, if only nothing"
    assert generation.suffix is not None, "a gap has something behind it, if only nothing"
    prompt = render(family, generation.prompt, generation.suffix, generation.files)
    stop = stop_strings(family, generation.stop)
    return text_body(replace(_plain(generation), prompt=prompt, stop=stop), model)


def native_body(generation: Generation, model: str) -> Json:
    """The body of ``POST /v1/completions`` for a server that takes ``suffix``."""
    return {**plain_body(generation, model), "suffix": generation.suffix}


def plain_body(generation: Generation, model: str) -> Json:
    """The same where nothing is behind the gap."""
    return text_body(_plain(generation), model)


def _plain(generation: Generation) -> Generation:
    """Without parameters that only llama.cpp's own endpoint knows."""
    extra = {name: value for name, value in generation.extra.items() if name in _KNOWN}
    return replace(generation, extra=extra)


class FilledReader(TextReader):
    """Reads the answer to ``rendered_body``. It ends before any of the family's markers, since not
    all of them are stop strings that the server knows of."""

    __slots__ = ()

    def __init__(self, sink: Sink, family: Family) -> None:
        super().__init__(_Unmarked(sink, family, self._stop))

    def _stop(self) -> None:
        """What would follow is nobody's business, and closing stops the server."""
        self.done = True


class _Unmarked(Stopping):
    """A ``Sink`` that passes on what is before the first marker."""

    def __init__(self, inner: Sink, family: Family, on_stop: Callable[[], None]) -> None:
        rules = EarlyStop(markers=family.markers)
        super().__init__(inner, rules, clock=lambda: 0.0, on_stop=on_stop)  # no rule asks the time
        self.notes = notes_of(inner)


class InfillReader(StreamReader):
    """Reads llama.cpp's own events. See ``StreamReader``."""

    __slots__ = ()
    key = "content"

    def _read(self, chunk: Json) -> None:
        if chunk.get("error"):
            raise error_from_event(chunk)
        text = chunk.get("content")
        if text:
            self._said = True
            self._sink.text(as_string(text, "content"))
        if not chunk.get("stop"):
            return
        usage = {
            "prompt_tokens": chunk.get("tokens_evaluated"),
            "completion_tokens": chunk.get("tokens_predicted"),
        }
        self.count({"usage": usage, "timings": chunk.get("timings")})
        # Before stop_type there was a flag for each.
        limit = chunk.get("stop_type") == "limit" or chunk.get("stopped_limit") is True
        self._finish("length" if limit else "stop")
        self.done = True

    def _text_of(self, chunk: Json) -> str | None:
        """Counts in every event: none is like the next."""
        return None
