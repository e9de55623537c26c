"""Fill in the middle by model family: a prompt with the model's own markers, for servers that take
no ``suffix``.

A family is how its models were trained to see a gap: markers, which are single tokens for them,
around the text before it and behind it. The rules:

- **Never a guess.** A model that is in no family has none: whoever asks refuses the request. The
  wrong markers are mere text to a model, and what it answers then looks like a completion.
- **Markers in the text are text.** A model server makes tokens of markers wherever it sees them in
  a prompt. So every marker in what the user wrote (also in other files and their names) gets a
  zero-width space behind its first character: it is no marker any more and reads the same. Nothing
  else is changed. Servers that take the parts apart (llama.cpp's ``/infill``) need none of this.
- **The order is the one that the model was trained for**: prefix, suffix, middle (*psm*), and where
  it was trained for both also suffix, prefix, middle (*spm*), in which a key typed is an append,
  so that the server's cache holds all the rest.

Sources: the models' papers and cards, the templates in Continue and Zed, llama.cpp's
``format_prompt_infill`` for several files. Pure.
"""
# ruff: noqa: RUF001 (DeepSeek's bars are full-width)

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache, partial

from hub.api.requests import ContextFile
from hub.errors import HubError

MAX_STOP = 4
"""Stop strings that a request may have: some model servers refuse more."""

BREAK = "\u200b"
"""What is put into a marker that is text: a zero-width space."""

CURRENT = "filename"
"""What the file with the gap is called beside others, whose names are known. llama.cpp's word."""


@dataclass(frozen=True, slots=True)
class Family:
    """How models see a gap. See the top of this file."""

    name: str
    template: str
    """With ``{prefix}`` and ``{suffix}``, once each, and ``{files}`` if other files have a form."""
    markers: tuple[str, ...]
    """What is more than text for these models and never part of an answer. The first ``MAX_STOP``
    are those that an answer may run into."""
    spm: str = ""
    """The template with the suffix first, where they were trained for that, too."""
    first: str = ""
    """What stands before all other files, if there are any."""
    file: str = ""
    """Each other file, with ``{name}`` and ``{text}``."""
    last: str = ""
    """What stands between the other files and this one."""

    @property
    def stop(self) -> tuple[str, ...]:
        """The stop strings that a model server is sent."""
        return self.markers[:MAX_STOP]


class Other(Enum):
    """What else the settings may say of a model."""

    NONE = "none"
    """It fills in nothing: refuse."""
    NATIVE = "native"
    """Its server takes ``suffix`` itself."""


Way = Family | Other
"""How a gap is filled in."""


