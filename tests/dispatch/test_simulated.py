"""The dispatcher in front of the simulated engine, in virtual time."""

import asyncio
from itertools import count
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.recorder import Recorder
from hub.api.requests import Generation, Request
from hub.dispatch.dispatcher import RESERVED_FOR, Dispatcher
from hub.dispatch.terms import DEFAULT, RULES, Class, Terms, rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.base import Sink
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_text import script
from hub.errors import HubError
from hub.ledger import Ledger
from tests.dispatch.bench import now, rank
from tests.traces import traces
from tests.virtual import virtual

H100 = PROFILES["h100-8b"]
URGENT = rank(Class.COMPLETION)
_numbers = count()


class Answer(Recorder):
    """A job with a real log: a ``Recorder`` with the dispatcher's words for its ends."""

    def __init__(self, generation: Generation, terms: Terms) -> None:
        super().__init__(
            Request("sim", generation), id=f"resp_{next(_numbers)}", model="sim", now=0.0
        )
        self.terms = terms
        self.ledger = Ledger(lambda: 0.0)
        self.submitted_at: float | None = None
        self.started_at: float | None = None

    @property
    def generation(self) -> Generation:
        return self.request.generation

    @property
    def sink(self) -> Sink:
        return self

    @property
    def tokens(self) -> int:
        return self.log.next

    @property
    def said(self) -> str:
        return "".join(event.delta for event in self.log.read(-1) if event.part is not None)

    @property
    def alone(self) -> str:
        """What the model says to it if nobody else is there."""
        return "".join(script(self.generation, 0).text)

    def started(self) -> None:
        self.started_at = now()
        super().started()

    def completed(self) -> None:
        self.complete(0.0)

    def failed(self, error: HubError) -> None:
        self.fail(error)

    def cancelled(self) -> None:
        self.cancel()


def chat(number: int, *, tokens: int = 40, terms: Terms = DEFAULT, fault: str = "") -> Answer:
    messages = [{"role": "user", "content": f"Tell me about number {number}."}]
    return Answer(Generation(f"sim{fault}", messages, max_tokens=tokens), terms)


def completion(number: int, *, tokens: int = 8, terms: Terms = URGENT) -> Answer:
    prompt = f"def number_{number:04}():\n    return "
    return Answer(Generation("sim", (), prompt=prompt, max_tokens=tokens), terms)


class Simulation:
    """A dispatcher with one simulated server."""

    def __init__(self, engine: SimEngine, upstream: Upstream, **rules: float) -> None:
        self.engine = engine
        self.upstream = upstream
        self.dispatcher = Dispatcher([upstream], rules_with(**rules))

    def submit(self, answer: Answer) -> Answer:
        answer.submitted_at = now()
        self.dispatcher.submit(answer)
        return answer

    async def close(self) -> None:
        await self.dispatcher.close()
        assert self.dispatcher.reserved == 0
        statistics = self.engine.statistics()
        assert (statistics.running, statistics.waiting, statistics.kv_used) == (0, 0, 0)
        await self.engine.close()


def simulate(speed: float = 1.0, *, window: int | None = None, **rules: float) -> Simulation:
    engine = SimEngine(H100, speed=speed, faults=True)
    return Simulation(engine, Upstream(engine, window), **rules)


@given(
    traces(
        st.tuples(
            st.integers(0, 400),
            st.none() | st.integers(0, 800),
            st.sampled_from(Class),
            st.sampled_from([True, True, False]),
        ),
        12,
    ),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([None, None, 0.05]),
)
@virtual
async def test_each_is_told_what_it_would_be_told_alone(
    arrivals: list[tuple[int, int | None, Class, bool]],
    window: int,
    batch_size: int,
    arrays: bool,
    gather: float | None,
) -> None:
    """Whoever else runs, waits or is cancelled, in an array or not: each answer is what it would be
    alone, each cancelled one a beginning of it; no slot stays taken."""
    loop = asyncio.get_running_loop()
    engine = SimEngine(H100)
    upstream = Upstream(engine, window, arrays=arrays, gather=gather)
    simulation = Simulation(engine, upstream, batch_size=batch_size, patience=inf)
    answers: list[Answer] = []
    left = set()
    for number, (arrives, leaves, one, raw) in enumerate(arrivals):
        ask = completion if raw else chat
        answers.append(ask(number, tokens=40, terms=rank(one)))
        loop.call_at(arrives / 1000, simulation.submit, answers[-1])
        if leaves is not None:
            left.add(answers[-1])
            loop.call_at((arrives + leaves) / 1000, simulation.dispatcher.cancel, answers[-1])
    await asyncio.sleep(1000)
    for answer in answers:
        assert answer.ended
        if answer.status == "cancelled":
            assert answer in left
            assert answer.alone.startswith(answer.said)
        else:
            assert answer.status in ("completed", "incomplete")
            assert answer.said == answer.alone
    await simulation.close()


