"""Parts of output items: how their deltas and log probabilities are written."""

import orjson

from hub.api.requests import Json

NOT_IN_DONE = frozenset({"type", "annotations"})
"""Fields of a content part that its ``….done`` event does not repeat."""


class DeltaPart:
    """What all deltas of one part share: where they belong and how they are written."""

    __slots__ = ("_head", "_tail", "item", "output_index", "pieces", "type")

    def __init__(self, type: str, item: Json, output_index: int, content_index: int | None) -> None:
        self.type = type
        self.item = item
        self.output_index = output_index
        self.pieces: list[str] = []
        shared: Json = {"type": type, "item_id": item["id"], "output_index": output_index}
        if content_index is not None:
            shared["content_index"] = content_index
        self._head = orjson.dumps(shared)[:-1] + b',"sequence_number":'
        self._tail = b',"logprobs":[]' if type == "response.output_text.delta" else b""

    def encode(self, seq: int, delta: str) -> bytes:
        return b'%b%d%b,"delta":%b' % (self._head, seq, self._tail, orjson.dumps(delta))

    @property
    def text(self) -> str:
        """All that was said in this part so far."""
        return "".join(self.pieces)


def logprob(given: Json) -> Json:
    """A Chat Completions log probability as the Responses API has it: no ``bytes`` are null.

    Its shape is the engine's word (see ``engines.base.Sink.text``).
    """
    return {**_token(given), "top_logprobs": [_token(one) for one in given["top_logprobs"]]}


def _token(given: Json) -> Json:
    return {
        "token": given["token"],
        "logprob": given["logprob"],
        "bytes": given["bytes"] or [],
    }


def copy_item(item: Json) -> Json:
    """An item as it is now: its content may grow later."""
    if "content" in item:
        return {**item, "content": [dict(part) for part in item["content"]]}
    return dict(item)
