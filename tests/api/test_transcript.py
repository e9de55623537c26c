"""The transcript: what was said is kept in little space, and comes to the same log again."""

from itertools import cycle, islice
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hub.api.recorder import Recorder
from hub.api.requests import Json, Request, Usage
from hub.api.responses import parse_create
from hub.api.transcript import Transcript
from hub.engines.base import Sink
from hub.errors import TABLE, HubError
from tests.api.speech import Call, ends, speeches

PLAIN = parse_create({"input": "Hi"})
requests = st.sampled_from(
    [
        PLAIN,
        parse_create({"input": "Hi", "background": True, "metadata": {"k": "v"}}),
    ]
)
errors = st.builds(
    HubError,
    st.sampled_from(sorted(TABLE)),
    st.text(max_size=9),
    param=st.none() | st.text(max_size=9),
)
scripts = st.builds(
    lambda speech, end: [("started",), *speech, *end],
    speeches(),
    ends | errors.map(lambda error: [("fail", error)]),
)
"""All calls of a response's life after ``created``."""
cuts = st.sets(st.integers(0, 40))
"""Before which calls to take."""


def new(request: Request) -> Transcript:
    """The transcript of a response that was accepted."""
    recorder = Recorder(request, id="resp_1", model="m", now=1_800_000_000.9)
    recorder.created()
    return Transcript(recorder)


def play(transcript: Transcript, *calls: Call) -> None:
    """Make the calls."""
    for name, *arguments in calls:
        getattr(transcript, name)(*arguments)


class Piece(NamedTuple):
    """What was taken, and how many calls had been made then."""

    first: int
    last: int
    body: bytes
    calls: int


def perform(transcript: Transcript, calls: list[Call], cuts: set[int]) -> list[Piece]:
    """Make the calls; take before some of them and at the end."""
    pieces = []
    for place in range(len(calls) + 1):
        taken = transcript.take() if place in cuts or place == len(calls) else None
        if taken is not None:
            pieces.append(Piece(*taken, place))
        play(transcript, *calls[place : place + 1])
    return pieces


def written(transcript: Transcript) -> list[tuple[int, str, bytes]]:
    """All that can be read of its log."""
    events = transcript.recorder.log.read(-1)
    return [(event.seq, event.type, event.wire) for event in events]


def outcome(transcript: Transcript) -> tuple[Json, str | None, str, Usage | None]:
    """What its recorder tells beside the log."""
    recorder = transcript.recorder
    param = recorder.error.param if recorder.error else None
    return recorder.snapshot(), param, recorder.finish_reason, recorder.reported_usage


@given(requests, scripts, cuts)
@example(PLAIN, [("fail", HubError("invalid_value", "No.", param="input"))], set())
def test_what_was_taken_plays_to_the_same_log(
    request: Request, calls: list[Call], cuts: set[int]
) -> None:
    """Any calls, taken at any points, played into a new recorder give exactly the same log: the
    same numbers, types and bytes, and the same response."""
    original, again = new(request), new(request)
    for piece in perform(original, calls, cuts):
        again.play(piece.body)
        assert again.recorder.log.last == piece.last
    assert written(again) == written(original)
    assert outcome(again) == outcome(original)
    assert again.take() is None, "what was played is kept already"


@given(requests, scripts, cuts, st.integers(0, 5), cuts)
def test_going_on_from_a_part_is_never_having_stopped(
    request: Request, calls: list[Call], cuts: set[int], played: int, later_cuts: set[int]
) -> None:
    """Playing a part of what was taken and going on live from there gives the same log as never
    having stopped; what is taken then goes on where the part has ended."""
    original, heir, reader = new(request), new(request), new(request)
    part = perform(original, calls, cuts)[:played]
    for piece in part:
        heir.play(piece.body)
    made = part[-1].calls if part else 0
    rest = perform(heir, calls[made:], later_cuts)
    assert written(heir) == written(original)
    assert outcome(heir) == outcome(original)
    for piece in [*part, *rest]:
        assert piece.first == reader.recorder.log.next
        reader.play(piece.body)
    assert written(reader) == written(original)


@given(requests, scripts, cuts)
def test_what_is_taken_has_no_gaps_and_no_overlaps(
    request: Request, calls: list[Call], cuts: set[int]
) -> None:
    """Each ``take`` begins behind the one before and reaches to the last event, and there is
    something to take exactly while there are events that were not taken."""
    transcript = new(request)
    log = transcript.recorder.log
    first = log.next
    for place in range(len(calls) + 1):
        assert transcript.pending is (log.next > first)
        if place in cuts or place == len(calls):
            taken = transcript.take()
            assert (taken is not None) is (log.next > first)
            if taken is not None:
                assert taken[:2] == (first, log.next - 1)
                first = log.next
            assert not transcript.pending
        play(transcript, *calls[place : place + 1])
    assert first == log.next


@given(st.integers(0, 500), st.integers(0, 999), st.integers(0, 999), st.integers(0, 9))
def test_what_an_earlier_attempt_said_counts_as_output(
    carried: int, told: int, made: int, cached: int
) -> None:
    """An engine that goes on from ``carried`` tokens counts them as input: they count as output
    then, once, however often the transcript is played."""
    first, heir = new(PLAIN), new(PLAIN)
    first.carried = carried
    calls: list[Call] = [("usage", Usage(told, made, cached, 1)), ("text", "said")]
    (piece,) = perform(first, calls, set())
    heir.carried = carried
    heir.play(piece.body)
    expected = Usage(max(0, told - carried), made + carried, cached, 1)
    assert first.recorder.reported_usage == heir.recorder.reported_usage == expected


def test_what_the_recorder_refuses_is_not_kept() -> None:
    """A call that raises has written nothing, so there is nothing of it to keep."""
    refused, clean = new(PLAIN), new(PLAIN)
    calls: list[Call] = [("tool_call", 0, "c", "f", "{"), ("tool_call", 1, "d", "g", "{")]
    play(clean, *calls)
    play(refused, *calls)
    with pytest.raises(HubError, match="already left"):
        refused.tool_call(0, None, None, "}")
    assert refused.take() == clean.take()


def test_a_transcript_is_small() -> None:
    """A thousand tokens take 16 KiB at most, a tenth of their events."""
    sink = new(PLAIN)
    tokens = [" The", " conversation", " streams", ",", ' "quoted"', "\n", " naïve", " 42"]
    for token in islice(cycle(tokens), 1000):
        an_engine_says(sink, token)
    taken = sink.take()
    assert taken is not None
    body = taken[2]
    assert len(body) <= 16 << 10
    assert sum(len(wire) for _, _, wire in written(sink)) > 10 * len(body)


def an_engine_says(sink: Sink, token: str) -> None:
    """A transcript is what an engine writes to."""
    sink.text(token)
