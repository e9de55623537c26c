"""What the simulated model says, on random conversations."""

from dataclasses import replace
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.requests import Generation, Json, Usage
from hub.engines.sim_text import (
    Script,
    count_tokens,
    full_text,
    prompt_tokens,
    script,
    tokenize,
)

questions = st.text(max_size=80) | st.sampled_from(
    [
        "How does a WebSocket resume?",
        "Où est le café ? ☕️",
        "量子コンピュータについて",
        "👩‍💻🇩🇪👍🏽",
    ]
)


def ask(question: str, **fields: Any) -> Generation:
    return Generation("sim", [{"role": "user", "content": question}], **fields)


class Hearing:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.spoken: list[str] = []
        self.thought: list[str] = []
        self.calls: list[tuple[int, str | None, str | None, str]] = []
        self.logprobs: list[Json] = []

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        self.spoken.append(delta)
        self.logprobs += logprobs or []

    def reasoning(self, delta: str) -> None:
        self.thought.append(delta)

    def refusal(self, delta: str) -> None:
        raise AssertionError("nothing is refused")

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        self.calls.append((index, call_id, name, arguments))

    def usage(self, usage: Usage) -> None:
        raise AssertionError("the engine counts")

    def finish(self, reason: str) -> None:
        raise AssertionError("the engine finishes")


def hear(said: Script) -> Hearing:
    hearing = Hearing()
    for position in range(len(said)):
        said.say(position, hearing)
    return hearing


# -- Tokens


@given(st.text())
def test_joined_tokens_are_the_text(text: str) -> None:
    tokens = tokenize(text)
    assert "".join(tokens) == text
    assert all(tokens)


@pytest.mark.parametrize(
    "cluster",
    ["👩‍💻", "👍🏽", "🇩🇪", "❤️‍🔥", "🏳️‍🌈", "1️⃣", "👨‍👩‍👧‍👦", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "e\u0301", "a\u0308\u0301"],
)
def test_no_token_ends_inside_a_character(cluster: str) -> None:
    for before in ("", "x", "12", " ", "é", "🇫🇷"):
        tokens = tokenize(f"{before}{cluster}{cluster} abc")
        assert sum(cluster in token for token in tokens) == 2, tokens


def test_tokens_have_about_four_characters() -> None:
    texts = [full_text(ask("Tell me about rivers and boats"), seed) for seed in range(50)]
    tokens = sum(len(tokenize(text)) for text in texts)
    assert 3.2 < sum(map(len, texts)) / tokens < 4.5


