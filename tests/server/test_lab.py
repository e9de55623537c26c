"""The laboratory: its page, and the settings that it may change or not."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from hub.dispatch.terms import Class
from hub.server.lab import MAX_BATCH, MAX_INTERVAL_MS
from tests.running import Start


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_the_page_is_served_with_a_strict_policy(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    async with client.get(f"{hub.url}/lab") as answer:
        page = await answer.text()
        assert answer.status == 200
        assert answer.content_type == "text/html"
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert page.count("<script") == page.count('<script type="module" src="') == 1
    assert "style=" not in page
    assert "://" not in page
    async with client.get(f"{hub.url}/") as answer:
        assert 'href="lab"' in await answer.text()


async def test_the_settings_are_those_of_chat(start: Start, client: aiohttp.ClientSession) -> None:
    hub = await start(dispatcher_options={"batch_size": 5, "flush_interval": 0.25})
    async with client.get(f"{hub.url}/lab/settings") as answer:
        assert answer.status == 200
        assert await answer.json() == {
            "batch_size": 5,
            "flush_interval_ms": 250,
            "changeable": False,
        }


async def test_what_is_allowed_changes_chat_and_background(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(lab=True)
    before = hub.hub.dispatcher.rules
    change = {"batch_size": 3, "flush_interval_ms": 300}
    async with client.post(f"{hub.url}/lab/settings", json=change) as answer:
        assert answer.status == 200
        assert await answer.json() == {**change, "changeable": True}
    async with client.post(f"{hub.url}/lab/settings", json={"batch_size": 4}) as answer:
        assert (await answer.json())["flush_interval_ms"] == 300
    rules = hub.hub.dispatcher.rules
    for rank in (Class.CHAT, Class.BACKGROUND):
        assert (rules[rank].batch_size, rules[rank].flush_interval) == (4, 0.3)
        assert rules[rank].ceiling == before[rank].ceiling
    assert rules[Class.COMPLETION] == before[Class.COMPLETION]


async def test_it_is_refused_unless_the_server_was_started_to_allow_it(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start()
    before = hub.hub.dispatcher.rules
    async with client.post(f"{hub.url}/lab/settings", json={"batch_size": 3}) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"]) == (403, "lab_not_allowed")
        assert "--lab" in error["message"]
    assert hub.hub.dispatcher.rules == before


async def test_another_sites_page_changes_nothing(
    start: Start, client: aiohttp.ClientSession
) -> None:
    hub = await start(lab=True)
    before = hub.hub.dispatcher.rules
    elsewhere = {"Origin": "http://elsewhere.example"}
    url = f"{hub.url}/lab/settings"
    async with client.post(url, json={"batch_size": 3}, headers=elsewhere) as answer:
        assert answer.status == 403
    assert hub.hub.dispatcher.rules == before


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        ("{", "invalid_json", None),
        ("[]", "invalid_type", None),
        ('{"batch_size": "8"}', "invalid_type", "batch_size"),
        ('{"batch_size": true}', "invalid_type", "batch_size"),
        ('{"batch_size": 2.5}', "invalid_type", "batch_size"),
        ('{"batch_size": 0}', "invalid_value", "batch_size"),
        (f'{{"batch_size": {MAX_BATCH + 1}}}', "invalid_value", "batch_size"),
        ('{"flush_interval_ms": null}', "invalid_type", "flush_interval_ms"),
        ('{"flush_interval_ms": -1}', "invalid_value", "flush_interval_ms"),
        (f'{{"flush_interval_ms": {MAX_INTERVAL_MS + 1}}}', "invalid_value", "flush_interval_ms"),
        ('{"flush_interval": 300}', "unsupported_parameter", "flush_interval"),
        ('{"batch_size": 3, "flush_interval_ms": -1}', "invalid_value", "flush_interval_ms"),
    ],
)
async def test_wrong_values_change_nothing_and_are_named(
    start: Start, client: aiohttp.ClientSession, body: Any, code: str, param: str | None
) -> None:
    hub = await start(lab=True)
    before = hub.hub.dispatcher.rules
    async with client.post(f"{hub.url}/lab/settings", data=body) as answer:
        error = (await answer.json())["error"]
        assert (answer.status, error["code"], error["param"]) == (400, code, param)
    assert hub.hub.dispatcher.rules == before
