"""The log: one line per response, for people or for programs. No text of a prompt or an answer,
but for who asks for it (``texts``), and no key.

Names that others choose, such as a model's, are in it. So whatever is not printable is escaped: no
name begins a line of its own, and none moves a terminal's cursor.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

import orjson

from hub.api.requests import Json
from hub.live import Live

HUMAN = "%(asctime)s %(levelname)s %(name)s: %(message)s"

TEXT = 200
"""Characters of a prompt or an answer that ``texts`` logs."""

logger = logging.getLogger("hub.responses")


def printable(text: str) -> str:
    """The text, with what is not printable escaped as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class TextFormatter(logging.Formatter):
    """One line per record. The lines of an exception follow it, indented."""

    def __init__(self) -> None:
        super().__init__(HUMAN)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, info: Any) -> str:
        lines = super().formatException(info).split("\n")
        return "\n".join(f"  {printable(line)}" for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger`` and ``message``, the fields that
    the record's ``fields`` hold, and ``exception`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": printable(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def start(level: str, form: str) -> None:
    """Log from ``level`` on, in the form ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])


def ended(live: Live) -> None:
    """Log a response that has ended: a line at info, its ledger at debug."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = fields_of(live)
    logger.info(_words(fields), extra={"fields": fields})
    if logger.isEnabledFor(logging.DEBUG):
        ledger = live.ledger.told(live.terms.rank.label)
        logger.debug("id=%s ledger=%s", live.id, ledger, extra={"fields": {"hub": ledger}})


def written(live: Live) -> None:
    """A reader was written the end of a response: note it, and log at debug when it was. The first
    reader counts."""
    ledger = live.ledger
    if ledger.wrote("written") and logger.isEnabledFor(logging.DEBUG):
        times = ledger.milliseconds()
        fields = {
            "id": live.id,
            "first_written_ms": times.get("first_written"),
            "written_ms": times["written"],
        }
        logger.debug(_words(fields), extra={"fields": fields})


def texts(live: Live) -> None:
    """Log at debug how the last message that a response answers begins, and how the response does.
    Only for who wants that."""
    if logger.isEnabledFor(logging.DEBUG):
        generation = live.generation
        asked = [{"content": generation.prompt}] if generation.prompt else generation.messages[-1:]
        fields = {"id": live.id, "input": _text(asked), "output": _text(live.recorder.output)}
        message = "id=%s input=%r output=%r"
        logger.debug(message, *fields.values(), extra={"fields": fields})


def fields_of(live: Live) -> dict[str, Any]:
    """What the line says; ``None`` where nothing is known."""
    recorder, ledger = live.recorder, live.ledger
    usage = recorder.reported_usage
    return {
        "id": live.id,
        "class": live.terms.rank.label,
        "model": recorder.model[:64],
        "upstream": ledger.upstream,
        "status": recorder.status,
        "error": None if recorder.error is None else recorder.error.code,
        "tokens_in": None if usage is None else usage.input_tokens,
        "tokens_out": None if usage is None else usage.output_tokens,
        "queue_ms": _ms(ledger.between("received", "dispatched")),
        "ttft_ms": _ms(ledger.between("received", "first_token")),
        "total_ms": _ms(ledger.between("received", "ended")),
    }


def _text(messages: Sequence[Json]) -> str:
    """How the text of messages, or of items, begins."""
    text = ""
    for message in messages:
        content = message.get("content") or ()
        parts = [{"text": content}] if isinstance(content, str) else content
        text += "".join(part.get("text") or part.get("refusal") or "" for part in parts)
    return text[:TEXT]


_PLAIN = re.compile(r"[\w.:/@+-]*")


def _words(fields: dict[str, Any]) -> str:
    return " ".join(
        f"{name}={_quoted(value)}" for name, value in fields.items() if value is not None
    )


def _quoted(value: Any) -> Any:
    """A name that looks like more than one word is quoted, so that it cannot pose as a field."""
    plain = not isinstance(value, str) or _PLAIN.fullmatch(value)
    return value if plain else repr(value)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