def test_prompts_are_counted() -> None:
    assert count_tokens([]) == 1
    assert count_tokens([{"role": "user", "content": "x" * 176}]) == 48
    parts = [{"type": "text", "text": "x" * 40}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert count_tokens([{"role": "user", "content": parts}]) == 4 + 10 + 256
    calls: list[Json] = [{"role": "assistant", "content": None, "tool_calls": [{"id": "x" * 400}]}]
    assert count_tokens(calls) > 100
    assert count_tokens(calls, [{"type": "function"}]) > count_tokens(calls)


# -- Text


@given(questions, st.integers(0, 1000))
def test_the_same_question_gets_the_same_answer(question: str, seed: int) -> None:
    said = script(ask(question), seed)
    assert said == script(ask(question), seed)
    assert said.finish == "stop"
    assert "".join(hear(said).spoken) == full_text(ask(question), seed)


def test_answers_differ_by_question_and_by_seed() -> None:
    answers = {full_text(ask(f"question number {n}"), seed) for n in range(20) for seed in range(5)}
    answers |= {full_text(ask("question", extra={"seed": seed})) for seed in range(20)}
    assert len(answers) == 120


def test_lengths_vary_within_what_is_natural() -> None:
    lengths = [len(script(ask("Tell me about rivers and boats"), seed)) for seed in range(300)]
    assert min(lengths) >= 30
    assert max(lengths) <= 300
    assert max(lengths) > 2 * min(lengths)


def test_answers_take_up_the_question_and_are_honest() -> None:
    for seed in range(50):
        text = full_text(ask("Why do glaciers and volcanoes meet in Iceland?"), seed)
        assert any(word in text.lower() for word in ("glaciers", "volcanoes", "iceland")), text
        assert "simulat" in text, text


def test_unicode_lists_and_code_occur() -> None:
    texts = "".join(full_text(ask("about rivers"), seed) for seed in range(200))
    for sample in ("👩‍💻", "🇩🇪", "日本語", "é", "ü", "```python", "\n- **", "\n2. "):
        assert sample in texts


def test_nobody_has_to_ask_anything() -> None:
    assert full_text(Generation("sim", []))


def test_images_are_tolerated_and_mentioned() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    one = Generation("sim", [{"role": "user", "content": [image]}])
    two = Generation("sim", [{"role": "user", "content": [image, image, {"type": "odd"}]}])
    assert "an image" in full_text(one)
    assert "2 images" in full_text(two)


# -- Limits


@given(questions, st.integers(0, 300))
def test_max_tokens_cuts_the_same_answer_short(question: str, limit: int) -> None:
    generation = ask(question, extra={"reasoning_effort": "low"})
    whole, cut = script(generation), script(replace(generation, max_tokens=limit))
    assert len(cut) == min(limit, len(whole))
    assert cut.finish == ("stop" if len(whole) <= limit else "length")
    assert (*cut.reasoning, *cut.text) == (*whole.reasoning, *whole.text)[:limit]


@given(st.integers(0, 1000), st.data())
def test_stop_strings_end_the_text_before_them(seed: int, data: st.DataObject) -> None:
    generation = ask("Tell me about rivers and boats")
    whole = full_text(generation, seed)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = whole[start : start + data.draw(st.integers(1, 12))]
    said = script(replace(generation, stop=[stop, "", "never said"]), seed)
    assert "".join(said.text) == whole[: whole.index(stop)]
    assert said.finish == "stop"


def test_limits_apply_to_calls_too() -> None:
    generation = ask("weather", tools=[WEATHER])
    whole = script(generation).call
    assert whole is not None
    for limit in range(1, 1 + len(whole.arguments)):
        call = script(replace(generation, max_tokens=limit)).call
        assert call == replace(whole, arguments=whole.arguments[: limit - 1])
    assert script(replace(generation, max_tokens=0)) == Script(finish="length")


# -- Reasoning


@pytest.mark.parametrize("effort", ["none", "minimal", None])
def test_no_effort_no_reasoning(effort: str | None) -> None:
    assert not script(ask("why", extra={"reasoning_effort": effort})).reasoning


def test_reasoning_comes_first_and_grows_with_the_effort() -> None:
    said = {e: script(ask("why", extra={"reasoning_effort": e})) for e in ("low", "medium", "high")}
    low, medium, high = (len(said[effort].reasoning) for effort in ("low", "medium", "high"))
    assert 0 < low < medium < high
    assert {"".join(one.text) for one in said.values()} == {full_text(ask("why"))}
    hearing = hear(said["low"].cut(3))
    assert (len(hearing.thought), hearing.spoken) == (3, [])


# -- Going on


@given(questions, st.integers(0, 50), st.data())
def test_going_on_from_any_point_gives_the_whole(
    question: str, seed: int, data: st.DataObject
) -> None:
    generation = ask(question)
    whole = full_text(generation, seed)
    said = whole[: data.draw(st.integers(0, len(whole)))]
    rest = script(going_on(generation, said), seed)
    assert said + "".join(rest.text) == whole
    assert rest.finish == "stop"
    assert len(script(going_on(generation, said, max_tokens=7), seed)) == min(7, len(rest))


def test_going_on_at_a_token_gives_the_same_tokens() -> None:
    generation = ask("Tell me about rivers", extra={"reasoning_effort": "low"})
    whole = script(generation)
    for count in range(1, len(whole.text)):
        rest = script(going_on(generation, "".join(whole.text[:count])))
        assert rest.text == whole.text[count:]
        assert not rest.reasoning, "it has been thought already"
    assert script(going_on(generation, "")) == whole


@given(st.text(min_size=1, max_size=40))
def test_going_on_from_foreign_words(said: str) -> None:
    generation = going_on(ask("Tell me about rivers"), "☃" + said)
    text = full_text(generation)
    assert text == full_text(generation)
    assert text[0].isspace() != said[-1].isspace(), "one space is between the two, not more"


def test_only_an_assistant_is_gone_on_with() -> None:
    generation = ask("Tell me about rivers")
    assert full_text(replace(generation, continues=True)) == full_text(generation)


def going_on(generation: Generation, said: str, **fields: Any) -> Generation:
    messages = [*generation.messages, {"role": "assistant", "content": said}]
    return replace(generation, messages=messages, continues=True, **fields)


# -- Raw prompts


def after(prompt: str, **fields: Any) -> Generation:
    return Generation("sim", (), prompt=prompt, **fields)


@given(st.text(max_size=40), st.integers(0, 1000))
def test_a_raw_text_is_gone_on_with(prompt: str, seed: int) -> None:
    said = script(after(prompt), seed)
    assert said == script(after(prompt), seed)
    assert (said.reasoning, said.call, said.finish) == ((), None, "stop")
    text = "".join(said.text)
    assert text
    assert text[0].isspace() is (bool(prompt) and not prompt[-1].isspace())


@given(st.text(max_size=40), st.integers(0, 300))
def test_limits_cut_a_raw_text_short(prompt: str, limit: int) -> None:
    whole, cut = script(after(prompt)), script(after(prompt, max_tokens=limit))
    assert cut.text == whole.text[:limit]
    assert cut.finish == ("stop" if len(whole) <= limit else "length")
    text = full_text(after(prompt))
    assert full_text(after(prompt, stop=[text[5:9]])) == text[: text.index(text[5:9])]


def test_raw_texts_differ_by_prompt_and_by_seed() -> None:
    texts = {full_text(after(f"line {n}"), seed) for n in range(20) for seed in range(5)}
    texts |= {full_text(after("line", extra={"seed": seed})) for seed in range(20)}
    assert len(texts) == 120


def test_nobody_asks_a_raw_text_anything() -> None:
    """Neither thoughts nor tools, and the prompt's own words are taken up."""
    plain = after("All about glaciers and volcanoes in Iceland")
    extra = {"reasoning_effort": "high"}
    assert script(replace(plain, tools=[WEATHER], extra=extra)).call is None
    assert not script(replace(plain, extra=extra)).reasoning
    texts = [full_text(plain, seed).lower() for seed in range(50)]
    assert all("simulat" in text for text in texts)
    assert any("glaciers" in text for text in texts)


def test_raw_prompts_are_counted() -> None:
    assert prompt_tokens(after("")) == 1
    assert prompt_tokens(after("x" * 176)) == 44


# -- Tools

WEATHER: Json = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The forecast for a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK: Json = {"type": "function", "function": {"name": "currentTime"}}


@given(questions, st.integers(0, 1000))
def test_calls_have_valid_arguments(question: str, seed: int) -> None:
    said = script(ask(question, tools=[WEATHER]), seed)
    assert (said.text, said.finish) == ((), "tool_calls")
    calls = hear(said).calls
    assert calls[0][:3] == (0, f"{calls[0][1]}", "get_weather")
    assert all(call[:3] == (0, None, None) for call in calls[1:])
    arguments = orjson.loads("".join(call[3] for call in calls))
    jsonschema.validate(arguments, WEATHER["function"]["parameters"])


@pytest.mark.parametrize(
    ("question", "choice", "name"),
    [
        ("What time is it?", None, "currentTime"),
        ("What is the forecast?", "auto", "get_weather"),
        ("Hm?", "required", "get_weather"),
        ("forecast", {"type": "function", "function": {"name": "currentTime"}}, "currentTime"),
    ],
)
def test_the_tool_is_chosen_by_name_or_by_likeness(
    question: str, choice: str | Json | None, name: str
) -> None:
    call = script(ask(question, tools=[WEATHER, CLOCK], tool_choice=choice)).call
    assert call is not None
    assert call.name == name


def test_a_function_without_parameters_takes_none() -> None:
    call = script(ask("time", tools=[CLOCK])).call
    assert call is not None
    assert "".join(call.arguments) == "{}"


@pytest.mark.parametrize("choice", ["none", {"function": {"name": "unheard_of"}}])
def test_no_call_without_a_choice(choice: str | Json) -> None:
    said = script(ask("weather", tools=[WEATHER], tool_choice=choice))
    assert said.call is None
    assert said.text


def test_output_of_a_tool_is_taken_up() -> None:
    messages: list[Json] = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "tool_call_id": "1", "content": "17 degrees\nand drizzle " + "x" * 500},
    ]
    for seed in range(100):
        said = script(Generation("sim", messages, tools=[WEATHER]), seed)
        assert said.call is None
        text = "".join(said.text)
        assert "17 degrees and drizzle" in text
        assert "…" in text


