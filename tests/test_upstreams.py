"""Opening the upstreams that the settings name, and changing them while hub runs."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from hub.api.requests import Generation
from hub.config import Settings
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import Class
from hub.engines.discover import find_local
from hub.errors import HubError
from hub.upstreams import RELOADED, Upstreams, known_as, not_reloaded
from tests.engines.recording import RecordingSink
from tests.engines.scripted import Peer, answer, serve

NOBODY = "http://127.0.0.1:1"
"""Port 1 is privileged, and nobody listens there."""
NOBODY_ELSE = "http://127.0.0.1:2"


async def model_server(peer: Peer) -> None:
    """Lists one model, and has nothing else to say."""
    listing = b'{"data":[{"id":"m"}]}'
    known = peer.request.endswith("/v1/models")
    await peer.send(answer(200, listing) if known else answer(404, b"{}"))


class Running:
    """The upstreams of some settings, and the dispatcher that uses them."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.upstreams: Upstreams
        self.dispatcher: Dispatcher

    async def reload(self, *upstream: str, **more: Any) -> None:
        await self.upstreams.reload(Settings(upstream=upstream, **more), self.dispatcher)

    def states(self) -> dict[str, str]:
        return {one.name: one.breaker.state for one in self.dispatcher.upstreams}

    def windows(self) -> dict[str, int]:
        return {one.name: one.window.size for one in self.dispatcher.upstreams}


@asynccontextmanager
async def running(*upstream: str, **more: Any) -> AsyncIterator[Running]:
    """Open the upstreams, and close them at the end."""
    one = Running()
    settings = Settings(upstream=upstream, **more)
    one.upstreams = Upstreams(settings, one.said.append)
    one.dispatcher = Dispatcher(await one.upstreams.open(), settings.rules)
    try:
        yield one
    finally:
        await one.dispatcher.close()
        for left in one.dispatcher.upstreams:
            await left.engine.close()


async def test_each_upstream_is_opened_once_with_its_particulars() -> None:
    """What it says of itself beats the common window; where nobody listens it is broken from the
    start, and hub starts all the same."""
    async with (
        serve(model_server) as server,
        running(
            f"{server.url}#window=3&tokens=500&gather=50&arrays&continues",
            NOBODY,
            NOBODY,
            window=7,
        ) as hub,
    ):
        first, second = hub.dispatcher.upstreams
        assert [first.name, second.name] == ["upstream-1", "upstream-2"]
        assert (first.window.size, first.window.budget, first.arrays) == (3, 500, True)
        assert first.stage is not None
        assert (first.stage.size, first.stage.interval) == (3, 0.05)
        assert (first.engine.continues, second.engine.continues) == (True, False)
        assert (second.window.size, second.window.budget, second.stage) == (7, None, None)
        assert (first.breaker.state, second.breaker.state) == ("closed", "open")
        assert second.failure is not None
        assert second.failure.code == "upstream_unavailable"
        assert sorted(hub.said) == [
            f"Engine: upstream-1 at {server.url}/v1.",
            f"Engine: upstream-2 at {NOBODY}/v1.",
        ]


async def test_an_upstream_has_the_name_that_the_settings_give_it() -> None:
    """Clients know it by that: whose a model is has no address in it, either. A name of hub's own
    is never used again."""
    async with (
        serve(model_server) as server,
        running(f"{server.url}#name=big", NOBODY) as hub,
    ):
        assert [*hub.states()] == ["big", "upstream-2"]
        assert await hub.dispatcher.models() == {"m": "big"}
        await hub.reload(f"{server.url}#name=big", NOBODY_ELSE)
        assert [*hub.states()] == ["big", "upstream-3"]


async def test_an_upstream_fills_in_as_the_settings_say() -> None:
    """By the names that clients use."""
    async with serve(model_server) as server, running(server.url, fim=("m=none",)) as hub:
        (upstream,) = hub.dispatcher.upstreams
        with pytest.raises(HubError, match="the settings say so of 'm'"):
            await upstream.engine.generate(
                Generation("m", (), prompt="", suffix=""), RecordingSink()
            )


async def test_a_reload_adds_drains_and_keeps() -> None:
    """New upstreams get requests, those that are gone get none and are closed, and those that are
    named as before are the same ones."""
    async with (
        serve(model_server) as one,
        serve(model_server) as other,
        running(one.url, NOBODY) as hub,
    ):
        kept, gone = hub.dispatcher.upstreams
        await hub.reload(other.url, one.url)
        assert hub.states() == {"upstream-1": "closed", "upstream-3": "closed"}
        assert hub.dispatcher.upstreams[0] is kept
        assert gone.leaving
        assert hub.said[-2:] == [
            f"Engine: upstream-3 at {other.url}/v1.",
            "Draining upstream-2.",
        ]
        asked = len(one.peers)
        await hub.reload(other.url, one.url)
        assert hub.dispatcher.upstreams[0] is kept
        assert len(hub.said) == 4
        assert len(one.peers) == asked, "what stays is not asked again"


async def test_one_that_does_not_answer_is_added_all_the_same() -> None:
    """It is broken, and asked again until it answers."""
    async with serve(model_server) as server, running(server.url) as hub:
        await hub.reload(server.url, NOBODY)
        assert hub.states() == {"upstream-1": "closed", "upstream-2": "open"}


