"""Fill in the middle: every family's prompt as it was trained, and nobody's text taken for it."""
# ruff: noqa: RUF001 (DeepSeek's bars are full-width)

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.fim import (
    BREAK,
    FAMILIES,
    MAX_STOP,
    Family,
    Other,
    Way,
    family_of,
    parse_way,
    render,
    stop_strings,
    unsupported,
    way_of,
)
from hub.api.requests import ContextFile

FILES = (ContextFile("a.py", "A = 1\n"), ContextFile("b.py", "B = 2"))

GOLDEN = {
    "qwen-coder": (
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
        "<|repo_name|>myproject\n<|file_sep|>a.py\nA = 1\n<|file_sep|>b.py\nB = 2"
        "<|file_sep|>filename\n<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
    ),
    "starcoder": ("<fim_prefix>P<fim_suffix>S<fim_middle>", None),
    "starcoder2": (
        "<fim_prefix>P<fim_suffix>S<fim_middle>",
        "<file_sep>a.py\nA = 1\n<file_sep>b.py\nB = 2<file_sep>"
        "<fim_prefix>P<fim_suffix>S<fim_middle>",
    ),
    "stable-code": ("<fim_prefix>P<fim_suffix>S<fim_middle>", None),
    "granite-code": ("<fim_prefix>P<fim_suffix>S<fim_middle>", None),
    "codeqwen": ("<fim_prefix>P<fim_suffix>S<fim_middle>", None),
    "santacoder": ("<fim-prefix>P<fim-suffix>S<fim-middle>", None),
    "codellama": ("<PRE> P <SUF>S <MID>", None),
    "deepseek-coder": (
        "<｜fim▁begin｜>P<｜fim▁hole｜>S<｜fim▁end｜>",
        "<｜fim▁begin｜>#a.py\nA = 1\n\n#b.py\nB = 2\nP<｜fim▁hole｜>S<｜fim▁end｜>",
    ),
    "codestral": (
        "[SUFFIX]S[PREFIX]P",
        "[SUFFIX]S[PREFIX]+++++ a.py\nA = 1\n\n\n+++++ b.py\nB = 2\n\n+++++ filename\nP",
    ),
    "codegemma": (
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
        "a.py\nA = 1\n<|file_separator|>b.py\nB = 2<|file_separator|>"
        "<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>",
    ),
    "glm": ("<|code_prefix|>P<|code_suffix|>S<|code_middle|>", None),
    "seed-coder": ("<[fim-suffix]>S<[fim-prefix]>P<[fim-middle]>", None),
    "granite-4": ("<|fim_prefix|>P<|fim_suffix|>S<|fim_middle|>", None),
}
"""Family -> its prompt, and its prompt with other files if they have a form."""


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_the_prompt_that_it_was_trained_with(name: str) -> None:
    """With hole and end, prefix and suffix, and every space where they belong; files that have no
    form are left out."""
    alone, with_files = GOLDEN[name]
    assert render(FAMILIES[name], "P", "S") == alone
    assert render(FAMILIES[name], "P", "S", FILES) == (with_files or alone)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("starcoder", "<fim_prefix><fim_suffix>S<fim_middle>P"),
        ("granite-code", "<fim_prefix><fim_suffix>S<fim_middle>P"),
        ("santacoder", "<fim-prefix><fim-suffix>S<fim-middle>P"),
        ("codellama", "<PRE> <SUF>S <MID> P"),
        ("codestral", "[SUFFIX]S[PREFIX]P"),
        ("seed-coder", "<[fim-suffix]>S<[fim-prefix]>P<[fim-middle]>"),
    ],
)
def test_the_suffix_first_is_for_those_who_were_trained_for_it(name: str, prompt: str) -> None:
    """As their training had it, which is not the same for all of them."""
    assert render(family(f"{name}:spm"), "P", "S") == prompt


