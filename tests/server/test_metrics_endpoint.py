"""``/metrics``, ``Server-Timing`` and the key ``hub``, over a socket."""

import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from hub.engines.sim import SimEngine
from hub.engines.sim_server import create_app
from hub.engines.upstream import UpstreamEngine
from hub.ledger import MARKS
from hub.metrics import FIRST_TOKEN
from hub.server.courier import Statistics as Webhooks
from tests.running import Running, Start

FIRST = "gen_ai_server_time_to_first_token_seconds"


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def model_server() -> AsyncIterator[str]:
    """A model server of its own, which is reached over a socket."""
    engine = SimEngine(speed=10.0)
    runner = web.AppRunner(create_app(engine))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()
    await engine.close()


async def scrape(client: aiohttp.ClientSession, hub: Running) -> list[tuple[str, Any, float]]:
    async with client.get(f"{hub.url}/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        text = await answer.text()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def value(samples: list[tuple[str, Any, float]], name: str, **labels: str) -> float:
    (found,) = [
        value for one, has, value in samples if one == name and labels.items() <= has.items()
    ]
    return found


def durations(header: str) -> dict[str, float]:
    """The metrics of a ``Server-Timing`` header, in ms."""
    metrics = (one.split(";dur=") for one in header.split(", "))
    return {name: float(ms) for name, ms in metrics}


async def test_a_response_is_counted_in_the_right_bucket(
    start: Start, client: aiohttp.ClientSession
) -> None:
    """By the same time to its first token that its own object tells."""
    hub = await start(speed=10.0)
    async with client.post(f"{hub.url}/v1/responses", json={"input": "Hello"}) as answer:
        told = (await answer.json())["hub"]
    samples = await scrape(client, hub)
    seconds = told["ledger_ms"]["first_token"] / 1000
    assert value(samples, f"{FIRST}_sum") == pytest.approx(seconds, abs=1e-6)
    for bound in FIRST_TOKEN:
        assert value(samples, f"{FIRST}_bucket", le=str(bound)) == (seconds <= bound)
    duration = "gen_ai_server_request_duration_seconds_count"
    assert value(samples, duration, gen_ai_request_model="sim", error_type="") == 1
    assert value(samples, "hub_responses_total", status="completed") == 1
    assert value(samples, "hub_queue_wait_seconds_count", **{"class": "chat"}) == 1
    assert value(samples, "hub_batch_size_bucket", le="1.0") == 1
    assert value(samples, "hub_upstream_ended_total", outcome="ok") == 1


async def test_an_idle_server_tells_of_itself(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    samples = await scrape(client, hub)
    assert value(samples, "hub_upstream_window_requests") == 16
    assert value(samples, "hub_nodes") == 1
    assert value(samples, "hub_upstream_state", state="closed") == 1
    assert value(samples, "hub_upstream_state", state="open") == 0
    assert value(samples, "hub_connections") == 0
    async with client.ws_connect(hub.ws) as ws:
        for lane in "abc":
            create = {"type": "response.create", "stream_id": lane, "model": "sim+hang"}
            await ws.send_json({**create, "input": "Hello"})
        for _ in range(6):
            await ws.receive()
        samples = await scrape(client, hub)
        assert value(samples, "hub_connections") == 1
        assert value(samples, "hub_lanes_active") == 3
        assert value(samples, "hub_responses_live") == 3
        assert value(samples, "hub_upstream_requests") == 3


async def test_no_label_tells_who_asked_what(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start()
    headers = {"Authorization": "Bearer secret-key"}
    for model in ("", "secret-model"):
        request = {"input": "secret-prompt", "model": model, "user": "secret-user"}
        async with client.post(f"{hub.url}/v1/responses", json=request, headers=headers) as answer:
            await answer.read()
    async with client.get(f"{hub.url}/metrics") as answer:
        assert "secret" not in await answer.text()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("responses", {"input": "Hello"}),
        ("chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("completions", {"prompt": ["Hello", "Goodbye"], "max_tokens": 9}),
    ],
)
async def test_the_time_of_an_answer_adds_up(
    start: Start, client: aiohttp.ClientSession, path: str, body: dict[str, Any]
) -> None:
    hub = await start()
    async with client.post(f"{hub.url}/v1/{path}", json=body) as answer:
        assert answer.status == 200
        times = durations(answer.headers["Server-Timing"])
    assert set(times) == {"queue", "upstream", "ttft", "total"}
    assert times["queue"] + times["upstream"] == pytest.approx(times["total"], abs=0.002)
    assert times["queue"] < times["ttft"] < times["total"]


async def test_a_stream_has_no_such_header(start: Start, client: aiohttp.ClientSession) -> None:
    """It is sent before there is a time to tell."""
    hub = await start()
    request = {"input": "Hello", "stream": True}
    async with client.post(f"{hub.url}/v1/responses", json=request) as answer:
        assert "Server-Timing" not in answer.headers
        events = (await answer.text()).split("\n\n")
    last = json.loads(next(e for e in events if "response.completed" in e).split("data: ")[1])
    assert last["response"]["hub"]["attempts"] == 1
    assert all('"hub":' not in event for event in events if "response.completed" not in event)


async def test_every_hop_of_a_model_server(
    start: Start, client: aiohttp.ClientSession, model_server: str
) -> None:
    """Over a socket there are all of them, in their order; what is kept is what was told."""
    hub = await start(UpstreamEngine(model_server), hub_options={"default_model": "sim"})
    async with client.post(f"{hub.url}/v1/responses", json={"input": "Hello"}) as answer:
        response = await answer.json()
        total = durations(answer.headers["Server-Timing"])["total"]
    told = response["hub"]
    ledger = told.pop("ledger_ms")
    engine = told.pop("engine_ms")
    assert told == {
        "class": "chat",
        "upstream": "upstream",
        "batch_size": 1,
        "reason": "idle",
        "attempts": 1,
    }
    async with client.get(f"{hub.url}/v1/responses/{response['id']}") as answer:
        kept = (await answer.json())["hub"]["ledger_ms"]
    assert kept == ledger
    # It is an answer in one piece: nothing was written before it had ended.
    assert set(kept) == {*MARKS} - {"first_written", "written"}
    times = [*kept.values()]
    assert times == sorted(times)
    assert times[-1] == pytest.approx(total, abs=0.002)
    assert 0 < engine["first_token"] < kept["first_token"] - kept["dispatched"]
    assert engine["first_token"] < engine["last_token"]


@pytest.mark.parametrize("model", ["in hub's process", "behind a socket"])
async def test_a_stream_tells_when_its_first_text_was_written(
    start: Start,
    client: aiohttp.ClientSession,
    model_server: str,
    model: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Over SSE and on a lane, once there was a first token; the end, which its object cannot know,
    in the log."""
    if model == "behind a socket":
        hub = await start(UpstreamEngine(model_server), hub_options={"default_model": "sim"})
    else:
        hub = await start()
    request = {"input": "Hello", "max_output_tokens": 20}
    told = []
    with caplog.at_level("DEBUG", "hub.responses"):
        async with client.post(
            f"{hub.url}/v1/responses", json={**request, "stream": True}
        ) as answer:
            events = (await answer.text()).split("\n\n")
        last = next(e for e in events if "response.incomplete" in e)
        told.append(json.loads(last.split("data: ")[1])["response"])
        async with client.ws_connect(hub.ws) as ws:
            await ws.send_json({"type": "response.create", **request})
            while (event := await ws.receive_json())["type"] != "response.incomplete":
                pass
            told.append(event["response"])
    for response in told:
        ledger = response["hub"]["ledger_ms"]
        assert ledger["first_token"] <= ledger["first_written"] <= ledger["ended"]
        assert "written" not in ledger
        assert [*ledger.values()] == sorted(ledger.values())
        [line] = [
            one.getMessage() for one in caplog.records if f"id={response['id']} first" in one.msg
        ]
        figures = dict(one.split("=") for one in line.split())
        assert float(figures["first_written_ms"]) == ledger["first_written"]
        assert float(figures["written_ms"]) >= ledger["ended"]


async def test_webhooks_are_counted_by_endpoint(
    start: Start, client: aiohttp.ClientSession
) -> None:
    """By the number of an endpoint: its URL may hold a secret."""
    counts = Webhooks(
        held={"0": 3, "none": 1},
        tried={"0": 9, "none": 2},
        delivered={"0": 4, "none": 0},
        failed={"0": 5, "none": 2},
        given_up={"0": 1, "none": 0},
    )
    hub = await start(webhooks=lambda: counts)
    samples = await scrape(client, hub)
    assert value(samples, "hub_webhooks_due", endpoint="0") == 3
    assert value(samples, "hub_webhooks_due", endpoint="none") == 1
    assert value(samples, "hub_webhook_tries_total", endpoint="0") == 9
    assert value(samples, "hub_webhook_failures_total", endpoint="none") == 2
    assert value(samples, "hub_webhooks_delivered_total", endpoint="0") == 4
    assert value(samples, "hub_webhooks_given_up_total", endpoint="0") == 1
    async with client.get(f"{hub.url}/health") as answer:
        assert (await answer.json())["webhooks"] == asdict(counts)


async def test_background_work_has_a_ledger_of_its_class(
    start: Start, client: aiohttp.ClientSession
) -> None:
    """The same in its stream, and in what is kept."""
    hub = await start()
    request = {"input": "Hello", "background": True}
    async with client.post(f"{hub.url}/v1/responses", json=request) as answer:
        assert "Server-Timing" not in answer.headers
        url = f"{hub.url}/v1/responses/{(await answer.json())['id']}"
    async with client.get(url, params={"stream": "true"}) as answer:
        events = (await answer.text()).split("\n\n")
    last = json.loads(next(e for e in events if "response.completed" in e).split("data: ")[1])
    told = last["response"]["hub"]
    assert (told["class"], told["attempts"]) == ("background", 1)
    async with client.get(url) as answer:
        assert (await answer.json())["hub"] == told
    samples = await scrape(client, hub)
    assert value(samples, "hub_responses_total", status="completed") == 1
