"""What the simulated model says: a pure function of the conversation and a seed.

``script`` makes the whole answer at once; the engine plays it token by token. The same
conversation and seed give the same script, whatever the limits: ``max_tokens`` and ``stop`` only
cut it short. So an answer that broke off can be gone on with from any point of it
(``Generation.continues``), and both parts together are the answer as it would have been.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import orjson

from hub.api.requests import Generation, Json, estimate_tokens
from hub.engines import sim_code, sim_prose, sim_schema
from hub.engines.base import Sink

IMAGE_TOKENS = 256
"""What an image counts for in a prompt."""
JSON_WORDS = 6

# What belongs to the character before it: combining marks, variation selectors, skin tones, tags.
_EXTEND = "[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u200d\u20d0-\u20ff\ufe00-\ufe0f\ufe20-\ufe2f"
_EXTEND += "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
_FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
_CLUSTER = f"(?:{_FLAG}|.)(?:{_EXTEND}*\u200d.)*{_EXTEND}*"
_TOKEN = re.compile(
    f" ?(?:[A-Za-z']{{1,6}}(?!{_EXTEND})|[0-9]{{1,3}}(?!{_EXTEND})|{_CLUSTER})", re.DOTALL
)


def tokenize(text: str) -> list[str]:
    """Split a text in pieces as a model's tokenizer would, about four characters each.

    Joined, they are the text. No piece ends inside an emoji or between a letter and its accent.
    """
    return _TOKEN.findall(text)


def count_tokens(messages: Sequence[Json], tools: Sequence[Json] = ()) -> int:
    """The tokens of a prompt; at least one."""
    images = sum(_images(message) for message in messages)
    # The chat template writes calls and definitions of tools into the prompt, as JSON.
    template = [*tools, *(calls for m in messages if (calls := m.get("tool_calls")))]
    json = len(orjson.dumps(template)) if template else 0
    return max(1, estimate_tokens(messages) + json // 4 + IMAGE_TOKENS * images)


def prompt_tokens(generation: Generation) -> int:
    """The tokens of what an engine is asked; a text to go on with has those that made it."""
    if generation.prompt is not None:
        around = [generation.suffix or "", *(one.text for one in generation.files)]
        return max(1, sum(map(len, [generation.prompt, *around])) // 4)
    unfinished = _unfinished(generation)
    if unfinished is None:
        return count_tokens(generation.messages, generation.tools)
    before = count_tokens(generation.messages[:-1], generation.tools)
    return before + len(tokenize(unfinished))


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call, its arguments in pieces."""

    id: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """Everything that the model says in one answer: reasoning, then text, then a tool call."""

    reasoning: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    call: ToolCall | None = None
    finish: str = "stop"
    top_logprobs: int | None = None

    def __len__(self) -> int:
        """Its tokens. Opening a tool call, with the function's name, is one."""
        call = 1 + len(self.call.arguments) if self.call else 0
        return len(self.reasoning) + len(self.text) + call

    def say(self, position: int, sink: Sink) -> None:
        """Tell the sink the token at ``position``."""
        if position < len(self.reasoning):
            sink.reasoning(self.reasoning[position])
            return
        position -= len(self.reasoning)
        if position < len(self.text):
            token = self.text[position]
            chances = None if self.top_logprobs is None else [_logprob(token, self.top_logprobs)]
            sink.text(token, chances)
            return
        position -= len(self.text)
        assert self.call is not None, "the script is over"
        if position == 0:
            sink.tool_call(0, self.call.id, self.call.name, "")
        else:
            sink.tool_call(0, None, None, self.call.arguments[position - 1])

    def cut(self, tokens: int) -> "Script":
        """The script, at most so many tokens of it."""
        if len(self) <= tokens:
            return self
        reasoning = self.reasoning[:tokens]
        tokens -= len(reasoning)
        text = self.text[:tokens]
        tokens -= len(text)
        call = self.call
        if call is not None:
            call = replace(call, arguments=call.arguments[: tokens - 1]) if tokens > 0 else None
        return replace(self, reasoning=reasoning, text=text, call=call, finish="length")

    def stopped(self, stop: Sequence[str]) -> "Script":
        """The script up to the first of the stop strings in its text."""
        text = "".join(self.text)
        found = [at for string in stop if string and (at := text.find(string)) >= 0]
        if not found:
            return self
        return replace(self, text=_between(self.text, 0, min(found)), call=None, finish="stop")


