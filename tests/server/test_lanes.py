"""What a client's message asks for, and the rules of the lanes, at the top of ``lanes.py``."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hub.server.lanes import (
    MAX_ACTIVE,
    MAX_LANES,
    MAX_WAITING,
    MAX_WAITING_BYTES,
    Cancel,
    Command,
    Create,
    Ignore,
    LaneError,
    Lanes,
    Resume,
    Steer,
    Turn,
    decode,
)

# Decoding.

any_text = st.text(st.characters())
"""Lone surrogates, too: JSON can spell them."""
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)
kinds = st.sampled_from(
    [
        "response.create",
        "response.resume",
        "response.cancel",
        "response.steer",
        "response.processed",
        "response",
    ]
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "type": kinds | json_values,
        "stream_id": st.sampled_from(["a", "lane-1", "", "ä", "a b", "x" * 257]) | json_values,
        "response_id": json_values,
        "starting_after": json_values,
        "previous_response_id": json_values,
        "input": json_values,
    },
)


def encode(value: Any) -> bytes:
    """With the standard library, which writes more than hub reads: NaN, huge numbers, …"""
    return json.dumps(value).encode()


def nested(kind: bytes, depth: int, field: bytes = b"input") -> bytes:
    return b'{"type":%b,"%b":%b%b}' % (kind, field, b"[" * depth, b"]" * depth)


def answer(data: bytes) -> Command | LaneError:
    """What ``decode`` makes of it."""
    try:
        return decode(data)
    except LaneError as refusal:
        return refusal


def check_answer(data: bytes) -> None:
    """It is a command or an error of the client's, and what is repeated of it can be written."""
    match answer(data):
        case LaneError(error=error, lane=lane) as refusal:
            assert error.status == 400
            assert error.message == str(refusal)
            orjson.dumps([error.body(), lane])
        case Steer(parent, input):
            orjson.dumps([parent, input])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_an_error(data: bytes) -> None:
    """No input crashes the decoder; whatever is not understood is a typed error."""
    check_answer(data)


@given(json_values.map(encode))
def test_any_json_is_a_command_or_an_error(data: bytes) -> None:
    """Neither does any JSON, of whatever type."""
    check_answer(data)


@given(messages.map(encode))
@example(b'{"type":"\\ud800"}')
@example(b'{"stream_id":"\\udc00","type":"response.create"}')
@example(b'{"type":1e999}')
@example(b'{"type":123456789012345678901234567890}')
@example(b'{"type":%b%b}' % (b"[" * 1000, b"]" * 1000))
@example(nested(b'"response.steer"', 1000))
@example(nested(b'"response.steer"', 1000, b"previous_response_id"))
@example(nested(b'"response.cancel"', 1000, b"response_id"))
@example(nested(b'"response.resume"', 1000, b"response_id"))
@example(nested(b'"response.create"', 1000, b"stream_id"))
@example(nested(b'"response.create"', 100_000))
def test_any_message_is_a_command_or_an_error(data: bytes) -> None:
    """Nor does any object with the fields of messages, whatever they hold and however deep."""
    check_answer(data)


lane_names = st.text(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=256
)


@given(st.none() | lane_names, st.dictionaries(st.text(), st.text() | st.booleans(), max_size=3))
def test_a_create_keeps_its_lane_its_body_and_its_size(
    lane: str | None, fields: dict[str, Any]
) -> None:
    """A create is the message as it came, and knows its lane and its bytes."""
    body = {**fields, "type": "response.create"}
    body.pop("stream_id", None)
    if lane is not None:
        body["stream_id"] = lane
    data = encode(body)
    assert decode(data) == Create(lane, body, len(data))


