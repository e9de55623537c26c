"""The simulated engine in virtual time: against the measured server, and as an ``Engine``."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from statistics import quantiles
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.requests import Generation, Json, Usage
from hub.clock import run_virtual
from hub.engines.base import Engine, Load
from hub.engines.sim import MAX_LAG, SimEngine, SimStatistics
from hub.engines.sim_model import PROFILES, Profile
from hub.engines.sim_text import full_text, script
from hub.errors import HubError

EXACT = Profile("exact", 4, 10_000, 2048, p0=10, p1=0, steps=((1, 10), (2, 10)), sigma=0)
"""Whatever happens in an iteration: ten milliseconds for a prefill, and ten for a decode step."""


def ask(question: str = "Tell me about rivers", model: str = "sim", **fields: Any) -> Generation:
    return Generation(model, [{"role": "user", "content": question}], **fields)


class Times:
    """A sink that notes what came when."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.spoken = ""
        self.events: list[str | Usage] = []

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        assert not self.events, "nothing is said after the end"
        self.at.append(asyncio.get_running_loop().time())
        self.spoken += delta

    def reasoning(self, delta: str) -> None:
        self.text("")

    def refusal(self, delta: str) -> None:
        raise AssertionError("nothing is refused")

    def tool_call(self, index: int, call_id: str | None, name: str | None, arguments: str) -> None:
        self.text("")

    def usage(self, usage: Usage) -> None:
        self.events.append(usage)

    def finish(self, reason: str) -> None:
        self.events.append(reason)


class Reacting(Times):
    """A sink that does something at its n-th token."""

    def __init__(self, count: int, action: Callable[[], object]) -> None:
        super().__init__()
        self._count = count
        self._action = action

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        super().text(delta, logprobs)
        if len(self.at) == self._count:
            self._action()


def at_rest(engine: SimEngine) -> bool:
    state = engine.statistics()
    return (state.running, state.waiting, state.kv_used) == (0, 0, 0)


# -- Against the measured server


@pytest.mark.parametrize(
    ("requests", "slots", "p50", "p99", "rate"),
    [
        (5, 4, 426, 2011, 51),
        (5, 8, 532, 532, 53),
        (16, 8, 2199, 3549, 71),
        (16, 16, 1694, 1694, 89),
        (32, 8, 4899, 8950, 71),
        (32, 16, 3851, 6009, 89),
    ],
)
def test_llama_cpu_behaves_like_the_server_it_was_fitted_to(
    requests: int, slots: int, p50: float, p99: float, rate: float
) -> None:
    """Time to first token (ms) and tokens per second of prompts of 48 tokens that come at once."""
    engine = SimEngine(replace(PROFILES["llama-cpu"], slots=slots), seed=1)
    sinks = [Times() for _ in range(requests)]

    async def main() -> None:
        generation = ask("x" * 176, max_tokens=24)
        await asyncio.gather(*(engine.generate(generation, sink) for sink in sinks))

    run_virtual(main())
    check(sinks, p50, p99, rate)


@pytest.mark.parametrize(
    ("requests", "p50", "p99", "rate"), [(5, 881, 1637, 62), (16, 3002, 5836, 62)]
)
def test_llama_cpu_one_after_the_other(requests: int, p50: float, p99: float, rate: float) -> None:
    engine = SimEngine(PROFILES["llama-cpu"], seed=1)
    sinks = [Times() for _ in range(requests)]

    async def main() -> None:
        for sink in sinks:
            await engine.generate(ask("x" * 176, max_tokens=24), sink)

    run_virtual(main())
    check(sinks, p50, p99, rate)


def check(sinks: list[Times], p50: float, p99: float, rate: float) -> None:
    first = [1000 * sink.at[0] for sink in sinks]
    percentiles = quantiles(first, n=100, method="inclusive")
    assert all(len(sink.at) == 24 for sink in sinks)
    assert percentiles[49] == pytest.approx(p50, rel=0.1)
    assert percentiles[98] == pytest.approx(p99, rel=0.1)
    end = max(sink.at[-1] for sink in sinks)
    assert 24 * len(sinks) / end == pytest.approx(rate, rel=0.1)


# -- One generation