@virtual
async def test_a_place_is_kept_free_for_completions_while_one_was_seen_in_the_last_minute() -> None:
    """Chats fill all slots if nobody completes; one fewer for a minute after a completion, in which
    the next one starts at once, however many chats wait."""
    simulation = simulate(speed=0.25, age=inf, patience=inf)
    in_use: dict[float, int] = {}

    async def until(time: float) -> None:
        await asyncio.sleep(time - now())
        in_use[time] = simulation.upstream.window.in_flight

    for number in range(300):
        simulation.submit(chat(number, tokens=100))
    await until(20)
    first = simulation.submit(completion(0))
    await until(50)
    second = simulation.submit(completion(1, tokens=100))
    await until(50.1)
    await until(50 + RESERVED_FOR - 1)
    await until(50 + RESERVED_FOR + 1)
    assert second.started_at == second.submitted_at
    assert first.started_at is not None
    assert simulation.dispatcher.statistics().queued > 0
    assert in_use == {20: 16, 50: 15, 50.1: 16, 109: 15, 111: 16}
    await simulation.close()


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 100)), min_size=40, max_size=120),
    st.sampled_from([inf, RULES[Class.CHAT].age]),
)
@virtual
async def test_a_completion_never_waits_behind_queued_chats(
    arrivals: list[int], chats: list[tuple[int, int]], age: float
) -> None:
    """While one waits, no chat leaves before it, except for the share of those that have aged."""
    simulation = simulate(speed=0.25, age=age, patience=inf)
    loop = asyncio.get_running_loop()
    background = [
        chat(number, tokens=tokens, terms=rank(Class.CHAT if one else Class.BACKGROUND))
        for number, (one, tokens) in enumerate(chats)
    ]
    for answer in background:
        simulation.submit(answer)
    completions = [completion(number) for number in range(len(arrivals))]
    for answer, at in zip(completions, sorted(arrivals), strict=True):
        loop.call_at(at / 1000, simulation.submit, answer)
    await asyncio.sleep(500)
    starts = [one.started_at for one in background if one.started_at is not None]
    for number, answer in enumerate(completions):
        assert answer.submitted_at is not None
        assert answer.started_at is not None
        passed = [at for at in starts if answer.submitted_at < at < answer.started_at]
        assert len(passed) <= (0 if age == inf else 2 * (number // 15 + 1))
    await simulation.close()


@pytest.mark.parametrize("tokens", [None, 400])
@virtual
async def test_the_servers_cache_is_not_filled_beyond_what_it_holds(tokens: int | None) -> None:
    """With a budget, hub keeps those back that the server would keep waiting; all are served."""
    profile = PROFILES["llama-cpu"]
    engine = SimEngine(profile)
    simulation = Simulation(engine, Upstream(engine, 16, tokens=tokens))
    answers = [simulation.submit(chat(number, tokens=100)) for number in range(16)]
    await asyncio.sleep(1)
    held = simulation.dispatcher.statistics().upstreams["sim"].tokens
    assert (held <= 400) is (tokens is not None)
    await asyncio.sleep(200)
    assert {answer.said == answer.alone for answer in answers} == {True}
    await simulation.close()


@virtual
async def test_faults_go_elsewhere_before_the_first_token_only() -> None:
    """An overloaded server's requests run on another one; a stream that breaks does not."""
    engines = [SimEngine(H100, faults=True), SimEngine(H100)]
    dispatcher = Dispatcher([Upstream(engine, 4) for engine in engines])
    refused, broken = chat(0, fault="+429"), chat(1, fault="+error=3")
    for answer in (refused, broken):
        dispatcher.submit(answer)
        await asyncio.sleep(5)
    assert refused.said == refused.alone
    assert broken.error is not None
    assert broken.error.code == "upstream_error"
    assert broken.said
    await dispatcher.close()
    for engine in engines:
        await engine.close()
