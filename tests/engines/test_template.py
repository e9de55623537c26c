"""A template reads what parsing the whole chunk would read, or nothing."""

from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from hub.engines.chat_wire import ChunkReader
from hub.engines.stream_wire import StreamReader
from hub.engines.template import PATIENCE, Template
from hub.engines.text_wire import TextReader
from hub.errors import HubError
from tests.engines.recording import RecordingSink
from tests.traces import traces

TEXTS = st.text(max_size=8) | st.sampled_from(
    ['"content":"x"', '\\"content\\":"x"', '"', "\\", "}"]
)


def chunk(text: str, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    return orjson.dumps({"id": "chatcmpl-1", "choices": [choice], **more})


@given(st.lists(TEXTS, min_size=1, max_size=20))
def test_chunks_that_differ_in_their_text_are_read_without_parsing(texts: list[str]) -> None:
    """Once one was learned, every chunk like it is read, whatever its text holds."""
    template = Template("content")
    template.learn(chunk("a"), "a")
    assert [template.read(chunk(text)) for text in texts] == texts


@given(TEXTS, st.binary(max_size=40), st.integers(0, 60), st.integers(0, 60))
@example('a"},"x":{"', b"", 0, 0)
def test_what_does_not_fit_is_not_read(text: str, noise: bytes, begin: int, end: int) -> None:
    """A chunk that was cut or changed is read only if parsing it gives that text."""
    template = Template("content")
    template.learn(chunk("a"), "a")
    whole = chunk(text)
    changed = whole[:begin] + noise + whole[max(begin, len(whole) - end) :]
    said = template.read(changed)
    if said is not None:
        assert orjson.loads(changed)["choices"][0]["delta"]["content"] == said


def test_two_strings_under_the_key_are_no_template() -> None:
    """Nobody can tell which of two is the text."""
    template = Template("content")
    twice = chunk("a", content="a")
    template.learn(twice, "a")
    assert template.read(twice) is None


def test_a_stream_without_resemblance_is_given_up() -> None:
    """Chunks that never fit are not looked at for ever, one that fits sometimes is."""
    template = Template("content")
    for number in range(PATIENCE + 1):
        template.learn(chunk("a", created=number), "a")
    assert template.read(chunk("b", created=PATIENCE - 1)) == "b"
    template.learn(chunk("a", created=-1), "a")
    assert template.read(chunk("b", created=-1)) == "b"


STEPS = st.one_of(
    st.builds(chunk, TEXTS),
    st.builds(chunk, TEXTS, created=st.integers(0, 3)),
    st.builds(chunk, TEXTS, usage=st.just({"prompt_tokens": 1})),
    st.sampled_from(
        [
            b"null",
            b'{"choices":[]}',
            b'{"id":"chatcmpl-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
            b'{"id":"chatcmpl-1","choices":[{"index":1,"delta":{"content":"other"}}]}',
            b'{"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":7},"finish_reason":null}]}',
            b'{"id":"c","choices":[{"index":0,"delta":{"reasoning":"r","content":"c"}}]}',
            b'{"id":"c","choices":[{"index":0,"text":"a"}]}',
            b'{"id":"c","choices":[{"index":0,"text":"b"}]}',
            b"[DONE]",
        ]
    ),
)


def told(reader: StreamReader, sink: RecordingSink, payloads: list[bytes]) -> list[object]:
    try:
        for payload in payloads:
            reader.feed(payload)
        reader.end()
    except HubError as error:
        return [*sink.calls, error.code, error.message]
    return [*sink.calls]


@given(traces(STEPS, 20), st.sampled_from([ChunkReader, TextReader]))
def test_a_stream_says_the_same_with_and_without(
    payloads: list[bytes], kind: type[ChunkReader] | type[TextReader]
) -> None:
    """Reading by template changes nothing that a sink is told, in any stream."""
    with_template, without = RecordingSink(), RecordingSink()
    plain = kind(without)
    plain._template._luck = 0
    assert told(kind(with_template), with_template, payloads) == told(plain, without, payloads)