def test_an_answer_comes_in_order_and_ends_once() -> None:
    sink = Times()
    engine: Engine = SimEngine(EXACT, seed=3)
    generation = ask(extra={"reasoning_effort": "low"})
    run_virtual(engine.generate(generation, sink))
    said = script(generation, seed=3)
    assert sink.spoken == full_text(generation, seed=3)
    usage = Usage(input_tokens=9, output_tokens=len(said), reasoning_tokens=len(said.reasoning))
    assert sink.events == ["stop", usage]
    assert sink.at == pytest.approx([0.01 * (n + 1) for n in range(len(said))])


def test_an_empty_answer_takes_a_token() -> None:
    sink = Times()
    engine = SimEngine(EXACT)
    run_virtual(engine.generate(ask(max_tokens=0), sink))
    assert sink.events == ["length", Usage(input_tokens=9)]
    assert engine.statistics() == SimStatistics(0, 0, 0, 1, 0, 1, 0, 0)


@pytest.mark.parametrize("speed", [0.1, 1, 50])
def test_speed_scales_time(speed: float) -> None:
    sink = Times()
    run_virtual(SimEngine(EXACT, speed=speed).generate(ask(max_tokens=10), sink))
    assert sink.at[-1] == pytest.approx(0.1 / speed)


def test_speed_is_positive() -> None:
    with pytest.raises(ValueError, match="speed must be positive"):
        SimEngine(speed=0)


def test_an_idle_engine_has_no_timer() -> None:
    async def main() -> float:
        engine = SimEngine(EXACT)
        await engine.generate(ask(max_tokens=3), Times())
        # The virtual loop refuses to wait for nothing: any timer left would let it go on.
        await asyncio.get_running_loop().create_future()
        return 0

    with pytest.raises(RuntimeError, match="nothing is scheduled"):
        run_virtual(main())


async def test_high_speed_does_not_starve_others() -> None:
    """Between two iterations everybody else has a turn of the (real) loop."""
    engine = SimEngine(speed=1e9)
    generating = asyncio.create_task(engine.generate(ask(max_tokens=50), Times()))
    turns = 0
    while not generating.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= 50


class LateTimers(Times):
    """A sink that holds the loop up, in virtual time, at its third token."""

    def __init__(self, stall: float) -> None:
        super().__init__()
        self._stall = stall

    def text(self, delta: str, logprobs: list[Json] | None = None) -> None:
        super().text(delta, logprobs)
        if len(self.at) == 3:
            clock = asyncio.get_running_loop()._virtual  # type: ignore[attr-defined]
            clock.now += self._stall


@pytest.mark.parametrize("stall", [0.05, 0.2, 30])
def test_a_stall_is_made_up_for_within_reason(stall: float) -> None:
    sink = LateTimers(stall)
    run_virtual(SimEngine(EXACT).generate(ask(max_tokens=40), sink))
    assert sink.at[-1] == pytest.approx(0.4 + max(0, stall - MAX_LAG), abs=1e-6)


# -- Many generations


def test_who_comes_together_shares_the_first_iteration() -> None:
    engine = SimEngine(EXACT)
    sinks = [Times() for _ in range(4)]

    async def main() -> None:
        await asyncio.gather(*(engine.generate(ask(max_tokens=2), sink) for sink in sinks))

    run_virtual(main())
    assert [sink.at for sink in sinks] == [pytest.approx([0.01, 0.02])] * 4


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 90)), min_size=1, max_size=12))
def test_cancelling_at_any_time_harms_nobody_else(lives: list[tuple[int, int]]) -> None:
    """(when it begins, how long it may last), in engine iterations; some end before that."""
    engine = SimEngine(EXACT, seed=5)
    generations = [ask(f"question {n}", max_tokens=40) for n in range(len(lives))]
    sinks = [Times() for _ in lives]

    async def live(n: int) -> None:
        begin, patience = lives[n]
        await asyncio.sleep(begin / 100)
        try:
            async with asyncio.timeout(patience / 100):
                await engine.generate(generations[n], sinks[n])
        except TimeoutError:
            pass
        else:
            assert sinks[n].events

    async def main() -> None:
        await asyncio.gather(*(live(n) for n in range(len(lives))))
        assert at_rest(engine)
        await engine.close()

    run_virtual(main())
    for n, sink in enumerate(sinks):
        whole = full_text(generations[n], seed=5)
        assert sink.spoken == whole if sink.events else whole.startswith(sink.spoken)
    state = engine.statistics()
    assert state.finished == sum(bool(sink.events) for sink in sinks)
    assert state.finished + state.aborted == len(lives)
    assert state.tokens == sum(len(sink.at) for sink in sinks)


