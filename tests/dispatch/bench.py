"""A dispatcher on a bench: engines that do as a request's script says, jobs that take notes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from hub.api.requests import Generation, Json, Usage, estimate_tokens
from hub.dispatch.dispatcher import USUAL_OUTPUT, Dispatcher
from hub.dispatch.terms import DEFAULT, Class, Terms, rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.base import Load, Member, Sink
from hub.errors import TABLE, HubError
from hub.ledger import Ledger


def now() -> float:
    return asyncio.get_running_loop().time()


def timers() -> int:
    """How many timers the loop holds. At rest there must be none: nobody polls."""
    loop: Any = asyncio.get_running_loop()
    return sum(not handle.cancelled() for handle in loop._scheduled)


@dataclass(frozen=True)
class Act:
    """What an engine does with one attempt."""

    tokens: int = 1
    delay: float = 1.0
    """Seconds before each token, and before a good end."""
    end: str = "finish"
    """``finish``; an error's code; ``break`` with any other error; ``hang``."""
    letting_go: float = 0.0
    """Seconds that it takes to let go when it is cancelled."""
    wait: float = 0.0
    """Seconds before all that."""


HANG = Act(tokens=0, end="hang")


@dataclass
class Attempt:
    """One attempt, as its engine saw it."""

    engine: str
    act: Act
    began: float
    ended: float | None = None
    said: int = 0
    error: str | None = None
    """The code of what it raised."""


_works: "WeakValueDictionary[str, Work]" = WeakValueDictionary()
_numbers = count()


class Work:
    """A job that writes down what happens to it, and the sink of its tokens.

    It fails its test if it is told what cannot be, or hears what is not its own.
    """

    def __init__(
        self,
        model: str = "",
        *acts: Act,
        terms: Terms = DEFAULT,
        max_tokens: int | None = None,
        raw: bool = False,
        messages: Sequence[str] | None = None,
    ) -> None:
        """``acts`` are what happens at its attempts, the last at all further ones. ``raw``: it goes
        on from a prompt."""
        self.number = next(_numbers)
        # As long as any other, so that all prompts have as many tokens.
        self.key = f"work {self.number:08}"
        _works[self.key] = self
        self.acts = acts or (Act(),)
        self.terms = terms
        self.ledger = Ledger(lambda: 0.0)
        texts = [*(messages or ()), self.key]
        self.generation = (
            Generation(model, (), prompt=self.key, max_tokens=max_tokens)
            if raw
            else Generation(
                model,
                [{"role": "user", "content": text} for text in texts],
                max_tokens=max_tokens,
            )
        )
        self.attempts: list[Attempt] = []
        self.said: list[str] = []
        self.submitted_at: float | None = None
        self.started_at: float | None = None
        self.started_as = -1
        """Its number in the order of all starts."""
        self.ended_at: float | None = None
        self.outcome: str | None = None
        self.error: HubError | None = None
        self.over = asyncio.Event()
        self.hooks: dict[str, Callable[[], None]] = {}
        """What to do when it is told ``started``, ``completed``, ``failed`` or ``cancelled``, or
        has its first ``text``."""

    @property
    def need(self) -> int:
        """The tokens that are reserved for it."""
        generation = self.generation
        if generation.prompt is not None:
            prompt = 1 + len(generation.prompt) // 4
        else:
            prompt = estimate_tokens(generation.messages)
        return prompt + (generation.max_tokens or USUAL_OUTPUT)

    @property
    def places(self) -> list[str]:
        """The engines that were asked for it."""
        return [attempt.engine for attempt in self.attempts]

    @property
    def code(self) -> str | None:
        """The code of the error that it has failed with."""
        return self.error.code if self.error is not None else None

    # dispatch.flight.Job

    @property
    def sink(self) -> "Work":
        return self

    @property
    def tokens(self) -> int:
        return len(self.said)

    def started(self) -> None:
        assert self.started_at is None, "started twice"
        assert self.outcome is None, "started after its end"
        self.started_at = now()
        self.started_as = next(_numbers)
        self._hook("started")

    def completed(self) -> None:
        self._end("completed")

    def failed(self, error: HubError) -> None:
        self.error = error
        self._end("failed")

    def cancelled(self) -> None:
        self._end("cancelled")

    def _end(self, outcome: str) -> None:
        assert self.outcome is None, f"{outcome} after {self.outcome}"
        assert self.started_at is not None or outcome != "completed"
        self.outcome = outcome
        self.ended_at = now()
        self.over.set()
        self._hook(outcome)

    def _hook(self, name: str) -> None:
        if name in self.hooks:
            self.hooks[name]()

    # engines.base.Sink

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        assert self.outcome is None, "a token after the end"
        assert self.started_at is not None, "a token before the start"
        assert delta == f"{self.key}: {len(self.said)}", "not its next token"
        self.said.append(delta)
        if len(self.said) == 1:
            self._hook("text")

    def finish(self, reason: str) -> None:
        assert self.outcome is None, "a word after the end"
        assert reason == "stop"

    def reasoning(self, delta: str) -> None:
        raise AssertionError("no script has reasoning")

    def refusal(self, delta: str) -> None:
        raise AssertionError("no script has refusals")

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        raise AssertionError("no script has tool calls")

    def usage(self, usage: Usage) -> None:
        raise AssertionError("no script has usage")


