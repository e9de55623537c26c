"""What ``hub serve`` says of itself: at its start, in its log, and when it is asked."""

import aiohttp
import pytest

from tests.e2e.process import command

PROMPT = "the prompt that nobody may read"
SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


async def ask(url: str) -> dict[str, dict[str, int]]:
    """One response; then what hub says of its webhooks."""
    async with aiohttp.ClientSession(url) as session:
        request = {"input": PROMPT, "max_output_tokens": 3}
        async with session.post("/v1/responses", json=request) as answer:
            assert answer.status == 200
        async with session.get("/health") as answer:
            webhooks: dict[str, dict[str, int]] = (await answer.json())["webhooks"]
            return webhooks


async def test_at_its_start_it_says_what_it_serves_where_on_which_engine() -> None:
    async with command("serve", "--sim", "--port", "0") as hub:
        assert await ask(hub.url) == {
            "held": {},
            "tried": {},
            "delivered": {},
            "failed": {},
            "given_up": {},
        }
    keys, engine, store, last = hub.said
    assert engine.startswith("Engine: simulated, h100-8b")
    assert store == "Store: memory.\n"
    assert keys.startswith("Keys: none")
    assert f"serves {hub.url} (page), {hub.url}/v1 (API)" in last


@pytest.mark.parametrize("asked", [True, False])
async def test_the_log_has_texts_only_if_it_is_asked_for_them(
    asked: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the level is."""
    wanted = ["--log-prompts"] if asked else []
    webhook = f"http://127.0.0.1:1/hook#{SECRET}"
    async with command(
        *("serve", "--sim", "--sim-speed", "100", "--port", "0", "--log-level", "debug"),
        *("--webhook", webhook, "--webhook-private", *wanted),
    ) as hub:
        assert (await ask(hub.url))["held"] == {"0": 0}
        await hub.stop()
    log = capfd.readouterr().err
    assert "status=incomplete" in log
    assert ("first_token" in log, SECRET in log) == (True, False)
    assert (PROMPT in log) == asked
