"""Keys and prompts stay where they belong: whatever is asked and whatever a model server says, no
client, no log line and no metric repeats them."""

import logging
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from websockets.asyncio.client import connect

from hub import logs
from hub.engines.upstream import UpstreamEngine
from hub.key_file import Watched, save
from hub.keys import RANDOM_BYTES, Keyring, new_key
from tests.engines.scripted import SSE, Peer, Server, answer, event, serve
from tests.running import Running, Start

KEY, _key = new_key(b"\x07" * RANDOM_BYTES, tenant="ada", now=0, admin=True)
UPSTREAM_KEY = "a/key+of:no.known~form"
PROMPT = "the prompt that nobody may read"
ANSWER = "the answer that nobody may read"
SAID = {"Authorization": f"Bearer {KEY}", "Cookie": "session=crumbs", "X-Api-Key": "an-own-key"}
"""What a client sends along; a part of it must not get any further."""
SECRETS = (KEY, KEY.rpartition("_")[2], UPSTREAM_KEY, "crumbs", "an-own-key")

ENDPOINTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/responses", {"input": PROMPT}),
    ("/v1/responses", {"input": PROMPT, "stream": True}),
    ("/v1/responses", {"input": PROMPT, "background": True, "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "stream": True}),
    ("/v1/completions", {"prompt": PROMPT}),
    ("/v1/completions", {"prompt": PROMPT, "stream": True}),
    ("/v1/completions", {"prompt": PROMPT, "suffix": "", "stream": True}),
    ("/v1/fim/completions", {"prompt": PROMPT, "suffix": ""}),
    ("/infill", {"input_prefix": PROMPT, "input_suffix": ""}),
    ("/v1/responses/input_tokens", {"input": PROMPT}),
    ("/v1/responses/compact", {"input": PROMPT}),
)


class Said:
    """Everything that hub says: to clients, and to whoever runs it."""

    def __init__(self, hub: Running) -> None:
        self._hub = hub
        self.bodies: list[str] = []

    async def ask(self, *, background: bool = True) -> None:
        """Use every endpoint, then ask what hub says of itself."""
        async with aiohttp.ClientSession(headers=SAID) as session:
            for path, body in ENDPOINTS:
                if background or "background" not in body:
                    asked = {"model": "m", **body}
                    await self._read(session.post(self._hub.url + path, json=asked))
            for path in ("/v1/models", "/v1/models/none", "/health", "/metrics", "/nowhere"):
                await self._read(session.get(self._hub.url + path))
            wrong = {"Authorization": f"Bearer {KEY}x"}
            await self._read(session.post(f"{self._hub.url}/v1/tickets", headers=wrong))
        await self._on_lanes()

    async def _read(self, asked: Any) -> None:
        async with asked as answer:
            self.bodies.append(f"{answer.headers}{await answer.text()}")

    async def _on_lanes(self) -> None:
        async with connect(self._hub.ws, additional_headers=SAID) as ws:
            create = {"type": "response.create", "model": "m", "input": PROMPT, "stream_id": "a"}
            await ws.send(orjson.dumps(create).decode())
            await ws.send('{"type":"nonsense","stream_id":"b"}')
            ended = False
            while not ended:
                self.bodies.append(str(await ws.recv()))
                kind = orjson.loads(self.bodies[-1])["type"]
                ended = kind in ("response.completed", "response.failed", "error")
                ended = ended and '"b"' not in self.bodies[-1]


@pytest.fixture
def keys(tmp_path: Path) -> Watched:
    save(tmp_path / "keys.json", Keyring([_key]))
    return Watched(tmp_path / "keys.json")


async def in_front_of(start: Start, keys: Watched, server: Server) -> Said:
    """A hub with keys in front of a model server that wants one, too."""
    engine = UpstreamEngine(server.url, name="big", api_key=UPSTREAM_KEY)
    hub = await start(
        engine,
        keys=keys,
        hub_options={"default_model": "m"},
        # Nobody waits until a broken model server is back.
        dispatcher_options={"patience": 0.05},
    )
    hub.hub.on_ended.append(logs.ended)
    return Said(hub)


def all_of(said: Said, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> str:
    out, err = capfd.readouterr()
    # The client's library is this test's own.
    records = [record for record in caplog.records if record.name != "websockets.client"]
    lines = [logs.TextFormatter().format(record) for record in records]
    lines += [logs.JsonFormatter().format(record) for record in records]
    return "\n".join([*said.bodies, *lines, out, err])


async def well(peer: Peer) -> None:
    """A model server that answers."""
    if "/models" in peer.request:
        await peer.send(answer(200, b'{"data":[{"id":"m"}]}'))
    elif peer.request.startswith("GET"):
        await peer.send(answer(404, b"{}"))
    elif "chat" in peer.request:
        await peer.send(SSE, event({"content": ANSWER}), event({}, "stop"), b"data: [DONE]\n\n")
    else:
        choice = {"index": 0, "text": ANSWER, "finish_reason": "stop"}
        await peer.send(SSE, b"data: " + orjson.dumps({"choices": [choice]}) + b"\n\n")


async def test_no_key_and_no_text_is_where_it_does_not_belong(
    start: Start,
    keys: Watched,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Of a prompt and its answer hub logs nothing, also at the level debug, and counts no words of
    them; keys and the model server's address are told to nobody; and the model server gets hub's
    own headers and none of the client's."""
    caplog.set_level(logging.DEBUG)
    async with serve(well) as server:
        said = await in_front_of(start, keys, server)
        await said.ask()
        told = all_of(said, caplog, capfd)
        assert ANSWER in told, "the clients have had it"
        assert '"upstream":"big"' in told
        assert '"owned_by":"big"' in told
        for secret in (*SECRETS, server.url, server.url.rpartition(":")[2]):
            assert secret not in told
        said.bodies = [
            body for body in said.bodies if '"dispatcher":' in body or "hub_upstream_state" in body
        ]
        assert len(said.bodies) == 2, "/health and /metrics"
        for text in (PROMPT, ANSWER):
            assert text not in all_of(said, caplog, capfd)
        posts = [peer for peer in server.peers if peer.request.startswith("POST")]
        assert len(posts) >= len(ENDPOINTS) - 2
        for peer in posts:
            assert {*peer.headers} == {
                *("host", "user-agent", "accept", "accept-encoding", "content-type"),
                *("connection", "content-length", "authorization"),
            }
            assert peer.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
            assert not any(secret in str(peer.headers) for secret in (KEY, "crumbs", "an-own-key"))


@pytest.mark.parametrize("status", [200, 400, 401, 422, 500])
async def test_what_a_model_server_repeats_of_its_key_goes_no_further(
    start: Start,
    keys: Watched,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """In whatever form it fails: with a status, or with an event after a 200; and where hub asks it
    what it serves. A client's own key, which it cannot know, is masked all the same."""
    caplog.set_level(logging.DEBUG)
    words = f"no model here accepts {UPSTREAM_KEY}, {KEY} or {PROMPT} at http://10.1.2.3:80/x"
    body = orjson.dumps({"error": {"message": words}})

    async def broken(peer: Peer) -> None:
        if status == 200 and peer.request.startswith("POST"):
            await peer.send(SSE, b"data: " + body + b"\n\n")
        else:
            await peer.send(answer(status, body))

    async with serve(broken) as server:
        said = await in_front_of(start, keys, server)
        # Background work waits until a broken model server is back.
        await said.ask(background=status in (400, 422))
        told = all_of(said, caplog, capfd)
        assert '"error"' in told
        for secret in (*SECRETS, server.url, "10.1.2.3"):
            assert secret not in told
        said.bodies.clear()
        assert PROMPT not in all_of(said, caplog, capfd)