def test_cancelling_frees_the_slot_at_once() -> None:
    async def main() -> None:
        engine = SimEngine(replace(EXACT, slots=1))
        first = asyncio.create_task(engine.generate(ask(), Times()))
        second = asyncio.create_task(engine.generate(ask(), Times()))
        await asyncio.sleep(0.055)
        assert (engine.statistics().running, engine.statistics().waiting) == (1, 1)
        for task in (first, second):
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        assert at_rest(engine)
        assert engine.statistics().aborted == 2
        await engine.close()

    run_virtual(main())


def test_a_sink_that_raises_ends_its_own_generation_only() -> None:
    def fail() -> None:
        raise LookupError("a sink's defect")

    async def main() -> None:
        engine = SimEngine(EXACT)
        good, bad = Times(), Reacting(3, fail)
        results = await asyncio.gather(
            engine.generate(ask(), bad), engine.generate(ask(), good), return_exceptions=True
        )
        assert isinstance(results[0], LookupError)
        assert (results[1], good.spoken) == (None, full_text(ask()))
        assert at_rest(engine)
        assert (engine.statistics().finished, engine.statistics().failed) == (1, 1)

    run_virtual(main())


def test_a_sink_may_stop_and_start_generations() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT)
        tasks: list[asyncio.Task[None]] = []
        late = Times()

        def swap() -> None:
            for task in list(tasks):
                task.cancel()
            tasks.append(asyncio.create_task(engine.generate(ask(max_tokens=5), late)))

        sinks = [Reacting(3, swap), Times()]
        tasks += [asyncio.create_task(engine.generate(ask(), sink)) for sink in sinks]
        await asyncio.wait(list(tasks))
        await tasks[-1]
        assert [len(sink.at) for sink in sinks] == [3, 2], "nothing is said to the cancelled"
        assert len(late.at) == 5
        assert (engine.statistics().finished, engine.statistics().aborted) == (1, 2)

    run_virtual(main())


def test_cancelling_a_neighbour_before_its_last_token() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT)
        killer, victim = Reacting(3, lambda: task.cancel()), Times()
        generating = asyncio.create_task(engine.generate(ask(max_tokens=5), killer))
        task = asyncio.create_task(engine.generate(ask(max_tokens=3), victim))
        await asyncio.wait([generating, task])
        assert (len(killer.at), len(victim.at), task.cancelled()) == (5, 2, True)
        assert (engine.statistics().finished, engine.statistics().aborted) == (1, 1)
        assert at_rest(engine)

    run_virtual(main())


def test_a_sink_may_cancel_its_own_task_at_the_end() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT)
        sink = Reacting(5, lambda: task.cancel())
        task = asyncio.create_task(engine.generate(ask(max_tokens=5), sink))
        await asyncio.wait([task])
        assert task.cancelled()
        assert (engine.statistics().finished, engine.statistics().aborted) == (1, 0)
        assert at_rest(engine)

    run_virtual(main())


def test_a_run_may_be_stopped_by_its_sink() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT)
        sink = Reacting(5, lambda: engine.stop(run))
        run = engine.start(ask(max_tokens=5), sink)
        await asyncio.wait([run.done])
        assert run.done.cancelled()
        engine.stop(run)
        assert at_rest(engine)
        assert (engine.statistics().finished, engine.statistics().aborted) == (0, 1)
        await engine.close()

    run_virtual(main())


def test_closing_forgets_the_iteration_under_way() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT)
        engine.stop(engine.start(ask(), Times()))
        await engine.close()
        await engine.close()
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing is scheduled"):
        run_virtual(main())


# -- A static engine


STATIC = replace(EXACT, static=True)


def test_a_static_batch_is_what_came_in_one_turn_of_the_loop() -> None:
    """Who comes an instant later waits for the longest of the batch, though slots are free."""
    engine = SimEngine(STATIC)
    batch = [Times() for _ in range(3)]
    late = Times()

    async def come_late() -> None:
        await asyncio.sleep(0.001)
        await engine.generate(ask(max_tokens=1), late)

    async def main() -> None:
        await asyncio.gather(
            *(
                engine.generate(ask(max_tokens=tokens), sink)
                for tokens, sink in zip((1, 2, 5), batch, strict=True)
            ),
            come_late(),
        )

    run_virtual(main())
    assert [sink.at[-1] for sink in batch] == pytest.approx([0.01, 0.02, 0.05])
    assert late.at == pytest.approx([0.06])