async def test_other_particulars_make_it_another_upstream() -> None:
    """The new one is there before the old one goes, so that nobody waits in vain."""
    async with serve(model_server) as server, running(f"{server.url}#window=2") as hub:
        (old,) = hub.dispatcher.upstreams
        await hub.reload(f"{server.url}#window=5")
        (new,) = hub.dispatcher.upstreams
        assert new is not old
        assert (old.leaving, new.window.size) == (True, 5)


async def test_the_common_window_is_reloaded() -> None:
    """It holds from then on for every upstream that names none of its own."""
    async with running(NOBODY, f"{NOBODY_ELSE}#window=3", window=2) as hub:
        assert [*hub.windows().values()] == [2, 3]
        own = hub.dispatcher.upstreams[1]
        await hub.reload(NOBODY, f"{NOBODY_ELSE}#window=3", window=4)
        assert sorted(hub.windows().values()) == [3, 4]
        assert own in hub.dispatcher.upstreams


async def test_the_rules_are_reloaded() -> None:
    """Also where no upstream changes."""
    async with running(NOBODY) as hub:
        await hub.reload(NOBODY, queue_size=5, rule=("chat.queue_size=6",))
        queues = hub.dispatcher._queue.classes  # nothing else shows the rules
        asked = (Class.COMPLETION, Class.CHAT, Class.BACKGROUND)
        assert [queues[rank].rules.queue_size for rank in asked] == [5, 6, 5]


@pytest.mark.parametrize("upstream", [(), (NOBODY,)])
async def test_what_is_simulated_stays_and_that_is_told(upstream: tuple[str, ...]) -> None:
    """Until a restart: the simulation's models are those that clients use by now."""
    async with running(sim="h100-8b", window=2) as hub:
        (simulated,) = hub.dispatcher.upstreams
        await hub.reload(*upstream, window=3)
        assert hub.dispatcher.upstreams == [simulated]
        assert (simulated.leaving, simulated.window.size) == (False, 2)
        assert hub.said[-1] == "The upstreams stay as they are until a restart."
        said = len(hub.said)
        await hub.reload(*upstream, window=3, batch_size=1)
        assert len(hub.said) == said


async def test_the_last_upstream_is_not_taken_away() -> None:
    """Settings that name none drain none: hub would serve nothing."""
    async with running(NOBODY) as hub:
        await hub.reload()
        assert [*hub.states()] == ["upstream-1"]
        assert hub.said[-1] == "The upstreams stay as they are until a restart."


async def test_found_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model server on a usual port is taken, with the window of the settings; it is drained once
    others are named. Without one, the answers are simulated, and that is told."""
    async with serve(model_server) as server:
        look = partial(find_local, [("llama.cpp", server.url)])
        monkeypatch.setattr("hub.upstreams.find_local", look)
        async with running(window=3) as hub:
            (found,) = hub.dispatcher.upstreams
            assert (found.name, found.window.size) == ("upstream-1", 3)
            assert hub.said[0].startswith(f"Found llama.cpp at {server.url}.")
            await hub.reload(NOBODY)
            assert found.leaving
    monkeypatch.setattr("hub.upstreams.find_local", partial(find_local, []))
    async with running() as hub:
        assert [*hub.states()] == ["sim"]
        assert "the answers are simulated" in hub.said[0]


def changed(name: str) -> Settings:
    """Settings that differ from the usual ones in one."""
    other: dict[str, Any] = {name: object()}
    return dataclasses.replace(Settings(), **other)


@pytest.mark.parametrize("name", [spec.name for spec in dataclasses.fields(Settings)])
def test_a_setting_is_reloaded_or_reported(name: str) -> None:
    """None is silently ignored, and none is reported that holds from now on."""
    assert not_reloaded(Settings(), changed(name)) == ([] if name in RELOADED else [name])


def test_what_stays_the_same_is_not_reported() -> None:
    """Only differences need a restart."""
    assert not_reloaded(Settings(), Settings()) == []
    assert not_reloaded(Settings(), Settings(port=1, host="a", batch_size=3)) == ["host", "port"]
    assert set(RELOADED) <= {spec.name for spec in dataclasses.fields(Settings)}


async def test_a_question_without_an_answer_holds_nobody_up_at_the_end() -> None:
    """Closing the dispatcher ends the questions to broken upstreams."""
    async with running(NOBODY, NOBODY_ELSE):
        pass
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://gpu:8000/v1", "http://GPU:8000/v1/", True),
        ("http://gpu/v1", "http://gpu:80/v1", True),
        ("http://gpu:8000/v1", "http://gpu:8001/v1", False),
        ("http://gpu:8000/v1", "http://gpu:8000/other/v1", False),
        ("http://127.0.0.1:8000/v1", "http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", "http://[::1]:8000/v1", True),
        ("http://127.0.0.1:8000/v1", "http://gpu:8000/v1", False),
    ],
)
def test_nodes_know_a_server_by_its_address_which_they_do_not_tell(
    one: str, other: str, same: bool
) -> None:
    assert (known_as(one) == known_as(other)) is same
    assert "gpu" not in known_as("http://gpu:8000/v1")


def test_what_is_local_is_local_to_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    here, far = known_as("http://127.0.0.1:8000/v1"), known_as("http://gpu:8000/v1")
    monkeypatch.setattr("hub.upstreams.gethostname", lambda: "another")
    assert known_as("http://127.0.0.1:8000/v1") != here
    assert known_as("http://gpu:8000/v1") == far