class ScriptedEngine:
    """An engine that does what each request's script says."""

    slots: int | None = None
    continues = False

    def __init__(self, name: str, models: Mapping[str, bool | None], *, arrays: bool) -> None:
        self.name = name
        self.answers = dict(models)
        self.arrays = arrays
        self.down = False
        """Nobody can connect to it."""
        self.mute = False
        """It returns at once, and says nothing."""
        self.load = Load()
        """What it says of itself."""
        self.probes: list[float] = []
        """When it was asked."""
        self.probing = 0.0
        """Seconds that it takes to say so."""
        self.running = 0
        self.most = 0
        self.asked: list[Work] = []
        self.sent: list[list[Work]] = []
        """The arrays."""
        self.closed: float | None = None

    def serves(self, model: str) -> bool | None:
        return self.answers.get(model, False)

    async def generate(self, generation: Generation, sink: Sink) -> None:
        await self._run(_work(generation), sink, lambda: False)

    async def generate_array(self, members: Sequence[Member]) -> None:
        assert self.arrays
        self.sent.append([_work(member.generation) for member in members])
        tasks = [asyncio.create_task(self._run_member(member)) for member in members]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _run_member(self, member: Member) -> None:
        error: HubError | None = None
        try:
            await self._run(_work(member.generation), member.sink, lambda: member.left)
        except HubError as raised:
            error = raised
        except ZeroDivisionError:
            error = HubError("server_error", "a defect")
        member.done(error)

    async def _run(self, work: Work, sink: Sink, left: Callable[[], bool]) -> None:
        assert self.closed is None, "asked after it was closed"
        act = work.acts[min(len(work.attempts), len(work.acts) - 1)]
        loop = asyncio.get_running_loop()
        attempt = Attempt(self.name, act, loop.time())
        work.attempts.append(attempt)
        self.asked.append(work)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._say(work, attempt, sink, left)
        except asyncio.CancelledError:
            await asyncio.sleep(act.letting_go)
            raise
        except HubError as error:
            attempt.error = error.code
            raise
        except ZeroDivisionError:
            attempt.error = "server_error"
            raise
        finally:
            self.running -= 1
            attempt.ended = loop.time()

    async def _say(
        self, work: Work, attempt: Attempt, sink: Sink, left: Callable[[], bool]
    ) -> None:
        act = attempt.act
        if self.down:
            raise HubError("upstream_unavailable", f"{self.name} is down")
        if self.mute:
            return
        if act.wait:
            await asyncio.sleep(act.wait)
        for number in range(act.tokens):
            await asyncio.sleep(act.delay)
            if left():
                return
            attempt.said += 1
            sink.text(f"{work.key}: {number}")
        if act.end in TABLE:
            raise HubError(act.end, "as the script says")
        if act.end == "break":
            raise ZeroDivisionError
        if act.end == "hang":
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(act.delay)
        if not left():
            sink.finish("stop")

    async def probe(self) -> Load:
        assert self.closed is None, "asked after it was closed"
        self.probes.append(now())
        await asyncio.sleep(self.probing)
        if self.down:
            raise HubError("upstream_unavailable", f"{self.name} is down")
        return self.load

    async def models(self) -> list[str]:
        assert self.closed is None, "asked after it was closed"
        await asyncio.sleep(0)
        if self.down:
            raise HubError("upstream_unavailable", f"{self.name} is down")
        return [model for model, serves in self.answers.items() if serves]

    async def close(self) -> None:
        assert self.running == 0, "closed while it runs something"
        assert self.closed is None, "closed twice"
        self.closed = now()