def test_who_comes_when_a_static_batch_ends_joins_the_next() -> None:
    """The next batch begins after the turn of the loop in which the last one ended."""
    engine = SimEngine(STATIC)
    waiting, joining = Times(), Times()

    async def main() -> None:
        tasks: list[asyncio.Task[None]] = []

        def join() -> None:
            tasks.append(asyncio.create_task(engine.generate(ask(max_tokens=1), joining)))

        first = asyncio.create_task(engine.generate(ask(max_tokens=2), Reacting(2, join)))
        await asyncio.sleep(0.005)
        await engine.generate(ask(max_tokens=1), waiting)
        await asyncio.wait([first, *tasks])

    run_virtual(main())
    assert waiting.at == joining.at == pytest.approx([0.03])
    assert engine.statistics().iterations == 3


def test_a_static_batch_that_is_stopped_is_over() -> None:
    """What waits is admitted when nothing of the batch is left, whatever became of it."""
    engine = SimEngine(STATIC)
    late = Times()

    async def main() -> None:
        first = engine.start(ask(), Times())
        await asyncio.sleep(0.015)
        run = engine.start(ask(max_tokens=1), late)
        engine.stop(first)
        await run.done
        assert at_rest(engine)

    run_virtual(main())
    assert late.at == pytest.approx([0.03])


# -- Arrays


class ArrayMember:
    """A ``Member`` that notes its end, and checks what it was promised."""

    def __init__(self, generation: Generation, sink: Times | None = None) -> None:
        self.generation = generation
        self.sink = sink or Times()
        self.left = False
        self.ends: list[HubError | None] = []

    def leave(self) -> None:
        self.left = True

    def done(self, error: HubError | None) -> None:
        assert not self.ends, "its end is told once"
        self.ends.append(error)


def test_members_of_an_array_run_side_by_side() -> None:
    """Each member's sink hears what ``generate`` would have told it, and its end comes then."""
    generations = [ask(f"question {n}", max_tokens=n) for n in (3, 1, 4, 2)]

    async def main() -> None:
        engine: Engine = SimEngine(EXACT, seed=2)
        assert engine.arrays
        members = [ArrayMember(generation) for generation in generations]
        task = asyncio.create_task(engine.generate_array(members))
        ended = []
        for _ in range(4):
            await asyncio.sleep(0.0101)
            ended.append([len(member.ends) for member in members])
        assert ended == [[0, 1, 0, 0], [0, 1, 0, 1], [1, 1, 0, 1], [1, 1, 1, 1]]
        await task
        for member in members:
            assert member.ends == [None]
            assert member.sink.spoken == full_text(member.generation, seed=2)
            assert member.sink.events[0] == "length"
        await engine.close()

    run_virtual(main())


def test_a_member_of_an_array_fails_alone() -> None:
    """Whether it is refused at first or breaks later: the others do not notice."""
    engine = SimEngine(EXACT, faults=True)
    models = ["gpt", "sim+400", "sim+429=7", "sim+error=2", "sim+eof=0", "sim", "sim+slow=1"]
    members = [ArrayMember(ask(model=model)) for model in models]
    run_virtual(engine.generate_array(members))
    codes = [error.code if error else None for member in members for error in member.ends]
    assert codes == [
        "model_not_found",
        "context_length_exceeded",
        "upstream_overloaded",
        "upstream_error",
        "upstream_incomplete_stream",
        None,
        None,
    ]
    refused = members[2].ends[0]
    assert refused is not None
    assert refused.retry_after == 7
    assert [len(member.sink.at) for member in members[:5]] == [0, 0, 0, 2, 0]
    assert all(member.sink.spoken == full_text(member.generation) for member in members[5:])
    assert at_rest(engine)


def test_an_empty_array_is_over_at_once() -> None:
    """Without members there is nothing to wait for."""
    run_virtual(SimEngine(EXACT).generate_array([]))


