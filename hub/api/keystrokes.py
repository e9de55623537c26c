"""The messages of completion lanes: what is asked at a key, and at the next one. Pure.

    {"type": "completion.create", "stream_id", "version", "prefix", "suffix"?, "model"?,
     "max_tokens"?, "stop"?, "files"?: [{"name", "text"}], "kind"?: a ``Kind``,
     "single_line"?, "indent"?, "budget_ms"?, and parameters such as "temperature"}
    {"type": "completion.type", "stream_id", "version", "insert", "delete"?}
    {"type": "completion.accepted", "stream_id", "version", "characters"}

``prefix`` is the text before the cursor and ``suffix`` what is behind it; without one there is no
gap to be filled in, and the model goes on from the prefix. ``completion.type`` says what has become
of the prefix since the last version: ``delete`` characters (Unicode code points) were taken from
its end, then ``insert`` was added. The rest is as it was, and somebody waits for the answer,
whatever the ``kind`` was before.

``single_line``, ``indent`` (characters) and ``budget_ms`` are the rules of ``early_stop``.
"""

from dataclasses import dataclass, replace
from typing import cast

from hub.api.chat import parameters, stop_strings
from hub.api.early_stop import EarlyStop
from hub.api.infill import Kind
from hub.api.requests import ContextFile, Fields, Generation, Json, Request, check_depth
from hub.errors import HubError

MAX_VERSION = 2**53 - 1
"""The largest integer that every JSON reader takes for itself."""

MAX_PREFIX = 2**20
"""Characters before the cursor: many messages may add to what one could say."""

MAX_INSERT = 2**16
"""Characters of one ``completion.type``. Whoever pastes more sends the whole text."""

MAX_FILES = 64

MAX_TOKENS = 128
"""Tokens of a completion if the client does not say."""

KINDS = ("foreground", "speculative", "warmup")


@dataclass(frozen=True, slots=True)
class Asked:
    """One version of a lane."""

    version: int
    request: Request
    kind: Kind
    max_tokens: int
    """The most tokens of a version that somebody waits for; a warm-up itself has none."""

    @property
    def prefix(self) -> str:
        """The text before the cursor."""
        return self.request.generation.prompt or ""

    @property
    def characters(self) -> int:
        """How many it remembers."""
        generation = self.request.generation
        files = sum(len(one.text) for one in generation.files)
        return len(self.prefix) + len(generation.suffix or "") + files


def version_of(body: Json) -> int:
    """The version of a message. Raises ``HubError``."""
    fields = Fields(body)
    version = fields.integer("version", 1, MAX_VERSION)
    if version is None:
        raise fields.missing("version")
    return version


def accepted_of(body: Json) -> int:
    """How many characters of a completion the user took. Raises ``HubError``."""
    fields = Fields(body)
    characters = fields.integer("characters", 0, MAX_VERSION)
    if characters is None:
        raise fields.missing("characters")
    return characters


def parse_asked(body: Json) -> Asked:
    """What a ``completion.create`` asks for. Raises ``HubError``."""
    check_depth(body)
    fields = Fields(body)
    version = version_of(body)
    prefix = fields.text("prefix")
    if prefix is None:
        raise fields.missing("prefix")
    _check_length(fields, "prefix", prefix)
    suffix = fields.text("suffix")
    kind = cast(Kind, fields.choice("kind", KINDS) or "foreground")
    max_tokens = fields.integer("max_tokens", 0)
    asked_by = "" if max_tokens is None else "max_tokens"
    if max_tokens is None:
        max_tokens = MAX_TOKENS
    model = fields.text("model") or ""
    budget = fields.integer("budget_ms", 0)
    request = Request(
        model=model,
        generation=Generation(
            model=model,
            messages=(),
            prompt=prefix,
            suffix=suffix,
            files=_files(fields),
            max_tokens=0 if kind == "warmup" else max_tokens,
            stop=stop_strings(fields),
            extra=parameters(fields),
        ),
        stream=True,
        store=False,
        asked_by=asked_by,
        ahead=kind != "foreground",
        early_stop=EarlyStop(
            single_line=fields.flag("single_line", False),
            indent=fields.integer("indent", 0) or None,
            budget=budget / 1000 if budget else None,
            suffix=suffix or "",
        ),
    )
    return Asked(version, request, kind, max_tokens)


def typed(before: Asked | None, body: Json) -> Asked:
    """What a ``completion.type`` asks for on a lane whose last version was ``before``.

    Raises ``HubError``; the client then has to send the whole text again.
    """
    version = version_of(body)
    if before is None:
        raise HubError(
            "invalid_value",
            "'stream_id' names a lane whose text is not known: send 'completion.create'.",
            param="stream_id",
        )
    prompt = apply_type(before.prefix, body)
    generation = replace(before.request.generation, prompt=prompt, max_tokens=before.max_tokens)
    request = replace(before.request, generation=generation, ahead=False)
    return Asked(version, request, "foreground", before.max_tokens)


def apply_type(prefix: str, body: Json) -> str:
    """The text before the cursor after a ``completion.type``. Raises ``HubError``."""
    fields = Fields(body)
    insert = fields.text("insert")
    if insert is None:
        raise fields.missing("insert")
    if len(insert) > MAX_INSERT:
        why = f"has at most {MAX_INSERT} characters, but it has {len(insert)}"
        raise fields.wrong_value("insert", why)
    delete = fields.integer("delete", 0) or 0
    if delete > len(prefix):
        why = f"is {delete}, but there are {len(prefix)} characters before the cursor"
        raise fields.wrong_value("delete", why)
    prefix = prefix[: len(prefix) - delete] + insert
    _check_length(fields, "insert", prefix)
    return prefix


def _check_length(fields: Fields, name: str, prefix: str) -> None:
    if len(prefix) > MAX_PREFIX:
        why = f"makes {len(prefix)} characters before the cursor; {MAX_PREFIX} are the most"
        raise fields.wrong_value(name, why)


def _files(fields: Fields) -> list[ContextFile]:
    files = []
    for index, one in enumerate(fields.objects("files")):
        inner = Fields(one, f"files[{index}].")
        name, text = inner.text("name"), inner.text("text")
        if name is None:
            raise inner.missing("name")
        if text is None:
            raise inner.missing("text")
        files.append(ContextFile(name, text))
    if len(files) > MAX_FILES:
        raise fields.wrong_value("files", f"holds {len(files)} files; {MAX_FILES} are the most")
    return files