@pytest.mark.parametrize("name", ["qwen-coder:spm", "deepseek-coder:spm", "codestral:psm", "glm:x"])
def test_an_order_that_nobody_was_trained_for_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not known to be trained for the order"):
        parse_way(name)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("qwen2.5-coder:7b", "qwen-coder"),
        ("Qwen/Qwen2.5-Coder-32B-Instruct", "qwen-coder"),
        ("qwen2.5-coder-7b-q8_0.gguf", "qwen-coder"),
        ("/models/Qwen2.5_Coder_7B.gguf", "qwen-coder"),
        ("qwen/qwen-2.5-coder-32b-instruct", "qwen-coder"),
        ("qwen3-coder:30b-a3b-q4_K_M", "qwen-coder"),
        ("CodeQwen1.5-7B", "codeqwen"),
        ("bigcode/starcoder2-15b", "starcoder2"),
        ("starcoder2:3b", "starcoder2"),
        ("bigcode/starcoderbase-1b", "starcoder"),
        ("bigcode/tiny_starcoder_py", "starcoder"),
        ("bigcode/santacoder", "santacoder"),
        ("stabilityai/stable-code-3b", "stable-code"),
        ("granite-code:8b", "granite-code"),
        ("ibm-granite/granite-20b-code-base-8k", "granite-code"),
        ("ibm-granite/granite-4.0-h-tiny", "granite-4"),
        ("granite4:micro", "granite-4"),
        ("codellama:7b-code", "codellama"),
        ("meta-llama/CodeLlama-13b-hf", "codellama"),
        ("deepseek-ai/DeepSeek-Coder-V2-Lite-Base", "deepseek-coder"),
        ("deepseek-coder:6.7b-base", "deepseek-coder"),
        ("codestral-latest", "codestral"),
        ("mistralai/Codestral-22B-v0.1", "codestral"),
        ("google/codegemma-7b", "codegemma"),
        ("THUDM/glm-4-9b", "glm"),
        ("GLM-4.6", "glm"),
        ("ByteDance-Seed/Seed-Coder-8B-Base", "seed-coder"),
    ],
)
def test_a_models_family_goes_by_its_name(model: str, name: str) -> None:
    """Whatever an organisation, a tag, a path or a quantisation adds to it."""
    assert family_of(model) is FAMILIES[name]


@pytest.mark.parametrize(
    "model",
    [
        *("", "sim", "gpt-4o", "llama3.1:8b", "qwen3:8b", "qwen2.5-7b-instruct", "gemma-3-270m"),
        *("granite-3.3-8b-instruct", "granite-40b", "glm-45", "glm-4v-9b", "chatglm3-6b"),
        *("deepseek-v3", "mamba-codestral-7b", "notstarcoder", "mistral-small", "claude-4"),
    ],
)
def test_a_model_that_is_not_known_has_no_family(model: str) -> None:
    """Nothing is guessed: its relatives may have other markers, or none."""
    assert family_of(model) is None


# Markers in text.


def family(setting: str) -> Family:
    """What a setting says, if it is no other way."""
    way = parse_way(setting)
    assert isinstance(way, Family)
    return way


SETTINGS = [f"{name}:spm" for name, one in FAMILIES.items() if one.spm]
SETTINGS += ["<a>{prefix}<b>{suffix}<c>"]
WAYS = [*FAMILIES.values(), *map(family, SETTINGS)]


def pieces(one: Family) -> st.SearchStrategy[str]:
    """Text that is full of markers, of parts of them, and of what a template has in braces."""
    parts = [marker[:at] for marker in one.markers for at in (1, 2, len(marker) - 1)]
    rests = [marker[at:] for marker in one.markers for at in (1, 2)]
    odd = ["{prefix}", "{suffix}", "{files}", "{name}", "\\1", "\n", " ", "é", "+", "<", "|"]
    return st.lists(st.sampled_from([*one.markers, *parts, *rests, *odd])).map("".join)


def markers_in(one: Family, text: str) -> list[str]:
    """All markers, wherever they begin."""
    found = "|".join(map(re.escape, sorted(one.markers, key=len, reverse=True)))
    return [match[1] for match in re.finditer(f"(?=({found}))", text)]


def without(text: str) -> str:
    return text.replace(BREAK, "")


@given(st.data())
def test_markers_in_the_text_are_never_markers(data: st.DataObject) -> None:
    """Whatever is around the gap and in other files, the prompt has the template's markers and no
    others, in the template's order; and without what was put into it, it is the text as it came."""
    one = data.draw(st.sampled_from(WAYS))
    text = pieces(one)
    prefix, suffix = data.draw(text), data.draw(text)
    files = data.draw(st.lists(st.builds(ContextFile, text, text), max_size=2))
    prompt = render(one, prefix, suffix, files)
    harmless = [ContextFile("x", "x") for _ in files]
    assert markers_in(one, prompt) == markers_in(one, render(one, "x", "x", harmless))
    bare = Family("bare", one.template, ("\0",), "", one.first, one.file, one.last)
    assert without(prompt) == render(bare, prefix, suffix, files)


@given(st.text(), st.text(), st.sampled_from(WAYS))
def test_text_without_markers_stays_as_it_is(prefix: str, suffix: str, one: Family) -> None:
    """Nothing is put into it."""
    if markers_in(one, prefix + "\n" + suffix):
        return
    assert prefix in (prompt := render(one, prefix, suffix))
    assert suffix in prompt