@settings(max_examples=40)
@given(st.lists(st.integers(-1, 90), min_size=1, max_size=9), st.booleans())
def test_a_member_that_leaves_is_stopped_and_not_called_again(
    patience: list[int], static: bool
) -> None:
    """Whenever it leaves (in iterations; before the start if negative), waiting ones included: its
    sink is not called any more, its place is free, and the others go on."""
    engine = SimEngine(replace(EXACT, static=static), seed=5)
    members = [ArrayMember(ask(f"question {n}", max_tokens=40)) for n in range(len(patience))]
    heard: dict[int, int] = {}

    def leave(n: int) -> None:
        members[n].leave()
        heard[n] = len(members[n].sink.at)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for n, time in enumerate(patience):
            if time < 0:
                leave(n)
            else:
                loop.call_at(time / 100, leave, n)
        await engine.generate_array(members)
        assert at_rest(engine)
        await engine.close()

    run_virtual(main())
    for n, member in enumerate(members):
        whole = full_text(member.generation, seed=5)
        assert member.ends == [None]
        assert len(member.sink.at) == heard.get(n, len(member.sink.at))
        assert member.sink.spoken == whole if member.sink.events else n in heard
    started = sum(time >= 0 for time in patience)
    state = engine.statistics()
    assert state.finished == sum(bool(member.sink.events) for member in members)
    assert state.finished + state.aborted == started


@pytest.mark.parametrize("tokens", [3, 5])
def test_a_member_may_leave_while_its_sink_or_anothers_is_called(tokens: int) -> None:
    """Nothing is said to it after that: neither its next token nor, if there is none, the end."""
    members = [ArrayMember(ask(max_tokens=5)) for _ in range(2)]

    def leave() -> None:
        for member in members:
            member.leave()

    sinks = [Reacting(tokens, leave), Times()]
    for member, sink in zip(members, sinks, strict=True):
        member.sink = sink
    engine = SimEngine(EXACT)
    run_virtual(engine.generate_array(members))
    assert [len(sink.at) for sink in sinks] == [tokens, tokens - 1]
    assert [sink.events for sink in sinks] == [[], []]
    assert [member.ends for member in members] == [[None], [None]]
    assert engine.statistics().aborted == 2


def test_a_waiting_member_that_leaves_waits_no_longer() -> None:
    """It is seen at the end of an iteration, though it has not been admitted."""

    async def main() -> None:
        engine = SimEngine(replace(EXACT, slots=1))
        members = [ArrayMember(ask()) for _ in range(3)]
        task = asyncio.create_task(engine.generate_array(members))
        await asyncio.sleep(0.015)
        members[1].leave()
        await asyncio.sleep(0.01)
        assert [member.ends for member in members] == [[], [None], []]
        assert (engine.statistics().running, engine.statistics().waiting) == (1, 1)
        await task

    run_virtual(main())


def test_how_a_member_fails_that_has_left_is_nobodys_business() -> None:
    """Its end is an end, whatever its sink or its fault raised meanwhile."""
    member = ArrayMember(ask(model="sim+error=2"))

    def fail() -> None:
        member.leave()
        raise HubError("server_error", "Nobody hears this.")

    member.sink = Reacting(2, fail)
    run_virtual(SimEngine(EXACT, faults=True).generate_array([member]))
    assert member.ends == [None]


def test_cancelling_an_array_stops_all_of_it() -> None:
    """Nobody is told an end, not even a member that ended in the same turn of the loop."""

    async def main() -> None:
        engine = SimEngine(EXACT, faults=True)
        cancel = Reacting(3, lambda: task.cancel())
        members = [
            ArrayMember(ask(max_tokens=3), cancel),
            ArrayMember(ask(model="sim+hang")),
            *(ArrayMember(ask()) for _ in range(5)),
        ]
        task = asyncio.create_task(engine.generate_array(members))
        await asyncio.wait([task])
        assert task.cancelled()
        assert not any(member.ends for member in members)
        assert at_rest(engine)
        await engine.close()

    run_virtual(main())


def test_a_defect_of_one_members_sink_comes_up_when_all_have_ended() -> None:
    """It ends that member as a failure of hub's, and the others as usual."""

    def fail() -> None:
        raise LookupError("a sink's defect")

    engine = SimEngine(EXACT)
    members = [ArrayMember(ask(), Reacting(2, fail)), ArrayMember(ask())]
    with pytest.raises(LookupError, match="a sink's defect"):
        run_virtual(engine.generate_array(members))
    assert [error.code if error else None for m in members for error in m.ends] == [
        "server_error",
        None,
    ]
    assert members[1].sink.spoken == full_text(ask())


# -- What it says of itself


