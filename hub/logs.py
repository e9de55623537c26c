"""The log: one line per response, for people or for programs. No text of a prompt or an answer."""

import logging
from typing import Any

import orjson

from hub.live import Live

HUMAN = "%(asctime)s %(levelname)s %(name)s: %(message)s"

logger = logging.getLogger("hub.responses")


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ``time``, ``level``, ``logger`` and ``message``, the fields that
    the record's ``fields`` hold, and ``exception`` if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def start(level: str, form: str) -> None:
    """Log from ``level`` on, in the form ``text`` or ``json``."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(HUMAN))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def ended(live: Live) -> None:
    """Log a response that has ended: a line at info, its ledger at debug."""
    if not logger.isEnabledFor(logging.INFO):
        return
    fields = fields_of(live)
    words = (f"{name}={value}" for name, value in fields.items() if value is not None)
    logger.info(" ".join(words), extra={"fields": fields})
    if logger.isEnabledFor(logging.DEBUG):
        ledger = live.ledger.told(live.terms.rank.label)
        logger.debug("id=%s ledger=%s", live.id, ledger, extra={"fields": {"hub": ledger}})


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


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
