"""Typists in front of a completion server: who asks how, and what it comes to.

Every policy is run with the same typists, places, keys and oracle, in real time, over real sockets.
A share of the typists has a *caching* editor, which keeps what it was told (as llama.vim: 250
answers, looking back 128 characters) and asks only if that does not help; the others are *dumb* and
ask after every key.
"""

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from hub.bench.keys_clients import Shot, Socket, infill, window
from hub.bench.keys_corpus import places, sources
from hub.bench.keys_score import USEFUL, Lane, Score, State, score
from hub.bench.keys_truth import Truth
from hub.bench.keystrokes import Place, Reader, alike, arrivals, keys
from hub.bench.machine import ProcessTree
from hub.bench.oracle import Oracle
from hub.bench.processes import serving

POLL = 0.100
"""Seconds after which a client with one request in flight looks again (llama.vim)."""
CACHED, LOOK_BACK = 250, 128
"""Answers that a caching client keeps, and characters that it looks back for one."""
JUMPS = 0.1
"""How often somebody goes elsewhere at a line's end."""
LENGTH = 1500
"""About how many characters are missing at a place."""
SERVE = "serve", "--port", "0", "--store", "memory", "--log-level", "warning"
"""How hub is run."""
DRAIN = 3.0
"""Seconds that what the oracle works on at the end may take."""


@dataclass(frozen=True, slots=True)
class Typing:
    """How a run goes. Times are in seconds."""

    users: int = 8
    seconds: float = 30.0
    pace: str = "normal"
    caching: float = 0.0
    """The share of users whose client keeps answers."""
    slots: int = 8
    prefill: float = 0.060
    per_token: float = 0.012
    survives: float = 0.8
    length: int = 16
    seed: int = 0
    llama: bool = True
    """The oracle says that it is a llama.cpp; else hub has to put markers into raw prompts."""
    apart: float = 0.5
    """Between two users' beginnings, on average."""


Told = Callable[[Lane, State, str], None]


class Way(Protocol):
    """How one editor asks. It notes when a request has left, in ``State.asked``."""

    def ask(self, lane: Lane, state: State) -> None:
        """The text is in a new state, and the editor would like to know what follows."""
        ...

    def leave(self, lane: Lane) -> None:
        """The cursor has gone elsewhere."""
        ...

    def close(self) -> None:
        """The editor ends."""
        ...


class EveryKey:
    """A request for every state, each on its own socket.

    ``drops``: an older request's connection is closed first. Else it is left to end; what it says
    is not shown.
    """

    def __init__(self, url: str, told: Told, *, drops: bool = False) -> None:
        self._url = url
        self._told = told
        self._drops = drops
        self._shots: set[Shot] = set()

    def ask(self, lane: Lane, state: State) -> None:
        if self._drops:
            self.close()
        state.asked = time.monotonic()
        body = infill(*window(lane.place.before + state.typed, lane.place.behind))
        shot = Shot(self._url, "/infill", body, lambda text: self._told(lane, state, text))
        self._shots.add(shot)
        shot.ended.add_done_callback(lambda ended: self._ended(lane, shot, ended.result()))
        shot.fire()

    def leave(self, lane: Lane) -> None:
        pass

    def close(self) -> None:
        for shot in [*self._shots]:
            shot.close()

    def _ended(self, lane: Lane, shot: Shot, error: str) -> None:
        self._shots.discard(shot)
        lane.errors += bool(error)


class OneInFlight(EveryKey):
    """As llama.vim: never two at a time; while one runs it looks again every ``POLL`` seconds."""

    def __init__(self, url: str, told: Told) -> None:
        super().__init__(url, told)
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, lane: Lane, state: State) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._shots:
            super().ask(lane, state)
        else:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(POLL, self.ask, lane, state)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()