_FIM = "{files}<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"
_FIM_SPM = "{files}<fim_prefix><fim_suffix>{suffix}<fim_middle>{prefix}"
_FIM_MARKERS = ("<|endoftext|>", "<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>")
_PIPES = "{files}<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"
_PIPES_MARKERS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
_CHATML = ("<|im_start|>", "<|im_end|>")

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family(
            "qwen-coder",
            _PIPES,
            (
                "<|endoftext|>", *_PIPES_MARKERS, "<|file_sep|>", "<|repo_name|>", "<|fim_pad|>",
                *_CHATML,
            ),
            first="<|repo_name|>myproject\n",
            file="<|file_sep|>{name}\n{text}",
            last=f"<|file_sep|>{CURRENT}\n",
        ),
        Family(
            "starcoder",
            _FIM,
            (*_FIM_MARKERS, "<filename>", "<reponame>", "<gh_stars>"),
            spm=_FIM_SPM,
        ),
        Family(
            "starcoder2",
            _FIM,
            (*_FIM_MARKERS, "<file_sep>", "<repo_name>"),
            file="<file_sep>{name}\n{text}",
            last="<file_sep>",
        ),
        Family("stable-code", _FIM, (*_FIM_MARKERS, "<file_sep>", "<repo_name>", *_CHATML)),
        Family("granite-code", _FIM, (*_FIM_MARKERS, "<filename>", "<reponame>"), spm=_FIM_SPM),
        Family("codeqwen", _FIM, (*_FIM_MARKERS, "<file_sep>", "<reponame>", *_CHATML)),
        Family(
            "santacoder",
            "<fim-prefix>{prefix}<fim-suffix>{suffix}<fim-middle>",
            ("<|endoftext|>", "<fim-prefix>", "<fim-suffix>", "<fim-middle>", "<fim-pad>"),
            spm="<fim-prefix><fim-suffix>{suffix}<fim-middle>{prefix}",
        ),
        Family(  # the spaces are part of it
            "codellama",
            "<PRE> {prefix} <SUF>{suffix} <MID>",
            ("<EOT>", "<PRE>", "<SUF>", "<MID>", "<FILL_ME>", "<s>", "</s>"),
            spm="<PRE> <SUF>{suffix} <MID> {prefix}",
        ),
        Family(  # files as its card has them: as comments of the prefix
            "deepseek-coder",
            "<｜fim▁begin｜>{files}{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>",
            (
                "<｜end▁of▁sentence｜>", "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>",
                "<｜begin▁of▁sentence｜>", "<|EOT|>",
            ),
            file="#{name}\n{text}\n",
        ),
        Family(  # suffix first always
            "codestral",
            "[SUFFIX]{suffix}[PREFIX]{files}{prefix}",
            ("[PREFIX]", "[SUFFIX]", "+++++ ", "</s>", "<s>", "[MIDDLE]", "[INST]", "[/INST]"),
            file="+++++ {name}\n{text}\n\n",
            last=f"+++++ {CURRENT}\n",
        ),
        Family(
            "codegemma",
            _PIPES,
            (
                "<|file_separator|>", *_PIPES_MARKERS, "<eos>", "<bos>", "<start_of_turn>",
                "<end_of_turn>",
            ),
            file="{name}\n{text}<|file_separator|>",
        ),
        Family(
            "glm",
            "<|code_prefix|>{prefix}<|code_suffix|>{suffix}<|code_middle|>",
            (
                "<|endoftext|>", "<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>",
                "<|user|>", "<|assistant|>", "<|system|>", "<|observation|>",
            ),
        ),
        Family(  # suffix first always: Seed-Coder's report, where the format of pretraining is told
            "seed-coder",
            "<[fim-suffix]>{suffix}<[fim-prefix]>{prefix}<[fim-middle]>",
            (
                "<[end▁of▁sentence]>", "<[fim-suffix]>", "<[fim-prefix]>", "<[fim-middle]>",
                "<[begin▁of▁sentence]>", "<[PAD▁TOKEN]>", "<[SEP▁TOKEN]>",
            ),
        ),
        Family(  # IBM's documentation of Granite 4; one file only
            "granite-4",
            "<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>",
            (
                "<|end_of_text|>", *_PIPES_MARKERS, "<|fim_pad|>", "<|start_of_role|>",
                "<|end_of_role|>",
            ),
        ),
    )
}  # fmt: skip

_NAMES: tuple[tuple[str, str], ...] = (
    (r"qwen-?(2\.5|3)-?coder", "qwen-coder"),
    (r"code-?qwen", "codeqwen"),
    (r"starcoder-?2", "starcoder2"),
    (r"starcoder", "starcoder"),
    (r"santacoder", "santacoder"),
    (r"stable-?code", "stable-code"),
    (r"granite-?(3b|8b|20b|34b)?-code", "granite-code"),
    (r"granite-?4(?![0-9])", "granite-4"),
    (r"code-?llama", "codellama"),
    (r"deepseek-coder", "deepseek-coder"),
    (r"(?<!mamba-)codestral", "codestral"),
    (r"codegemma", "codegemma"),
    (r"glm-?4(?![0-9v])", "glm"),
    (r"seed-coder", "seed-coder"),
)
"""What a model's name has in it, at the beginning of a word and without regard to case -> its
family. The first counts."""

_FAMILIAR = [(re.compile(rf"(?<![a-z0-9]){pattern}"), FAMILIES[name]) for pattern, name in _NAMES]


def family_of(model: str) -> Family | None:
    """The family of a model by its name, whatever is around that: an organisation, a tag, the path
    and the quantisation of a file."""
    name = model.lower().replace("_", "-")
    return next((family for pattern, family in _FAMILIAR if pattern.search(name)), None)


