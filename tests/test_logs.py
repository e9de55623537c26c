"""What is logged of a response, and in which form: never a word of it."""

import json
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub import logs
from hub.api.chat import parse_chat
from hub.api.completions import parse_completions
from hub.api.prompt import completed
from hub.api.recorder import Recorder
from hub.api.requests import Request
from hub.api.responses import parse_create
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.hub import Hub
from hub.live import Live
from hub.store.memory import MemoryStore
from tests.virtual import virtual

SECRET = "the prompt that nobody may read"


@virtual
async def respond(*listeners: Callable[[Live], None]) -> None:
    """One response, to its end; ``listeners`` are told of it."""
    store = MemoryStore()
    await store.start(0.0)
    hub = Hub(Dispatcher([Upstream(SimEngine(PROFILES["h100-8b"]), 4)]), store)
    hub.on_ended += listeners
    live = hub.submit(parse_create({"input": SECRET, "max_output_tokens": 3, "store": False}))
    hub.join(live)
    await live.until_ended()
    hub.leave(live)


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "hub.responses"]


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_a_response_is_one_line_without_its_text(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Id, class, status, tokens and times at info; at debug its ledger, too."""
    with caplog.at_level(level, "hub.responses"):
        respond(logs.ended)
    lines = lines_of(caplog)
    assert len(lines) == (1 if level == logging.INFO else 2)
    for part in ("id=resp_", "class=chat", "status=incomplete", "tokens_out=3", "ttft_ms="):
        assert part in lines[0]
    assert "error=" not in lines[0]
    assert all(SECRET not in line for line in lines)
    if level == logging.DEBUG:
        assert "first_token" in lines[1]


def test_when_the_end_was_written_is_a_line_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Once, of the first reader who was written the end; not of one who read it elsewhere."""

    def read_twice(live: Live) -> None:
        live.ledger.wrote("first_written")
        logs.written(live)
        logs.written(live)

    with caplog.at_level(logging.DEBUG, "hub.responses"):
        respond(read_twice)
    [line] = lines_of(caplog)
    assert re.fullmatch(r"id=resp_\w+ first_written_ms=[\d.]+ written_ms=[\d.]+", line)
    caplog.clear()
    with caplog.at_level(logging.INFO, "hub.responses"):
        respond(read_twice)
    assert lines_of(caplog) == []


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_texts_are_logged_for_who_asks_for_them(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """At debug, and never at info."""
    with caplog.at_level(level, "hub.responses"):
        respond(logs.texts)
    if level == logging.INFO:
        assert lines_of(caplog) == []
        return
    [line] = lines_of(caplog)
    assert re.fullmatch(rf"id=resp_\w+ input='{SECRET}' output='.+'", line)


@pytest.mark.parametrize(
    ("asked", "begins"),
    [
        (completed(parse_create({"input": "x" * 1000})), "x" * logs.TEXT),
        (completed(parse_create({"input": "a", "instructions": "b"})), "a"),
        (
            parse_chat(
                {
                    "messages": [
                        {"role": "system", "content": "rules"},
                        {
                            "role": "user",
                            "content": [
                                {"type": "text", "text": "a\nb"},
                                {"type": "image_url", "image_url": {"url": "data:,"}},
                                {"type": "text", "text": "c"},
                            ],
                        },
                    ]
                }
            ),
            "a\nbc",
        ),
        (parse_completions({"prompt": "once"})[0], "once"),
    ],
)
def test_what_is_logged_is_how_the_last_message_begins(
    asked: Request, begins: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In every dialect, and in one line."""
    recorder = Recorder(asked, id="resp_1", model="sim", now=0.0)
    live = Live(recorder, (), tenant="", now=float)
    with caplog.at_level(logging.DEBUG, "hub.responses"):
        logs.texts(live)
    assert lines_of(caplog) == [f"id=resp_1 input={begins!r} output=''"]


def record_of(message: str, *arguments: object, **more: Any) -> logging.LogRecord:
    return logging.LogRecord("hub", logging.INFO, __file__, 1, message, arguments, **more)


@given(st.text())
def test_no_name_makes_a_line_of_its_own(name: str) -> None:
    """Nor anything else that a terminal would act on, in either form of the log."""
    record = record_of("model=%s", name, exc_info=None)
    for line in (logs.TextFormatter().format(record), logs.JsonFormatter().format(record)):
        assert line.isprintable()


def test_the_lines_of_an_exception_are_told_from_others() -> None:
    """What a name in it puts on a line of its own is indented, and escaped."""
    try:
        raise ValueError("a\n2026-01-01 INFO hub: forged\x1b[2J")
    except ValueError:
        record = record_of("failed", exc_info=sys.exc_info())
    first, *rest = logs.TextFormatter().format(record).split("\n")
    assert first.endswith("INFO hub: failed")
    assert all(line.startswith("  ") and line.isprintable() for line in rest)
    assert "forged" in rest[-1]


def test_a_name_cannot_pose_as_a_field(caplog: pytest.LogCaptureFixture) -> None:
    """What a client calls a model is quoted unless it is one plain word."""
    for name, said in (
        ("org/model-7b:q4", "model=org/model-7b:q4"),
        ("a status=completed", "model='a status=completed'"),
        ("a\nb", "model='a\\nb'"),
    ):
        asked = parse_create({"input": "x", "model": name})
        live = Live(Recorder(asked, id="r", model=name, now=0.0), (), tenant="", now=float)
        caplog.clear()
        with caplog.at_level(logging.INFO, "hub.responses"):
            logs.ended(live)
        assert f" {said} " in lines_of(caplog)[0]


def test_a_json_line_is_one_object() -> None:
    """Its fields stand beside the message, and an exception is text."""
    record = logging.LogRecord("hub.responses", logging.INFO, __file__, 1, "a %s", ("word",), None)
    record.fields = {"id": "resp_1", "tokens_in": None}
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    told = json.loads(line)
    assert told["message"] == "a word"
    assert told["level"] == "info"
    assert (told["id"], told["tokens_in"]) == ("resp_1", None)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError as error:
        record.exc_info = (ZeroDivisionError, error, error.__traceback__)
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    assert "ZeroDivisionError" in json.loads(line)["exception"]