def test_it_tells_how_it_is() -> None:
    """Its size, what it runs and holds, and the share of its cache that those have reserved."""

    async def main() -> None:
        engine = SimEngine(replace(EXACT, slots=1, kv_tokens=100))
        assert await engine.probe() == Load(1, 100, 0, 0, 0.0)
        runs = [engine.start(ask("x" * 12, max_tokens=10), Times()) for _ in range(2)]
        await asyncio.sleep(0.005)
        reserved = engine.statistics().kv_used
        assert reserved == runs[0].kv_tokens
        assert await engine.probe() == Load(1, 100, 1, 1, reserved / 100)
        for run in runs:
            engine.stop(run)
        await engine.close()

    run_virtual(main())


# -- Models and errors


@pytest.mark.parametrize("model", ["", "sim", "sim-large", "sim+hang"])
def test_simulated_models_are_served(model: str) -> None:
    sink = Times()
    engine = SimEngine(EXACT)
    assert engine.serves(model)
    run_virtual(engine.generate(ask(model=model), sink))
    assert sink.events[0] == "stop", "faults are off unless they are switched on"


async def test_models_are_listed() -> None:
    assert await SimEngine().models() == ["sim"]


def failure(generation: Generation, sink: Times, profile: Profile = EXACT) -> HubError:
    """What a generation fails with; the engine must be at rest then."""
    engine = SimEngine(profile, faults=True)
    with pytest.raises(HubError) as caught:
        run_virtual(engine.generate(generation, sink))
    assert at_rest(engine)
    return caught.value


@pytest.mark.parametrize(
    ("model", "code", "tokens"),
    [
        ("gpt", "model_not_found", 0),
        ("sim+unheard-of", "model_not_found", 0),
        ("sim+error=x", "model_not_found", 0),
        ("sim+error=9999999999", "model_not_found", 0),
        ("sim+400", "context_length_exceeded", 0),
        ("sim+429", "upstream_overloaded", 0),
        ("sim+503", "upstream_overloaded", 0),
        ("sim+error", "upstream_error", 8),
        ("sim+error=0", "upstream_error", 0),
        ("sim+error=20", "upstream_error", 20),
        ("sim+eof=3", "upstream_incomplete_stream", 3),
        ("sim+eof=999", "upstream_incomplete_stream", len(script(ask(model="sim+eof=999")))),
    ],
)
def test_failures_have_their_codes(model: str, code: str, tokens: int) -> None:
    sink = Times()
    assert failure(ask(model=model), sink).code == code
    assert (len(sink.at), sink.events) == (tokens, [])


def test_overload_says_when_to_come_again() -> None:
    assert failure(ask(model="sim+429=7"), Times()).retry_after == 7


def test_a_prompt_beyond_the_context_is_refused() -> None:
    refused = failure(ask("x" * 50_000), Times())
    assert (refused.code, refused.param) == ("context_length_exceeded", "messages")


def test_a_hanging_generation_can_be_cancelled() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT, faults=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await engine.generate(ask(model="sim+hang"), Times())
        assert engine.statistics() == SimStatistics(0, 0, 0, 0, 0, 0, 0, 1)

    run_virtual(main())


def test_a_slow_start_takes_engine_time() -> None:
    sink = Times()
    run_virtual(SimEngine(EXACT, speed=10, faults=True).generate(ask(model="sim+slow"), sink))
    assert sink.at[0] == pytest.approx(0.2 + 0.001)


def test_a_slow_start_can_be_cancelled() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT, faults=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await engine.generate(ask(model="sim+slow=5"), Times())
        await asyncio.get_running_loop().create_future()

    with pytest.raises(RuntimeError, match="nothing is scheduled"):
        run_virtual(main())


@pytest.mark.parametrize(
    "model", ["sim+null", "sim+cut=3", "sim+garbage", "sim+html", "sim+comment"]
)
def test_faults_of_the_wire_do_nothing_here(model: str) -> None:
    sink = Times()
    run_virtual(SimEngine(EXACT, faults=True).generate(ask(model=model), sink))
    assert sink.spoken == full_text(ask(model=model))


def test_closing_while_something_runs_is_a_defect() -> None:
    async def main() -> None:
        engine = SimEngine(EXACT)
        run = engine.start(ask(), Times())
        with pytest.raises(AssertionError, match="after its last generation"):
            await engine.close()
        engine.stop(run)
        await engine.close()

    run_virtual(main())