def script(generation: Generation, seed: int = 0) -> Script:
    """What the model says when it is asked this."""
    said = _unfinished(generation)
    whole = _whole(generation, seed) if said is None else _rest(generation, said, seed)
    whole = replace(whole.stopped(generation.stop), top_logprobs=generation.top_logprobs)
    return whole if generation.max_tokens is None else whole.cut(generation.max_tokens)


def full_text(generation: Generation, seed: int = 0) -> str:
    """The visible text of ``script``: what a reader must have in the end."""
    return "".join(script(generation, seed).text)


def _unfinished(generation: Generation) -> str | None:
    """What the model has said already, if it is to go on from there."""
    if not (generation.continues and generation.messages):
        return None
    last = generation.messages[-1]
    return _text(last) if last.get("role") == "assistant" else None


def _rest(generation: Generation, said: str, seed: int) -> Script:
    """The rest of an answer of which ``said`` is the beginning."""
    whole = _whole(replace(generation, messages=generation.messages[:-1]), seed)
    text = "".join(whole.text)
    if text.startswith(said):
        # Once it speaks it has done with thinking.
        reasoning = whole.reasoning if not said else ()
        return replace(whole, reasoning=reasoning, text=_between(whole.text, len(said), len(text)))
    return _sequel(generation, said, seed)


def _sequel(generation: Generation, said: str, seed: int) -> Script:
    """What may follow any text."""
    rng = _random(generation, seed, "sequel")
    about = sim_prose.topics(said[-400:])
    space = "" if not said or said[-1].isspace() else " "
    more = sim_prose.sequel(rng, about, length=rng.randint(120, 500))
    return Script(text=tuple(tokenize(space + more)))


def _filling(generation: Generation, seed: int) -> Script:
    """What may be between two pieces of code."""
    prefix, suffix = generation.prompt or "", generation.suffix or ""
    rng = _random(generation, seed, "filling")
    about = sim_code.names(suffix[:2000] + "\n" + prefix)
    # Mostly a line or a few, sometimes a long piece.
    lines = int(rng.triangular(0, 12, 2))
    return Script(text=tuple(tokenize(sim_code.filling(rng, prefix, about, lines))))


def _whole(generation: Generation, seed: int) -> Script:
    """The answer without limits."""
    if generation.suffix is not None:
        return _filling(generation, seed)
    if generation.prompt is not None:
        # No template: nobody asks, so nothing is thought about and no tool is called.
        return _sequel(generation, generation.prompt, seed)
    messages = generation.messages
    last = messages[-1] if messages else {}
    answers_tool = last.get("role") in ("tool", "function")
    asked = _text(last) if answers_tool else _question(messages)
    about = sim_prose.topics(asked)
    reasoning = _reasoning(generation, seed, about)
    if tool := None if answers_tool else _chosen_tool(generation, asked):
        rng = _random(generation, seed, "call")
        return Script(reasoning, call=_call(tool, rng, about), finish="tool_calls")
    rng = _random(generation, seed, "text")
    text = _json(generation.response_format, rng, about)
    if text is None:
        # Characters; about 40 to 250 tokens, most often 100.
        length = int(rng.triangular(130, 800, 320))
        text = sim_prose.answer(rng, about, _opening(last, answers_tool, asked), length)
    return Script(reasoning, tuple(tokenize(text)))


def _reasoning(generation: Generation, seed: int, about: Sequence[str]) -> tuple[str, ...]:
    effort = generation.extra.get("reasoning_effort")
    if effort in (None, "none", "minimal"):
        return ()
    sentences = {"low": 2, "medium": 4, "high": 8}.get(str(effort), 4)
    thoughts = sim_prose.thoughts(_random(generation, seed, "reasoning"), about, sentences)
    return tuple(tokenize(thoughts))