@pytest.mark.parametrize(
    ("message", "command"),
    [
        (
            {"type": "response.resume", "response_id": "resp_1"},
            Resume(None, "resp_1", -1, 49),
        ),
        (
            {
                "type": "response.resume",
                "response_id": "resp_1",
                "starting_after": 7,
                "stream_id": "a",
            },
            Resume("a", "resp_1", 7, 84),
        ),
        ({"type": "response.cancel"}, Cancel(None, None)),
        ({"type": "response.cancel", "stream_id": "a"}, Cancel("a", None)),
        ({"type": "response.cancel", "response_id": "resp_1"}, Cancel(None, "resp_1")),
        (
            {"type": "response.steer", "previous_response_id": "resp_1", "input": "go on"},
            Steer("resp_1", "go on"),
        ),
        ({"type": "response.steer"}, Steer(None, None)),
        ({"type": "response.processed", "response_id": "resp_1"}, Ignore()),
    ],
)
def test_commands(message: dict[str, Any], command: Command) -> None:
    """Every type of message that hub knows."""
    assert decode(orjson.dumps(message)) == command


@pytest.mark.parametrize(
    ("data", "code", "param", "lane"),
    [
        (b"", "invalid_json", None, None),
        (b"{", "invalid_json", None, None),
        (b'"\xff"', "invalid_json", None, None),
        (b"[]", "invalid_type", None, None),
        (b'{"stream_id":"a"}', "missing_required_parameter", "type", "a"),
        (b'{"type":null}', "missing_required_parameter", "type", None),
        (b'{"type":"response.dance","stream_id":"a"}', "unknown_event_type", "type", "a"),
        (b'{"type":[],"stream_id":"a"}', "invalid_type", "type", "a"),
        (b'{"type":"response.create","stream_id":""}', "invalid_stream_id", "stream_id", None),
        (b'{"type":"response.create","stream_id":null}', "invalid_stream_id", "stream_id", None),
        (b'{"type":"response.create","stream_id":"a\\n"}', "invalid_stream_id", "stream_id", None),
        (b'{"type":"response.cancel","response_id":1}', "invalid_type", "response_id", None),
        (nested(b'"response.steer"', 65), "invalid_value", None, None),
        (
            b'{"type":"response.resume","stream_id":"a"}',
            "missing_required_parameter",
            "response_id",
            "a",
        ),
        (b'{"type":"response.resume","response_id":[]}', "invalid_type", "response_id", None),
        (
            b'{"type":"response.resume","response_id":"r","starting_after":-2,"stream_id":"a"}',
            "invalid_value",
            "starting_after",
            "a",
        ),
        (
            b'{"type":"response.resume","response_id":"r","starting_after":true}',
            "invalid_type",
            "starting_after",
            None,
        ),
    ],
)
def test_errors_name_the_code_the_field_and_the_lane(
    data: bytes, code: str, param: str | None, lane: str | None
) -> None:
    """An error says what is wrong and where, on the lane of the message if that is valid."""
    with pytest.raises(LaneError) as caught:
        decode(data)
    assert (caught.value.error.code, caught.value.error.param) == (code, param)
    assert caught.value.lane == lane


# Lanes.

NAMES = ["a", "b", "c", "d", "e"]


def create(lane: str | None, size: int = 1) -> Create:
    return Create(lane, {}, size)


def refused(lanes: Lanes, one: Turn) -> str:
    """The code with which a create is refused, on its own lane."""
    with pytest.raises(LaneError) as caught:
        lanes.add(one)
    assert caught.value.lane == one.lane
    return caught.value.error.code