def _work(generation: Generation) -> Work:
    key = generation.prompt or generation.messages[-1]["content"]
    return _works[key]


@dataclass(frozen=True)
class Site:
    """An upstream to be."""

    window: int | None = 1
    models: Mapping[str, bool | None] = field(default_factory=lambda: {"": True})
    tokens: int | None = None
    gather: float | None = None
    arrays: bool = False
    slots: int | None = None
    server: str = ""


class Bench:
    """A dispatcher and its upstreams, each a scripted engine."""

    def __init__(
        self, *sites: Site, ranks: Mapping[Class, Any] | None = None, **rules: Any
    ) -> None:
        """``rules`` hold for all classes, unless ``ranks`` has other ones."""
        self.engines: list[ScriptedEngine] = []
        self.upstreams = [self.make(site) for site in sites or (Site(),)]
        self.dispatcher = Dispatcher(self.upstreams, {**rules_with(**rules), **(ranks or {})})

    def make(self, site: Site) -> Upstream:
        engine = ScriptedEngine(f"engine-{len(self.engines)}", site.models, arrays=site.arrays)
        engine.slots = site.slots
        self.engines.append(engine)
        return Upstream(
            engine,
            site.window,
            tokens=site.tokens,
            gather=site.gather,
            arrays=site.arrays,
            server=site.server,
        )

    def add(self, site: Site) -> Upstream:
        """Add an upstream at run time."""
        upstream = self.make(site)
        self.upstreams.append(upstream)
        self.dispatcher.add(upstream)
        return upstream

    def submit(self, model: str = "", *acts: Act, **options: Any) -> Work:
        work = Work(model, *acts, **options)
        work.submitted_at = now()
        self.dispatcher.submit(work)
        return work

    def submit_all(self, number: int, *acts: Act, **options: Any) -> list[Work]:
        return [self.submit("", *acts, **options) for _ in range(number)]

    def waits(self, work: Work) -> bool:
        """Whether it is in the queue."""
        return work in self.dispatcher._tickets

    def shed(self) -> dict[str, int]:
        return self.dispatcher.statistics().shed

    def check_at_rest(self) -> None:
        """Nothing runs, nothing waits, nothing is reserved, nothing will happen."""
        assert self.dispatcher.reserved == 0
        statistics = self.dispatcher.statistics()
        assert (statistics.queued, statistics.in_flight) == (0, 0)
        for upstream, engine in zip(self.upstreams, self.engines, strict=True):
            assert (upstream.window.in_flight, upstream.window.tokens) == (0, 0)
            assert engine.running == 0
        assert timers() == 0

    async def close(self) -> None:
        await self.dispatcher.close()
        self.check_at_rest()


def rank(rank: Class, **terms: Any) -> Terms:
    """The terms of a class."""
    return Terms(rank, **terms)