def test_empty_output_of_a_tool_is_taken_up_too() -> None:
    messages: list[Json] = [{"role": "tool", "content": ""}]
    for seed in range(100):
        text = full_text(Generation("sim", messages), seed)
        assert text.startswith("The tool's answer is: nothing at all.")
        assert "simulat" in text


# -- JSON


@pytest.mark.parametrize("seed", range(10))
def test_json_is_json(seed: int) -> None:
    answer = full_text(ask("rivers", response_format={"type": "json_object"}), seed)
    assert orjson.loads(answer)["topics"] == ["rivers"]
    schema = WEATHER["function"]["parameters"]
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    jsonschema.validate(
        orjson.loads(full_text(ask("rivers", response_format=wanted), seed)), schema
    )
    assert "simulat" in full_text(ask("rivers", response_format={"type": "text"}), seed)


# -- Log probabilities


@pytest.mark.parametrize("alternatives", [0, 1, 3])
def test_logprobs_are_reported_per_token(alternatives: int) -> None:
    hearing = hear(script(ask("rivers", top_logprobs=alternatives)))
    assert [one["token"] for one in hearing.logprobs] == hearing.spoken
    assert all(len(one["top_logprobs"]) == alternatives for one in hearing.logprobs)
    assert all(bytes(one["bytes"]).decode() == one["token"] for one in hearing.logprobs)
    assert hear(script(ask("rivers"))).logprobs == []
