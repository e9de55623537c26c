"""What a run asks for."""

import itertools

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.bench import text
from hub.bench.plan import MAX_LANES, Load, arrivals, lanes_for, request, seed_of, tokens_of


@given(st.integers(0, 10**6))
def test_arrivals_are_the_same_for_the_same_seed(seed: int) -> None:
    first, second = arrivals(50.0, seed), arrivals(50.0, seed)
    times = list(itertools.islice(first, 20))
    assert times == list(itertools.islice(second, 20))
    assert times == sorted(times)
    assert times != list(itertools.islice(arrivals(50.0, seed + 1), 20))


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 20.0, 3000.0]))
def test_as_many_arrive_as_by_a_poisson_process(seed: int, rate: float) -> None:
    """In windows that expect 10 the counts have a mean and a variance of 10."""
    windows = 400
    seconds = 10 / rate
    counts = [0] * windows
    for at in itertools.takewhile(lambda at: at < windows * seconds, arrivals(rate, seed)):
        counts[int(at / seconds)] += 1
    mean = sum(counts) / windows
    variance = sum((count - mean) ** 2 for count in counts) / windows
    # Six standard errors: sqrt(10 / 400), and about sqrt(2 / 400) * 10.
    assert abs(mean - 10) < 0.95
    assert abs(variance - 10) < 4.5


def test_the_first_responses_of_a_closed_loop_have_random_lengths() -> None:
    load = Load(mode="lanes", connections=10, lanes=10, requests=1, max_tokens=100)
    lengths = [tokens_of(load, number) for number in range(200)]
    assert all(1 <= length <= 100 for length in lengths)
    assert len(set(lengths[:100])) > 30
    assert set(lengths[100:]) == {100}
    assert lengths == [tokens_of(load, number) for number in range(200)]
    open_loop = Load(mode="lanes", requests=1, rate=1.0, max_tokens=100)
    assert tokens_of(open_loop, 0) == 100


def test_streams_are_lanes_or_connections() -> None:
    assert Load(mode="lanes", connections=3, lanes=4, seconds=1).streams == 12
    assert Load(mode="chat", connections=3, lanes=4, seconds=1).streams == 3


def test_a_load_ends_by_time_or_by_number() -> None:
    with pytest.raises(AssertionError):
        Load(mode="chat")
    with pytest.raises(AssertionError):
        Load(mode="chat", seconds=1, requests=1)


@given(st.integers(1, 300))
def test_lanes_for_a_number_of_streams_are_exactly_so_many(streams: int) -> None:
    connections, lanes = lanes_for(streams)
    assert connections * lanes == streams
    assert lanes <= MAX_LANES


def test_requests_carry_seed_and_length_in_the_words_of_their_protocol() -> None:
    for mode, streams in (("lanes", None), ("sse", True), ("chat", True), ("sync", None),
                         ("background", None)):  # fmt: skip
        load = Load(mode=mode, requests=1, seed=7)  # type: ignore[arg-type]
        seed = seed_of(load, 3)
        body = request(load, seed, 5, "a" if mode == "lanes" else None)
        assert text.seed_of(body) == seed
        message = orjson.loads(body)
        assert message["max_tokens" if mode == "chat" else "max_output_tokens"] == 5
        assert message.get("stream") is streams
        assert message.get("stream_id") == ("a" if mode == "lanes" else None)
        assert message.get("background") is (True if mode == "background" else None)
        assert message["model"] == "bench"


def test_where_texts_are_not_known_chat_is_asked_to_count_its_tokens() -> None:
    load = Load(mode="chat", requests=1, any_text=True, model="")
    message = orjson.loads(request(load, 1, 5))
    assert message["stream_options"] == {"include_usage": True}
    assert "model" not in message
    assert not load.checked
    assert Load(mode="sse", requests=1, any_text=True).checked
