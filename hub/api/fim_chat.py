"""``/fim/completions``: filling in the middle, answered as a chat completion. Pure.

Source: Mistral's API reference for Codestral (``random_seed``, ``min_tokens``, and a ``suffix``
without which the model simply goes on from the ``prompt``); Continue reads the chunks'
``choices[0].delta.content``. The early stop's fields are those of ``completions``.
"""

from collections.abc import Callable
from typing import Any

from hub.api.chat import (
    ChatStream,
    completion,
    completion_id,
    parameters,
    stop_strings,
    wants_usage,
)
from hub.api.completions import MAX_SEED, early_stop
from hub.api.recorder import TERMINAL_EVENTS, Recorder
from hub.api.requests import Fields, Generation, Json, Request, check_depth, json_type
from hub.errors import HubError
from hub.log import Event


def parse_fim(body: Any) -> Request:
    """Check the body and say what was asked. Raises ``HubError``."""
    if not isinstance(body, dict):
        raise HubError("invalid_type", f"The body must be an object, not {json_type(body)}.")
    check_depth(body)
    fields = Fields(body)
    prompt = fields.text("prompt")
    if prompt is None:
        raise fields.missing("prompt")
    suffix = fields.text("suffix")
    model = fields.text("model") or ""
    fields.integer("min_tokens", 0)
    extra = parameters(fields)
    seed = fields.integer("random_seed", -MAX_SEED - 1, MAX_SEED)
    if seed is not None:
        extra["seed"] = seed
    return Request(
        model=model,
        generation=Generation(
            model=model,
            messages=(),
            prompt=prompt,
            suffix=suffix,
            max_tokens=fields.integer("max_tokens", 0),
            stop=stop_strings(fields),
            extra=extra,
        ),
        stream=fields.flag("stream", False),
        store=False,
        early_stop=early_stop(fields, suffix),
        include_usage=wants_usage(fields),
    )


def fim_completion(recorder: Recorder, *, superseded: bool = False) -> Json:
    """The whole answer of an ended response. Raises ``HubError`` if it has none.

    Who was ``superseded`` gets an empty text, whatever was said.
    """
    if not superseded:
        return completion(recorder)
    message = {"role": "assistant", "content": ""}
    return {
        "id": completion_id(recorder),
        "object": "chat.completion",
        "created": recorder.created_at,
        "model": recorder.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
    }


class FimStream(ChatStream):
    """The chunks of a completion. See ``ChatStream``."""

    def __init__(self, recorder: Recorder, superseded: Callable[[], bool] = lambda: False) -> None:
        """``superseded`` is asked if the response was cancelled: the stream ends without an error
        then, and what it has said is to be thrown away."""
        super().__init__(recorder)
        self._superseded = superseded

    def render(self, event: Event) -> bytes:
        if (
            event.type in TERMINAL_EVENTS
            and self._recorder.status == "cancelled"
            and self._superseded()
        ):
            return self._end(event)
        return super().render(event)
