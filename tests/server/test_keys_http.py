"""Keys over sockets: who gets in, whose responses he sees, and what a revoked key loses."""

import asyncio
import itertools
import json
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from hub.dispatch.terms import Class
from hub.key_file import Watched, save
from hub.keys import RANDOM_BYTES, Keyring, Limits, new_key
from hub.nodes import Nodes
from hub.server import app
from hub.server.shared_limits import USED
from hub.store.base import Store
from hub.store.memory import MemoryStore
from tests.running import Running, Start
from tests.shared_store import Place, SharedStore
from tests.test_nodes import Quiet

(ADA, _ada), (BOB, _bob), (ADMIN, _admin) = (
    new_key(bytes([number]) * RANDOM_BYTES, tenant=tenant, now=0, admin=number == 3)
    for number, tenant in ((1, "ada"), (2, "bob"), (3, "ops"))
)
RING = Keyring([_ada, _bob, _admin])
MISSING = "resp_" + "0" * 32

Ask = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def keys(tmp_path: Path) -> Watched:
    save(tmp_path / "keys.json", RING)
    return Watched(tmp_path / "keys.json")


@pytest.fixture
async def hub(start: Start, keys: Watched) -> Running:
    return await start(keys=keys)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def ask(
    session: aiohttp.ClientSession, hub: Running, key: str, method: str, path: str, body: Any = None
) -> tuple[int, Any]:
    headers = bearer(key) if key else {}
    async with session.request(method, hub.url + path, json=body, headers=headers) as answer:
        return answer.status, await answer.json()


