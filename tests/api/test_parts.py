"""Parts of output items."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from hub.api.parts import DeltaPart, logprob
from hub.api.requests import Json

TYPES = ("response.output_text.delta", "response.refusal.delta", "response.reasoning_text.delta")


@given(st.sampled_from(TYPES), st.integers(0, 2**53), st.none() | st.integers(0, 9), st.text())
def test_a_delta_is_json_but_for_its_closing_brace(
    type: str, seq: int, content_index: int | None, delta: str
) -> None:
    """What ``encode`` writes is the event's fields, whatever the delta holds."""
    part = DeltaPart(type, {"id": "msg_1"}, 2, content_index)
    place: Json = {} if content_index is None else {"content_index": content_index}
    logprobs: Json = {"logprobs": []} if type == "response.output_text.delta" else {}
    assert orjson.loads(part.encode(seq, delta) + b"}") == {
        "type": type,
        "item_id": "msg_1",
        "output_index": 2,
        **place,
        "sequence_number": seq,
        **logprobs,
        "delta": delta,
    }


def test_the_text_of_a_part_is_its_pieces() -> None:
    part = DeltaPart(TYPES[0], {"id": "msg_1"}, 0, 0)
    assert part.text == ""
    part.pieces += ["hi ", "there"]
    assert part.text == "hi there"


def test_a_log_probability_has_every_field_of_the_responses_api() -> None:
    top = {"token": "b", "logprob": -2, "bytes": [98]}
    given = {"token": "a", "logprob": -1, "bytes": None, "top_logprobs": [top], "more": 1}
    assert logprob(given) == {"token": "a", "logprob": -1, "bytes": [], "top_logprobs": [top]}
