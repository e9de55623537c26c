"""What is logged of a response, and in which form: never a word of it."""

import json
import logging

import pytest

from hub import logs
from hub.api.responses import parse_create
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.hub import Hub
from hub.store.memory import MemoryStore
from tests.virtual import virtual

SECRET = "the prompt that nobody may read"


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
def test_a_response_is_one_line_without_its_text(
    level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Id, class, status, tokens and times at info; at debug its ledger, too."""

    @virtual
    async def respond() -> None:
        store = MemoryStore()
        await store.start(0.0)
        hub = Hub(Dispatcher([Upstream(SimEngine(PROFILES["h100-8b"]), 4)]), store)
        hub.on_ended.append(logs.ended)
        live = hub.submit(parse_create({"input": SECRET, "max_output_tokens": 3, "store": False}))
        hub.join(live)
        await live.until_ended()
        hub.leave(live)

    with caplog.at_level(level, "hub.responses"):
        respond()
    lines = [one.getMessage() for one in caplog.records if one.name == "hub.responses"]
    assert len(lines) == (1 if level == logging.INFO else 2)
    for part in ("id=resp_", "class=chat", "status=incomplete", "tokens_out=3", "ttft_ms="):
        assert part in lines[0]
    assert "error=" not in lines[0]
    assert all("prompt" not in line for line in lines)
    if level == logging.DEBUG:
        assert "first_token" in lines[1]


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