PRIVATE = [
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses/x"),
    ("DELETE", "/v1/responses/x"),
    ("POST", "/v1/responses/x/cancel"),
    ("GET", "/v1/responses/x/input_items"),
    ("POST", "/v1/responses/compact"),
    ("POST", "/v1/responses/input_tokens"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/fim/completions"),
    ("POST", "/infill"),
    ("POST", "/v1/infill"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/sim"),
    ("POST", "/v1/tickets"),
    ("GET", "/metrics"),
    ("GET", "/lab/settings"),
    ("POST", "/lab/settings"),
]
PUBLIC = {"/", "/lab", "/health", "/health/ready", "/openapi.json", "/v1/responses"}
"""Pages, what says that hub lives, and the WebSocket, which has a test of its own."""
BODIES = {
    "/v1/completions": {"prompt": "x"},
    "/v1/fim/completions": {"prompt": "x"},
    "/infill": {"input_prefix": "", "input_suffix": ""},
    "/v1/infill": {"input_prefix": "", "input_suffix": ""},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
}


@pytest.mark.parametrize("key", ["", "nonsense", ADA[:-1]])
async def test_nothing_is_done_without_a_good_key(hub: Running, key: str) -> None:
    async with aiohttp.ClientSession() as session:
        for method, path in PRIVATE:
            status, body = await ask(session, hub, key, method, path, BODIES.get(path, {}))
            error = body["error"]
            code = 401 if "infill" in path else "invalid_api_key"
            assert (status, error["code"]) == (401, code), path
            assert not key or key not in error["message"]
        status, body = await ask(session, hub, key, "GET", "/health")
        assert (status, {*body}) == (200, {"status", "version", "ready"})


async def test_the_list_of_private_endpoints_is_whole(hub: Running) -> None:
    """A new endpoint is private, or is named as public."""
    runner = hub.server._runner
    assert runner is not None
    application = runner.app
    assert application is not None
    files = {f"/{path.name}" for path in app.STATIC_FILES}
    routes = {
        (route.method, getattr(route.resource, "canonical", ""))
        for route in application.router.routes()
    }
    listed = {(method, path.replace("/x", "/{id}")) for method, path in PRIVATE}
    listed |= {("GET", "/v1/models/{model}")}
    for method, path in routes:
        if method != "HEAD" and path not in files | PUBLIC:
            assert (method, path) in listed


async def test_some_things_concern_administrators_only(hub: Running) -> None:
    async with aiohttp.ClientSession() as session:
        for method, path in (("GET", "/lab/settings"), ("POST", "/lab/settings")):
            status, body = await ask(session, hub, ADA, method, path, {})
            assert (status, body["error"]["code"]) == (403, "admin_required")
        alive = {"status", "version", "ready"}
        assert {*(await ask(session, hub, ADA, "GET", "/health"))[1]} == alive
        assert "dispatcher" in (await ask(session, hub, ADMIN, "GET", "/health"))[1]
        assert (await ask(session, hub, ADMIN, "GET", "/lab/settings"))[0] == 200
        async with session.get(f"{hub.url}/metrics", headers=bearer(ADMIN)) as answer:
            assert answer.status == 200


async def test_background_work_is_of_its_class_whatever_a_header_says(
    start: Start, tmp_path: Path
) -> None:
    """A key that may only chat cannot have it."""
    text, one = new_key(
        bytes([9]) * RANDOM_BYTES, tenant="eve", now=0, classes=(Class.CHAT, Class.COMPLETION)
    )
    path = tmp_path / "keys.json"
    await asyncio.to_thread(save, path, Keyring([one]))
    hub = await start(keys=await asyncio.to_thread(Watched, path))
    async with aiohttp.ClientSession() as session:
        headers = {**bearer(text), "X-Hub-Class": "chat"}
        body = {"input": "hi", "background": True}
        async with session.post(f"{hub.url}/v1/responses", json=body, headers=headers) as answer:
            assert answer.status == 403
            assert (await answer.json())["error"]["code"] == "class_not_allowed"


# Ownership.


async def make(session: aiohttp.ClientSession, hub: Running, key: str, **fields: Any) -> Any:
    status, body = await ask(session, hub, key, "POST", "/v1/responses", {"input": "hi", **fields})
    assert status == 200
    return body


def uses(id: str) -> list[tuple[str, str, Any]]:
    """Every way to get at a response by its id."""
    return [
        ("GET", f"/v1/responses/{id}", None),
        ("GET", f"/v1/responses/{id}?stream=true", None),
        ("GET", f"/v1/responses/{id}?stream=true&starting_after=3", None),
        ("GET", f"/v1/responses/{id}/input_items", None),
        ("POST", f"/v1/responses/{id}/cancel", None),
        ("POST", "/v1/responses", {"input": "and?", "previous_response_id": id}),
        ("POST", "/v1/responses", {"input": "x", "previous_response_id": id, "background": True}),
        ("POST", "/v1/responses/input_tokens", {"input": "x", "previous_response_id": id}),
        ("POST", "/v1/responses/compact", {"model": "sim", "previous_response_id": id}),
        ("DELETE", f"/v1/responses/{id}", None),
    ]


@pytest.mark.parametrize("seed", range(3))
async def test_anothers_response_is_like_a_missing_one(hub: Running, seed: int) -> None:
    """In every way to use it, in memory and in the store, running and ended: the same status, the
    same body but for the id; and its owner has it as it was."""
    rng = random.Random(seed)
    async with aiohttp.ClientSession() as session:
        whose = {}
        for _ in range(4):
            key = rng.choice([ADA, BOB])
            made = await make(session, hub, key, background=rng.random() < 0.5)
            whose[made["id"]] = key
        ids = [*whose] * 3
        rng.shuffle(ids)
        for id in ids:
            other = BOB if whose[id] == ADA else ADA
            here, missing = uses(id), uses(MISSING)
            for at in rng.sample(range(len(here)), 5):
                foreign = await ask(session, hub, other, *here[at])
                none = await ask(session, hub, other, *missing[at])
                assert foreign[0] == none[0]
                assert foreign[0] in (400, 404)
                assert json.dumps(foreign[1]).replace(id, MISSING) == json.dumps(none[1])
        for id, key in whose.items():
            status, body = await ask(session, hub, key, "GET", f"/v1/responses/{id}")
            assert (status, body["id"]) == (200, id)


async def test_an_idempotency_key_is_its_tenants(hub: Running) -> None:
    async with aiohttp.ClientSession() as session:
        ids = []
        for key in (ADA, BOB, ADA):
            headers = {**bearer(key), "Idempotency-Key": "order-66"}
            body = {"input": "hi", "background": True}
            async with session.post(
                f"{hub.url}/v1/responses", json=body, headers=headers
            ) as answer:
                ids.append((await answer.json())["id"])
    assert ids[0] == ids[2] != ids[1]


async def test_a_lane_resumes_its_tenants_responses_only(hub: Running) -> None:
    async with aiohttp.ClientSession() as session:
        id = (await make(session, hub, ADA))["id"]
    frames = {}
    for key, asked in ((ADA, id), (BOB, id), (BOB, MISSING)):
        async with connect(hub.ws, additional_headers=bearer(key), close_timeout=0.1) as ws:
            await ws.send(json.dumps({"type": "response.resume", "response_id": asked}))
            frames[key, asked] = json.loads(await ws.recv())
            chained = {"type": "response.create", "input": "x", "previous_response_id": asked}
            if key == BOB:
                await ws.send(json.dumps(chained))
                error = json.loads(await ws.recv())
                assert error["error"]["code"] == "previous_response_not_found"
    assert frames[ADA, id]["type"] == "response.created"
    foreign, none = frames[BOB, id], frames[BOB, MISSING]
    assert json.dumps(foreign).replace(id, MISSING) == json.dumps(none)


# WebSockets.


async def until_closed(ws: ClientConnection) -> None:
    while True:
        await ws.recv()


@pytest.mark.parametrize(
    ("headers", "subprotocols"),
    [({}, None), (bearer("nonsense"), None), ({}, ["hub"]), ({}, ["hub", "hub.ticket.nonsense"])],
)
async def test_a_websocket_without_a_good_key_is_refused_before_it_opens(
    hub: Running, headers: dict[str, str], subprotocols: list[str] | None
) -> None:
    offered = None if subprotocols is None else [Subprotocol(one) for one in subprotocols]
    with pytest.raises(InvalidStatus) as refused:
        async with connect(hub.ws, additional_headers=headers, subprotocols=offered):
            pass
    assert refused.value.response.status_code == 401


async def test_a_browser_opens_one_with_a_ticket(hub: Running) -> None:
    async with aiohttp.ClientSession() as session:
        _, ticket = await ask(session, hub, ADA, "POST", "/v1/tickets")
    offered = [Subprotocol(ticket["subprotocol"]), Subprotocol(f"hub.ticket.{ticket['ticket']}")]
    async with connect(hub.ws, subprotocols=offered, close_timeout=0.1) as ws:
        assert ws.subprotocol == "hub"
        await ws.send(json.dumps({"type": "response.create", "input": "hi"}))
        assert json.loads(await ws.recv())["type"] == "response.created"
    with pytest.raises(InvalidStatus):
        async with connect(hub.ws, subprotocols=offered):
            pass


async def test_a_revoked_key_loses_its_sockets_and_what_it_runs(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes the file need not tell the running hub; others notice nothing."""
    monkeypatch.setattr(app, "KEYS_INTERVAL", 0.01)
    path = tmp_path / "keys.json"
    await asyncio.to_thread(save, path, RING)
    hub = await start(keys=await asyncio.to_thread(Watched, path), speed=1.0)
    async with (
        connect(hub.ws, additional_headers=bearer(ADA)) as ada,
        connect(hub.ws, additional_headers=bearer(BOB)) as bob,
    ):
        for ws in (ada, bob):
            await ws.send(json.dumps({"type": "response.create", "input": "hi", "store": False}))
            await ws.recv()
        await asyncio.to_thread(save, path, RING.revoked(_ada.id, 1.0))
        with pytest.raises(ConnectionClosed) as closed:
            await until_closed(ada)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        async with aiohttp.ClientSession() as session:
            assert (await ask(session, hub, ADA, "GET", "/v1/models"))[0] == 401
        assert json.loads(await bob.recv())["type"].startswith("response.")


async def test_a_revoked_key_reads_no_further_in_what_goes_on(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A background response was promised; but not to him who holds a key that is no good."""
    monkeypatch.setattr(app, "KEYS_INTERVAL", 0.01)
    path = tmp_path / "keys.json"
    await asyncio.to_thread(save, path, RING)
    hub = await start(keys=await asyncio.to_thread(Watched, path), speed=1.0)
    async with aiohttp.ClientSession(headers=bearer(ADA)) as session:
        body = {"input": "hi", "model": "sim+hang", "background": True, "stream": True}
        async with session.post(f"{hub.url}/v1/responses", json=body) as made:
            event = json.loads((await made.content.readuntil(b"\n\n")).partition(b"data: ")[2])
            id = event["response"]["id"]
            async with session.get(f"{hub.url}/v1/responses/{id}?stream=true") as again:
                await again.content.readuntil(b"\n\n")
                await asyncio.to_thread(save, path, RING.revoked(_ada.id, 1.0))
                for answer in (made, again):
                    with pytest.raises(aiohttp.ClientError):
                        async with asyncio.timeout(10):
                            await answer.read()
    live = await hub.hub.open(id, tenant="ada")
    assert not live.log.sealed
    hub.hub.cancel(live)
    await live.until_ended()


# Limits.


async def limited(
    start: Start, tmp_path: Path, store: Store | None = None, **limits: int
) -> tuple[Running, str]:
    text, key = new_key(bytes([4]) * RANDOM_BYTES, tenant="eve", now=0, limits=Limits(**limits))
    await asyncio.to_thread(save, tmp_path / "keys.json", Keyring([key]))
    keys = await asyncio.to_thread(Watched, tmp_path / "keys.json")
    return await start(keys=keys, store=store), text


async def test_each_text_that_a_body_asks_for_counts(start: Start, tmp_path: Path) -> None:
    hub, key = await limited(start, tmp_path, requests_per_minute=8)
    async with aiohttp.ClientSession() as session:
        for path, body in (
            ("/v1/completions", {"prompt": ["x", "y"], "n": 2, "max_tokens": 1}),
            ("/infill", {"input_prefix": "x", "input_suffix": "", "n_cmpl": 4, "n_predict": 1}),
        ):
            assert (await ask(session, hub, key, "POST", path, body))[0] == 200
        status, body = await ask(session, hub, key, "POST", "/v1/completions", {"prompt": "x"})
    assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")


class HeldStore(MemoryStore):
    """A store that keeps nothing new until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    def put(self, *args: Any, **kw: Any) -> asyncio.Future[str]:
        async def put() -> str:
            await self.go_on.wait()
            return await MemoryStore.put(self, *args, **kw)

        return asyncio.ensure_future(put())


async def test_many_at_once_are_no_more_than_one_after_the_other(
    start: Start, tmp_path: Path
) -> None:
    """While the store is waited for they count already."""
    store = HeldStore()
    hub, key = await limited(start, tmp_path, store, queued=2)
    body = {"input": "x", "background": True}
    async with aiohttp.ClientSession() as session:
        asked = [
            asyncio.create_task(ask(session, hub, key, "POST", "/v1/responses", body))
            for _ in range(6)
        ]
        async with asyncio.timeout(10):
            for one in itertools.islice(asyncio.as_completed(asked), 4):
                assert (await one)[0] == 429
        store.go_on.set()
        statuses = [(await one)[0] for one in asked]
    assert sorted(statuses) == [200, 200, 429, 429, 429, 429]


@pytest.fixture
def once(tmp_path: Path) -> tuple[str, Path]:
    """A key that may ask once a minute, and where it is kept."""
    limits = Limits(requests_per_minute=1)
    text, key = new_key(bytes([9]) * RANDOM_BYTES, tenant="ada", now=0, limits=limits)
    save(tmp_path / "keys.json", Keyring([key]))
    return text, tmp_path / "keys.json"


async def test_a_limit_holds_for_all_nodes(start: Start, once: tuple[str, Path]) -> None:
    """From when they have told each other."""
    (text, path), place = once, Place()
    servers, nodes = [], []
    for name in ("a", "b"):
        store = SharedStore(place, name)
        nodes.append(Nodes(store, Quiet(name)))
        await nodes[-1].start()
        keys = await asyncio.to_thread(Watched, path)
        servers.append(await start(store=store, keys=keys, nodes=nodes[-1]))
    told = asyncio.Event()
    place.members[1].hear(lambda kind, body: told.set() if kind == USED else None)
    async with aiohttp.ClientSession() as session:
        body = {"input": "x", "store": False}
        assert (await ask(session, servers[0], text, "POST", "/v1/responses", body))[0] == 200
        await told.wait()
        status, answer = await ask(session, servers[1], text, "POST", "/v1/responses", body)
        assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
    for one in nodes:
        await one.close()