def test_every_marker_in_the_text_is_broken_once() -> None:
    """By one character, behind its first, also in the name and the text of a file."""
    family = FAMILIES["starcoder2"]
    prompt = render(family, "<fim_<fim_prefix>", "", [ContextFile("<file_sep>", "<fim_middle>")])
    assert prompt == (
        f"<file_sep><{BREAK}file_sep>\n<{BREAK}fim_middle><file_sep>"
        f"<fim_prefix><fim_<{BREAK}fim_prefix><fim_suffix><fim_middle>"
    )


# Stop strings.


@pytest.mark.parametrize("one", FAMILIES.values(), ids=FAMILIES)
def test_a_family_stops_at_no_more_than_any_server_takes(one: Family) -> None:
    """And at markers of its own that its prompt does not end with by chance."""
    assert 2 <= len(one.stop) <= MAX_STOP
    assert set(one.stop) <= set(one.markers)
    assert len(set(one.markers)) == len(one.markers)
    assert all(one.markers)
    used = set(re.findall(r"<[^<>\s]+>|\[[A-Z]+\]", one.template + one.spm))
    assert used <= set(one.markers)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ((), ["[PREFIX]", "[SUFFIX]", "+++++ ", "</s>"]),
        (("\n",), ["\n", "[PREFIX]", "[SUFFIX]", "+++++ "]),
        (("[SUFFIX]", "\n"), ["[SUFFIX]", "\n", "[PREFIX]", "+++++ "]),
        (("1", "2", "3", "4"), ["1", "2", "3", "4"]),
        (("1", "2", "3", "4", "5"), ["1", "2", "3", "4", "5"]),
    ],
)
def test_a_clients_stop_strings_come_first(asked: tuple[str, ...], sent: list[str]) -> None:
    """All of them, and then as many of the family's as there is room for."""
    assert stop_strings(FAMILIES["codestral"], asked) == sent


# What the settings say.


def test_a_setting_names_a_family_or_says_what_else() -> None:
    assert parse_way("qwen-coder") is FAMILIES["qwen-coder"]
    assert parse_way("starcoder:psm") is FAMILIES["starcoder"]
    assert parse_way("none") is Other.NONE
    assert parse_way("native") is Other.NATIVE


@pytest.mark.parametrize(
    ("template", "prompt", "markers"),
    [
        ("<a>{prefix}<b>{suffix}<c>", "<a>P<b>S<c>", ("<a>", "<b>", "<c>")),
        ("[S]{suffix}[P]{prefix}", "[S]S[P]P", ("[S]", "[P]")),
        ("<s><a> {prefix} <b>{suffix} <a>", "<s><a> P <b>S <a>", ("<s>", "<a>", "<b>")),
        ("{prefix}\nGAP\n{suffix}", "P\nGAP\nS", ("GAP",)),
        ("<a>{x}{prefix}<b>{suffix}", "<a>{x}P<b>S", ("<a>", "<b>")),
    ],
)
def test_a_template_of_ones_own(template: str, prompt: str, markers: tuple[str, ...]) -> None:
    """What it has in brackets, or else between the texts, are its markers."""
    assert render(family(template), "P", "S", FILES) == prompt
    assert family(template).markers == markers


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a family"),
        ("gpt", "neither none, native, a template with {prefix} and {suffix} nor a family"),
        ("<a>{prefix}<b>", "has not {prefix} and {suffix}, once each"),
        ("<a>{prefix}{prefix}{suffix}", "has not {prefix} and {suffix}, once each"),
        ("{prefix} {suffix}", "has no marker"),
    ],
)
def test_a_setting_that_says_nothing_is_told_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        parse_way(text)


def test_the_most_exact_setting_counts() -> None:
    """The whole name before a beginning, a longer beginning before a shorter one; by the client's
    name for it or the server's."""
    none, native, glm = Other.NONE, Other.NATIVE, FAMILIES["glm"]
    ways: dict[str, Way] = {"*": none, "my-*": native, "my-model": glm, "a*b": glm}
    assert way_of(ways, "my-model") is glm
    assert way_of(ways, "fast", "my-model") is glm
    assert way_of(ways, "my-other") is native
    assert way_of(ways, "fast", "my-other") is native
    assert way_of(ways, "axb") is none
    assert way_of({}, "my-model") is None
    assert way_of({"my-model": glm}, "my-model-2") is None


def test_the_error_says_which_setting_would_help() -> None:
    """In llama.cpp's words, which editors know, and with a name of bounded length."""
    error = unsupported("m" * 100, None)
    assert (error.status, error.code) == (501, "fim_not_supported")
    assert error.body()["type"] == "not_supported_error"
    assert error.message.startswith("Infill is not supported by this model: ")
    assert f"--fim '{'m' * 64}=FAMILY'" in error.message
    assert "the settings say so" in unsupported("m", Other.NONE).message