def render(family: Family, prefix: str, suffix: str, files: Sequence[ContextFile] = ()) -> str:
    """The prompt whose continuation is what belongs between ``prefix`` and ``suffix``.

    It has the markers of the family's template and no others. ``files`` are left out if the family
    has no form for them.
    """
    plain = _breaker(family.markers)
    others = ""
    if files and family.file:
        each = [_fill(family.file, name=plain(one.name), text=plain(one.text)) for one in files]
        others = "".join([family.first, *each, family.last])
    return _fill(family.template, prefix=plain(prefix), suffix=plain(suffix), files=others)


def stop_strings(family: Family, asked: Sequence[str]) -> list[str]:
    """The stop strings for a model server: all that a client has asked for, and of the family's as
    many as there is room for."""
    more = [one for one in family.stop if one not in asked]
    return [*asked, *more[: max(0, MAX_STOP - len(asked))]]


def way_of(ways: Mapping[str, Way], *names: str) -> Way | None:
    """What the settings say of a model that goes by any of these names, ``None`` if nothing.

    A key with ``*`` at its end stands for all names that begin so; the whole name comes before
    that, and the longest beginning before others.
    """
    for name in names:
        if name in ways:
            return ways[name]
    beginnings = [
        key
        for key in ways
        if key.endswith("*") and any(name.startswith(key[:-1]) for name in names)
    ]
    return ways[max(beginnings, key=len)] if beginnings else None


def parse_way(text: str) -> Way:
    """What a setting says: ``none``, ``native``, a family's name (``:spm`` behind it for the suffix
    first, where that is known) or a template. Raises ``ValueError`` that says what is wrong."""
    if text in (other.value for other in Other):
        return Other(text)
    if "{" in text:
        return _custom(text)
    name, _, order = text.partition(":")
    family = FAMILIES.get(name)
    if family is None:
        raise ValueError(
            f"'{text}' is neither none, native, a template with {{prefix}} and {{suffix}} nor a "
            f"family ({', '.join(FAMILIES)})"
        )
    own = "psm" if family.template.index("{prefix}") < family.template.index("{suffix}") else "spm"
    if order in ("", own):
        return family
    if order == "spm" and family.spm:
        return replace(family, template=family.spm)
    raise ValueError(f"'{name}' is not known to be trained for the order '{order}'")


def unsupported(model: str, way: Way | None) -> HubError:
    """The error for a model that fills in nothing, as far as anybody knows."""
    name = model[:64]
    why = f"hub does not know the markers of '{name}'. --fim '{name}=FAMILY' names them"
    if way is Other.NONE:
        why = f"the settings say so of '{name}' (--fim)"
    return HubError(
        "fim_not_supported", f"Infill is not supported by this model: {why}.", param="model"
    )


# A marker in brackets, as nearly all are.
_BRACKETED = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def _custom(template: str) -> Family:
    """A family that a setting describes. Its markers are what is in brackets there, and whole where
    nothing is."""
    if template.count("{prefix}") != 1 or template.count("{suffix}") != 1:
        raise ValueError(f"'{template}' has not {{prefix}} and {{suffix}}, once each")
    between = [piece.strip() for piece in re.split(r"\{prefix\}|\{suffix\}", template)]
    markers = [
        marker for piece in between if piece for marker in _BRACKETED.findall(piece) or [piece]
    ]
    if not markers:
        raise ValueError(f"'{template}' has no marker")
    return Family("custom", template, tuple(dict.fromkeys(markers)))


_FIELD = re.compile(r"\{(prefix|suffix|files|name|text)\}")


def _fill(template: str, **values: str) -> str:
    """Not ``str.format``: what else is in braces stays, and values are not looked into."""
    return _FIELD.sub(lambda field: values.get(field[1], field[0]), template)


@cache
def _breaker(markers: tuple[str, ...]) -> Callable[[str], str]:
    """Makes mere text of what may hold markers."""
    rests: dict[str, list[str]] = {}
    for marker in markers:
        rests.setdefault(marker[0], []).append(re.escape(marker[1:]))
    # Looking ahead from where each begins, so that those that overlap are all seen.
    pattern = re.compile(
        "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())
    )
    return partial(pattern.sub, rf"\g<0>{BREAK}")
