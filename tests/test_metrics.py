"""The metrics of ended responses, and the line that the log has of each."""

import logging
from typing import Any

import orjson
import pytest

from hub import logs
from hub.api.completions import parse_completions
from hub.api.prompt import with_messages
from hub.api.recorder import Recorder
from hub.api.requests import Request, Usage
from hub.api.responses import parse_create
from hub.api.transcript import Transcript
from hub.errors import HubError
from hub.live import Live
from hub.metrics import DURATION, FIRST_TOKEN, MAX_MODELS, PER_TOKEN, TOKENS, Metrics

SECRET = "the-prompt-of-somebody"
CHAT = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "hub",
    "gen_ai_request_model": "m",
}


class Clock:
    """Tells what it was set to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def asked(**fields: Any) -> Request:
    return with_messages(parse_create({"input": SECRET, "model": "m", **fields}), ())


def played(
    request: Request, *, error: HubError | None = None, cancelled: bool = False, tokens: int = 5
) -> Live:
    """A response that waited for 0.03 s, had its first token at 0.05 s, four more by 0.45 s, and
    its end at 0.5 s."""
    clock = Clock()
    recorder = Recorder(request, id="resp_1", model=request.model or "m", now=0.0)
    recorder.created()
    live = Live(
        recorder,
        (),
        tenant="ada",
        now=lambda: 1.0,
        transcript=Transcript(recorder),
        clock=clock,
    )
    live.ledger.mark("queued")
    clock.now = 0.03
    live.ledger.sent("gpu1", 2, "idle")
    live.started()
    clock.now = 0.05
    live.ledger.mark("first_token")
    live.sink.text("said")
    clock.now = 0.45
    if error is None and not cancelled:
        live.ledger.mark("last_token")
        live.sink.finish("stop")
        live.sink.usage(Usage(12, tokens))
    clock.now = 0.5
    if cancelled:
        live.cancelled()
    elif error is not None:
        live.failed(error)
    else:
        live.completed()
    return live


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def metrics_of(*lives: Live, knows: bool = True) -> Metrics:
    metrics = Metrics(lambda model: knows)
    for live in lives:
        metrics.ended(live)
    return metrics


def test_the_buckets_are_those_of_the_conventions() -> None:
    """OpenTelemetry's semantic conventions for GenAI."""
    assert DURATION[:3] == (0.01, 0.02, 0.04)
    assert (len(DURATION), DURATION[-1]) == (14, 81.92)
    assert (FIRST_TOKEN[0], FIRST_TOKEN[-1]) == (0.001, 10.0)
    assert (len(FIRST_TOKEN), len(PER_TOKEN)) == (16, 13)
    assert (TOKENS[:3], TOKENS[-1]) == ((1, 4, 16), 67108864)


def test_a_response_is_noted_with_all_its_times() -> None:
    metrics = metrics_of(played(asked()))
    server, client = "gen_ai_server_", "gen_ai_client_"
    well = {**CHAT, "error_type": ""}
    for name, labels, seconds in (
        (f"{server}time_to_first_token_seconds", CHAT, 0.05),
        (f"{server}time_per_output_token_seconds", CHAT, 0.1),
        (f"{server}request_duration_seconds", well, 0.5),
        (f"{client}operation_duration_seconds", well, 0.47),
        (f"{client}operation_time_to_first_chunk_seconds", CHAT, 0.02),
    ):
        assert value(metrics, f"{name}_sum", **labels) == pytest.approx(seconds)
        assert value(metrics, f"{name}_count", **labels) == 1
    first = f"{server}time_to_first_token_seconds_bucket"
    assert value(metrics, first, **CHAT, le="0.04") == 0
    assert value(metrics, first, **CHAT, le="0.06") == 1
    for kind, count in (("input", 12), ("output", 5)):
        usage = f"{client}token_usage_sum"
        assert value(metrics, usage, **CHAT, gen_ai_token_type=kind) == count


def test_a_failure_has_a_duration_only() -> None:
    metrics = metrics_of(
        played(asked(), error=HubError("upstream_timeout", "It is silent.")),
        played(asked(), cancelled=True),
    )
    for error in ("upstream_timeout", "cancelled"):
        labels = {**CHAT, "error_type": error}
        assert value(metrics, "gen_ai_server_request_duration_seconds_count", **labels) == 1
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count", **CHAT) is None


