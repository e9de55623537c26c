"""The token source's texts: every reader can know its own."""

from hypothesis import given
from hypothesis import strategies as st

from hub.bench.text import SIZE, Vocabulary, chat_chunks, prompt, seed_of
from hub.engines.chat_wire import ChunkReader
from tests.bench.doubles import TextSink

WORDS = Vocabulary()
seeds = st.integers(0, 2**40)


def reference(seed: int, tokens: int) -> list[str]:
    """The words of an answer, one by one."""
    return [WORDS.words[(WORDS.start(seed) + i) % SIZE] for i in range(tokens)]


def test_the_words_are_all_different_and_as_long_as_a_models() -> None:
    assert len(set(WORDS.words)) == len(WORDS.words) == SIZE
    assert all(WORDS.words)
    assert 3 < sum(map(len, WORDS.words)) / SIZE < 6


def test_the_words_hold_what_json_and_utf8_find_hard() -> None:
    text = "".join(WORDS.words)
    assert all(odd in text for odd in ('"', "\\", "\n", "é", "漢", "🙂", "\u2028"))


def test_a_vocabulary_depends_on_its_salt_only() -> None:
    assert Vocabulary().words == WORDS.words
    assert Vocabulary(1).words != WORDS.words


@given(seeds, st.one_of(st.integers(0, 20), st.integers(SIZE - 2, 3 * SIZE)))
def test_an_answer_is_its_words(seed: int, tokens: int) -> None:
    assert WORDS.answer(seed, tokens) == "".join(reference(seed, tokens))


@given(seeds, st.integers(0, 2 * SIZE), st.integers(0, 3))
def test_the_tokens_in_a_part_of_an_answer_are_the_whole_ones(
    seed: int, tokens: int, more: int
) -> None:
    text = WORDS.answer(seed, tokens)
    following = reference(seed, tokens + 1)[-1]
    more = min(more, len(following) - 1)
    assert WORDS.tokens(seed, len(text) + more) == tokens


@given(seeds, st.integers(0, 5000))
def test_a_prompt_tells_its_seed_and_is_as_long_as_it_should(seed: int, tokens: int) -> None:
    asked = prompt(seed, tokens)
    assert seed_of(asked.encode()) == seed
    assert abs(len(asked) - 4 * tokens) < 24


def test_a_body_without_a_seed_has_none() -> None:
    assert seed_of(b"") is None
    assert seed_of(b'{"input":"seed=none"}') is None
    assert seed_of(b'{"input":["seed=1 ","and then seed=23"]}') == 23


def test_the_chunks_say_the_words_to_hubs_own_client() -> None:
    sink = TextSink()
    reader = ChunkReader(sink)
    for chunk in chat_chunks(WORDS, "m"):
        reader.feed(chunk.removeprefix(b"data: ").removesuffix(b"\n\n"))
    assert tuple(sink.said) == WORDS.words