class LanesMachine(RuleBasedStateMachine):
    """One connection with small bounds, any creates, resumes and ends."""

    max_lanes, max_active, max_waiting, max_waiting_bytes = 4, 3, 5, 40

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes(
            max_lanes=self.max_lanes,
            max_active=self.max_active,
            max_waiting=self.max_waiting,
            max_waiting_bytes=self.max_waiting_bytes,
        )
        self.named: set[str] = set()
        self.waiting: list[Turn] = []
        self.running: dict[str | None, Turn] = {}
        self.accepted: list[Turn] = []
        self.started: list[Turn] = []

    def start(self, turn: Turn) -> None:
        assert turn.lane not in self.running, "two responses at a time on a lane"
        self.running[turn.lane] = turn
        self.started.append(turn)

    @rule(lane=st.sampled_from([None, *NAMES]), size=st.integers(1, 20), resume=st.booleans())
    def add(self, lane: str | None, size: int, resume: bool) -> None:
        one: Turn = Resume(lane, "resp", -1, size) if resume else create(lane, size)
        if lane is not None and lane not in self.named:
            if len(self.named) == self.max_lanes:
                assert refused(self.lanes, one) == "websocket_stream_limit_reached"
                return
            self.named.add(lane)
        size += sum(waiting.size for waiting in self.waiting)
        if lane not in self.running and len(self.running) < self.max_active:
            assert self.lanes.add(one) is one
            self.accepted.append(one)
            self.start(one)
        elif len(self.waiting) >= self.max_waiting or size > self.max_waiting_bytes:
            assert refused(self.lanes, one) == "rate_limit_exceeded"
        else:
            assert self.lanes.add(one) is None
            self.accepted.append(one)
            self.waiting.append(one)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from([*self.running]))
        del self.running[lane]
        started = self.lanes.finish(lane)
        may = [one for one in self.waiting if one.lane not in self.running]
        assert started is (may[0] if may else None), "the oldest that may start is next"
        if started is not None:
            self.waiting = [one for one in self.waiting if one is not started]
            self.start(started)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.lanes.active == len(self.running) <= self.max_active
        assert self.lanes.waiting == len(self.waiting) <= self.max_waiting
        assert sum(waiting.size for waiting in self.waiting) <= self.max_waiting_bytes
        assert self.lanes.idle is (not self.running and not self.waiting)

    @invariant()
    def no_create_waits_while_it_may_start(self) -> None:
        for one in self.waiting:
            assert one.lane in self.running or len(self.running) == self.max_active

    @invariant()
    def each_lane_is_fifo(self) -> None:
        """What a lane has started is the beginning of what it was given, in that order."""
        for lane in (None, *NAMES):
            given = [id(one) for one in self.accepted if one.lane == lane]
            started = [id(one) for one in self.started if one.lane == lane]
            assert started == given[: len(started)]

    def teardown(self) -> None:
        """Once everything has ended, everything that was accepted was started, once."""
        while self.running:
            lane = next(iter(self.running))
            del self.running[lane]
            started = self.lanes.finish(lane)
            if started is not None:
                self.start(started)
        assert sorted(map(id, self.started)) == sorted(map(id, self.accepted))
        assert self.lanes.idle


TestLanes = LanesMachine.TestCase


def test_a_connection_has_32_named_lanes_over_its_life() -> None:
    """The 33rd name is refused, however idle the others are; the default lane does not count."""
    lanes = Lanes()
    for number in range(32):
        assert lanes.add(create(f"lane-{number}")) is not None
        lanes.finish(f"lane-{number}")
    assert MAX_LANES == 32
    assert refused(lanes, create("lane-32")) == "websocket_stream_limit_reached"
    assert lanes.add(create(None)) is not None
    assert lanes.add(create("lane-0")) is not None


def test_16_lanes_run_at_once_and_the_default_lane_is_one_of_them() -> None:
    """The 17th create waits, and the next end starts it."""
    lanes = Lanes()
    for lane in (None, *(f"lane-{number}" for number in range(15))):
        assert lanes.add(create(lane)) is not None
    assert lanes.active == MAX_ACTIVE == 16
    late = create("late")
    assert lanes.add(late) is None
    assert lanes.finish(None) is late


def test_waiting_is_bounded_in_number_and_in_bytes() -> None:
    """What does not fit any more is refused for now; an end makes room again."""
    lanes = Lanes()
    assert lanes.add(create("a")) is not None
    for _ in range(MAX_WAITING):
        assert lanes.add(create("a")) is None
    assert refused(lanes, create("a")) == "rate_limit_exceeded"
    assert lanes.add(create("b")) is not None, "what may start at once waits for nobody"
    assert lanes.finish("a") is not None
    assert refused(lanes, create("a", MAX_WAITING_BYTES)) == "rate_limit_exceeded"
    assert lanes.add(create("a")) is None