def _opening(last: Json, answers_tool: bool, asked: str) -> str:
    """How the answer begins, if what it answers is more than text; else nothing."""
    if answers_tool:
        output = tokenize(" ".join(asked[:2000].split()))
        excerpt = "".join(output[:32]) + ("…" if len(output) > 32 else "")
        return f"The tool's answer is: {excerpt or 'nothing at all'}."
    if images := _images(last):
        return f"I was shown {'an image' if images == 1 else f'{images} images'}, but cannot see."
    return ""


def _json(wanted: Json | None, rng: random.Random, about: Sequence[str]) -> str | None:
    """The answer as JSON, if that is wanted."""
    answer: Any
    match wanted:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            answer = sim_schema.value(schema, rng, about)
        case {"type": "json_object" | "json_schema"}:
            topics = list(about[:JSON_WORDS])
            answer = {"answer": sim_prose.sentence(rng, about), "topics": topics, "simulated": True}
        case _:
            return None
    return orjson.dumps(answer).decode()


def _chosen_tool(generation: Generation, asked: str) -> Json | None:
    """The function to call: the one that the client names, else the one that sounds most alike."""
    functions = [f for t in generation.tools if isinstance(f := t.get("function"), dict)]
    if not functions or generation.tool_choice == "none":
        return None
    match generation.tool_choice:
        case {"function": {"name": name}}:
            return next((f for f in functions if f.get("name") == name), None)
    words = _words(asked)

    def likeness(function: Json) -> int:
        return len(words & _words(f"{function.get('name')} {function.get('description')}"))

    return max(functions, key=likeness)


def _words(text: str) -> set[str]:
    """The words of a text, those inside ``names_like_this`` and ``namesLikeThis`` too."""
    return {word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+", text)}


def _call(function: Json, rng: random.Random, about: Sequence[str]) -> ToolCall:
    # A function without parameters takes none.
    schema = function.get("parameters") or {"type": "object"}
    arguments = sim_schema.value(schema, rng, about)
    text = orjson.dumps(arguments).decode()
    return ToolCall(
        f"call_{rng.getrandbits(96):024x}", str(function.get("name")), tuple(tokenize(text))
    )


def _between(tokens: Sequence[str], start: int, end: int) -> tuple[str, ...]:
    """The part of a text from one character to another; tokens are cut only at its ends."""
    ends = accumulate(len(token) for token in tokens)
    pieces = (
        token[max(0, start - (over - len(token))) : max(0, len(token) - (over - end))]
        for token, over in zip(tokens, ends, strict=True)
    )
    return tuple(piece for piece in pieces if piece)


def _question(messages: Sequence[Json]) -> str:
    """What the user said last."""
    return next((_text(m) for m in reversed(messages) if m.get("role") == "user"), "")


def _text(message: Json) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return " ".join(text for text in texts if isinstance(text, str))


def _images(message: Json) -> int:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return sum(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)


def _random(generation: Generation, seed: int, part: str) -> random.Random:
    """The dice for one part of the answer. Its limits and its sampling do not load them."""
    asked = [
        seed,
        generation.extra.get("seed"),
        list(generation.messages),
        list(generation.tools),
        generation.response_format,
    ]
    if generation.prompt is not None:
        asked.append(generation.prompt)
    if generation.suffix is not None:
        asked.append(generation.suffix)
    digest = hashlib.blake2b(orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return random.Random(f"{part} {digest}")


def _logprob(token: str, alternatives: int) -> Json:
    """Log probabilities of the right shape, for a model that has none."""
    others = [
        _chance(token.swapcase() if rank == 1 else f"{token[:1]}{rank}", rank)
        for rank in range(1, alternatives)
    ]
    first = _chance(token, 0)
    return {**first, "top_logprobs": [first, *others][:alternatives]}


def _chance(token: str, rank: int) -> Json:
    return {"token": token, "logprob": -0.25 - 1.5 * rank, "bytes": list(token.encode())}