class OnSocket:
    """A WebSocket of hub's: the whole context once for a lane, then what was typed."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._socket: Socket | None = None
        self._lanes: dict[str, tuple[Lane, str]] = {}
        """By name, with what hub knows to be typed there."""

    async def open(self, url: str) -> "OnSocket":
        self._socket = await Socket(url, self._event).open()
        return self

    def ask(self, lane: Lane, state: State) -> None:
        assert self._socket is not None
        known = self._lanes.get(lane.name)
        self._lanes[lane.name] = lane, state.typed
        state.asked = time.monotonic()
        message: dict[str, Any] = {"stream_id": lane.name, "version": state.version}
        if known is None:
            before, behind = window(lane.place.before + state.typed, lane.place.behind)
            message |= {"type": "completion.create", "prefix": before, "suffix": behind}
        else:
            same = alike(known[1], state.typed)
            message |= {"type": "completion.type", "insert": state.typed[same:]}
            message["delete"] = len(known[1]) - same
        self._socket.send(message)

    def leave(self, lane: Lane) -> None:
        assert self._socket is not None
        if lane.name in self._lanes:
            self._socket.send({"type": "completion.cancel", "stream_id": lane.name})

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _event(self, event: dict[str, Any]) -> None:
        lane = self._lanes[event["stream_id"]][0]
        if event["type"] == "error":
            lane.errors += 1
        elif event["type"] == "completion.delta":
            version = event["version"]
            self._told(
                lane, next(s for s in reversed(lane.states) if s.version == version), event["delta"]
            )


class Cache:
    """What a caching client was told, the latest last."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[str, str], str] = OrderedDict()

    def put(self, lane: str, typed: str, text: str) -> None:
        """Keep an answer."""
        self._told[lane, typed] = text
        self._told.move_to_end((lane, typed))
        if len(self._told) > CACHED:
            self._told.popitem(last=False)

    def get(self, lane: str, typed: str) -> str:
        """What is left of an answer that what was typed since agrees with; "": there is none."""
        for back in range(min(LOOK_BACK, len(typed)) + 1):
            at = len(typed) - back
            text = self._told.get((lane, typed[:at]), "")
            if len(text) > back and text.startswith(typed[at:]):
                return text[back:]
        return ""