def test_one_token_takes_no_time_per_token() -> None:
    """There is none after the first."""
    metrics = metrics_of(played(asked(), tokens=1))
    assert value(metrics, "gen_ai_server_time_per_output_token_seconds_count", **CHAT) is None


def test_a_raw_prompt_is_another_operation() -> None:
    (request,) = parse_completions({"model": "m", "prompt": SECRET})
    metrics = metrics_of(played(request))
    labels = {**CHAT, "gen_ai_operation_name": "text_completion"}
    assert value(metrics, "gen_ai_server_time_to_first_token_seconds_count", **labels) == 1


def test_a_warm_up_is_no_response_of_a_model() -> None:
    recorder = Recorder(asked(generate=False), id="resp_1", model="m", now=0.0)
    recorder.created()
    live = Live(recorder, (), tenant="", now=lambda: 1.0)
    live.started()
    live.completed()
    assert not any(metric.samples for metric in metrics_of(live).registry.collect())


def test_models_that_nobody_lists_share_a_label() -> None:
    """A client may ask for any name, and a server may list any number."""
    metrics = metrics_of(played(asked(model="made-up")), knows=False)
    count = "gen_ai_server_time_to_first_token_seconds_count"
    other = {**CHAT, "gen_ai_request_model": "other"}
    assert value(metrics, count, **other) == 1
    metrics = metrics_of(*[played(asked(model=f"m{n}")) for n in range(MAX_MODELS + 5)])
    assert value(metrics, count, **other) == 5
    assert value(metrics, count, **{**CHAT, "gen_ai_request_model": "m0"}) == 1


def test_what_it_tells_is_kept_with_it() -> None:
    """The key ``hub`` is in the transcript: played to another recorder, it writes the same log."""
    live = played(asked())
    assert live.transcript is not None
    taken = live.transcript.take()
    assert taken is not None
    again = Recorder(live.recorder.request, id="resp_1", model="m", now=0.0)
    again.created()
    other = Transcript(again)
    other.play(taken[2])
    assert again.snapshot()["hub"]["ledger_ms"]["first_token"] == 50.0
    logs_of = [[event.wire for event in one.log.read(-1)] for one in (live.recorder, again)]
    assert logs_of[0] == logs_of[1]


def test_a_response_that_runs_tells_nothing_yet() -> None:
    recorder = Recorder(asked(), id="resp_1", model="m", now=0.0)
    assert "hub" not in recorder.snapshot()


def test_a_line_per_response(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hub.responses")
    logs.ended(played(asked()))
    logs.ended(played(asked(), error=HubError("upstream_timeout", "It is silent.")))
    assert caplog.messages == [
        "id=resp_1 class=chat model=m upstream=gpu1 status=completed tokens_in=12 tokens_out=5 "
        "queue_ms=30.0 ttft_ms=50.0 total_ms=500.0",
        "id=resp_1 class=chat model=m upstream=gpu1 status=failed error=upstream_timeout "
        "queue_ms=30.0 ttft_ms=50.0 total_ms=500.0",
    ]


def test_the_ledger_is_logged_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "hub.responses")
    logs.ended(played(asked()))
    assert len(caplog.messages) == 2
    assert "'first_token': 50.0" in caplog.messages[1]
    assert SECRET not in caplog.text
    assert "ada" not in caplog.text


def test_nothing_is_made_for_a_log_that_is_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "hub.responses")
    logs.ended(played(asked()))
    assert not caplog.messages


def test_a_line_is_json(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "hub.responses")
    logs.ended(played(asked()))
    line = orjson.loads(logs.JsonFormatter().format(caplog.records[0]))
    assert (line["level"], line["logger"]) == ("info", "hub.responses")
    assert (line["id"], line["status"], line["ttft_ms"]) == ("resp_1", "completed", 50.0)
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("hub.responses").exception("it failed")
    text = logs.JsonFormatter().format(caplog.records[1])
    assert "\n" not in text
    assert "ValueError: a\nb" in orjson.loads(text)["exception"]