class Typist:
    """One user. ``type`` goes on until it is cancelled or all places are full."""

    def __init__(
        self,
        number: int,
        typing: Typing,
        *,
        caching: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.way: Way | None = None
        """Set it before ``type``."""
        self.lanes: list[Lane] = []
        self._number = number
        self._typing = typing
        self._clock = clock
        self._cache = Cache() if caching else None
        self._reader = Reader(self._random("reader"))
        self._display = ""

    def told(self, lane: Lane, state: State, text: str) -> None:
        """Text came for a state."""
        now = self._clock()
        if lane.received(state, text, now) and lane is self.lanes[-1]:
            self._display += text
            self._look(lane, state, now)
        if self._cache is not None:
            self._cache.put(lane.name, state.typed, state.answer)

    async def type(self, found: Sequence[Place]) -> None:
        """Type at these places, one after the other."""
        assert self.way is not None
        due = self._clock()
        for number, place in enumerate(found):
            lane = Lane(f"user{self._number}-{number}", place)
            lane.states.append(State(0, "", due))
            self._display = ""
            self.lanes.append(lane)
            due = await self._type_at(lane, due)
            self.way.leave(lane)
            lane.left = self._clock()

    async def _type_at(self, lane: Lane, due: float) -> float:
        missing, at = lane.place.missing, 0
        while at < len(missing):
            # From here on the keys depend on the place alone, however the typist has come here.
            drawn = self._random(f"{lane.name}:{at}")
            for key in keys(missing[at:], drawn, self._typing.pace):
                due += key.gap
                await asyncio.sleep(due - self._clock())
                state = lane.states[-1]
                if state.shown is not None:
                    pause = due - state.shown
                    taken = self._reader.accepts(self._display, missing[at:], pause)
                    if taken:
                        at += len(taken)
                        lane.accepted += len(taken)
                        self._enter(lane, state.typed + taken)
                        break
                self._enter(lane, key.apply(state.typed))
                if key.right and key.insert:
                    at += len(key.insert)
                if key.insert.startswith("\n") and drawn.random() < JUMPS:
                    return due
        return due

    def _enter(self, lane: Lane, typed: str) -> None:
        """A key has made the text a new one."""
        now = self._clock()
        state = State(len(lane.states), typed, now)
        lane.states.append(state)
        lane.keys += 1
        self._display = "" if self._cache is None else self._cache.get(lane.name, typed)
        if self._display:
            self._look(lane, state, now)
        else:
            assert self.way is not None
            self.way.ask(lane, state)

    def _look(self, lane: Lane, state: State, now: float) -> None:
        missing = lane.place.missing
        if state.shown is None and missing.startswith(state.typed):
            rest = missing[len(state.typed) :]
            if alike(self._display, rest) >= min(USEFUL, len(rest)) > 0:
                state.shown = now

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{self._typing.seed}:{self._number}:{what}")


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to ask, and whom."""

    title: str
    hub: bool
    way: Callable[[str, Told], Way] | None
    """``None``: on a WebSocket."""


POLICIES = {
    "direct": Policy("no hub, every key", False, EveryKey),
    "direct-drop": Policy(
        "no hub, every key, older dropped", False, lambda url, told: EveryKey(url, told, drops=True)
    ),
    "direct-one": Policy("no hub, one in flight", False, OneInFlight),
    "http": Policy("hub, every key", True, EveryKey),
    "http-drop": Policy(
        "hub, every key, older dropped", True, lambda url, told: EveryKey(url, told, drops=True)
    ),
    "http-one": Policy("hub, one in flight", True, OneInFlight),
    "lanes": Policy("hub, WebSocket", True, None),
}


async def measure(policy: Policy, typing: Typing, serve: Sequence[str] = ()) -> Score:
    """Run one policy. ``serve`` are further options of ``hub serve``.

    Raises ``StartError``, ``OSError``.
    """
    truth = Truth(sources(), typing.survives, typing.length, typing.seed)
    oracle = Oracle(
        truth,
        slots=typing.slots,
        prefill=typing.prefill,
        per_token=typing.per_token,
        llama=typing.llama,
    )
    async with AsyncExitStack() as stack:
        url = await oracle.start()
        stack.push_async_callback(oracle.stop)
        processes = None
        if policy.hub:
            hub = await stack.enter_async_context(behind(url, *serve))
            url, processes = hub.url, ProcessTree(hub.pid)
        typists = await _typists(policy, typing, url)
        for typist in typists:
            assert typist.way is not None
            stack.callback(typist.way.close)
        before = None if processes is None else processes.usage().cpu
        await _type(typists, typing)
        cpu = None if processes is None or before is None else processes.usage().cpu - before
        for typist in typists:
            assert typist.way is not None
            typist.way.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                await oracle.until(lambda: None if oracle.busy else True)
        lanes = [lane for typist in typists for lane in typist.lanes]
        return score(lanes, oracle.records, cpu)


def behind(url: str, *options: str) -> Any:
    """hub in front of a model server, as a process (``processes.serving``)."""
    return serving(*SERVE, f"--upstream={url}", *options)


async def _typists(policy: Policy, typing: Typing, url: str) -> list[Typist]:
    typists = []
    for number in range(typing.users):
        typist = Typist(number, typing, caching=number < round(typing.caching * typing.users))
        if policy.way is None:
            typist.way = await OnSocket(typist.told).open(url)
        else:
            typist.way = policy.way(url, typist.told)
        typists.append(typist)
    return typists


async def _type(typists: Sequence[Typist], typing: Typing) -> None:
    """Let them type for as long as it goes."""
    rng = random.Random(typing.seed)
    each = 3 + int(typing.seconds // 10)
    found = places(each * len(typists), LENGTH, rng)
    begins = arrivals(len(typists), typing.apart, rng)

    async def one(number: int) -> None:
        await asyncio.sleep(begins[number])
        await typists[number].type(found[number * each : (number + 1) * each])

    tasks = [asyncio.create_task(one(number)) for number in range(len(typists))]
    done, running = await asyncio.wait(tasks, timeout=typing.seconds)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    for task in done:
        task.result()
