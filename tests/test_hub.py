"""The hub: what it accepts, what lives in it, and how everything ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.recorder import TERMINAL_EVENTS
from hub.api.requests import Generation, Json, Request
from hub.api.responses import parse_create
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import rules_with
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.engines.sim_text import script
from hub.errors import HubError
from hub.hub import Hub
from hub.live import Live
from hub.policy import Policy, Statistics
from hub.store.memory import MemoryStore
from tests.manual import Call, ManualEngine
from tests.traces import traces
from tests.virtual import virtual


class Bench:
    """A hub with one upstream, whose engine is the test's."""

    def __init__(self, *, window: int = 8, queue_size: int = 8, **options: Any) -> None:
        self.engine = ManualEngine()
        self.dispatcher = Dispatcher(
            [Upstream(self.engine, window)], rules_with(queue_size=queue_size)
        )
        policy = Policy(**{name: options.pop(name) for name in SETTINGS if name in options})
        self.hub = Hub(self.dispatcher, MemoryStore(), policy, **options)

    async def start(self, **fields: Any) -> tuple[Live, Call]:
        """Submit a request and wait until its engine has it."""
        live = self.hub.submit(create(**fields))
        await asyncio.sleep(0)
        return live, self.engine.calls[-1]


SETTINGS = ("default_model", "reasoning_events")


def statistics(live: int, accepted: int, by_status: dict[str, int]) -> Statistics:
    return Statistics(live=live, remembered=0, accepted=accepted, by_status=by_status)


def create(**fields: Any) -> Request:
    """A request that is not to be stored: what keeps responses has its own tests."""
    return parse_create({"input": "hi", "store": False, **fields})


def come_and_go(hub: Hub, live: Live) -> None:
    """Be the only reader of a response, and stop reading."""
    hub.join(live)
    hub.leave(live)


def types(live: Live) -> list[str]:
    return [event.type for event in live.log.read(-1)]


def said(live: Live) -> str:
    return "".join(event.delta for event in live.log.read(-1))


# From acceptance to the end.


@virtual
async def test_a_response_is_created_when_accepted_and_in_progress_when_dispatched() -> None:
    """What is returned can be read from its beginning at once; a queued one has only begun."""
    bench = Bench(window=1)
    first, second = bench.hub.submit(create()), bench.hub.submit(create())
    assert types(first) == ["response.created", "response.in_progress"]
    assert types(second) == ["response.created"]
    assert first.id != second.id
    await asyncio.sleep(0)
    bench.engine.calls[0].finish()
    await first.until_ended()
    assert types(second) == ["response.created", "response.in_progress"]
    await bench.hub.close(0)


def end_normally(call: Call) -> None:
    call.sink.text("hello")
    call.finish()


def end_short(call: Call) -> None:
    call.sink.text("hello")
    call.finish("length")


def end_without_a_reason(call: Call) -> None:
    call.result.set_result(None)


def end_with_an_error(call: Call) -> None:
    call.result.set_exception(HubError("upstream_overloaded", "full"))


def end_with_a_defect(call: Call) -> None:
    call.result.set_exception(ZeroDivisionError())


@pytest.mark.parametrize(
    ("end", "status", "event", "code"),
    [
        (end_normally, "completed", "response.completed", None),
        (end_short, "incomplete", "response.incomplete", None),
        (end_without_a_reason, "failed", "response.failed", "upstream_incomplete_stream"),
        (end_with_an_error, "failed", "response.failed", "upstream_overloaded"),
        (end_with_a_defect, "failed", "response.failed", "server_error"),
    ],
)
@virtual
async def test_every_end_of_an_engine_is_one_end_of_its_response(
    end: Callable[[Call], None], status: str, event: str, code: str | None
) -> None:
    """However its engine ends, a response has one terminal event, and is counted by its status."""
    bench = Bench()
    live, call = await bench.start()
    assert bench.hub.statistics() == statistics(live=1, accepted=1, by_status={})
    end(call)
    await live.until_ended()
    assert [type for type in types(live) if type in TERMINAL_EVENTS] == [event]
    assert types(live)[-1] == event
    error = live.recorder.error
    assert (error.code if error else None) == code
    assert bench.hub.statistics() == statistics(live=0, accepted=1, by_status={status: 1})
    assert bench.dispatcher.reserved == 0


@pytest.mark.parametrize("stop", [Hub.cancel, come_and_go], ids=["cancel", "leave"])
@pytest.mark.parametrize("phase", ["queued", "dispatched", "running", "ended"])
@virtual
async def test_who_is_cancelled_or_left_ends_and_nobody_else(
    stop: Callable[[Hub, Live], None], phase: str
) -> None:
    """Stopping a response in any phase ends it as cancelled, unless it has ended; its place is
    free, and the other one's text is whole."""
    bench = Bench(window=1 if phase == "queued" else 2)
    other, other_call = await bench.start()
    live = bench.hub.submit(create())
    if phase in ("running", "ended"):
        await asyncio.sleep(0)
        bench.engine.calls[-1].sink.text("so far")
    if phase == "ended":
        bench.engine.calls[-1].finish()
        await live.until_ended()
    stop(bench.hub, live)
    stop(bench.hub, live)
    await live.until_ended()
    stop(bench.hub, live)
    status = "completed" if phase == "ended" else "cancelled"
    assert live.recorder.status == status
    assert said(live) == ("so far" if phase in ("running", "ended") else "")
    end_normally(other_call)
    await other.until_ended()
    assert said(other) == "hello"
    ends = {"completed": 2} if phase == "ended" else {"cancelled": 1, "completed": 1}
    assert bench.hub.statistics() == statistics(live=0, accepted=2, by_status=ends)
    assert bench.dispatcher.reserved == 0


@virtual
async def test_a_response_can_be_found_while_it_runs() -> None:
    """``find`` knows what lives; what has ended unstored is forgotten."""
    bench = Bench()
    live, call = await bench.start()
    assert bench.hub.find(live.id) is live
    call.finish()
    await live.until_ended()
    for id in (live.id, "resp_nobody"):
        assert bench.hub.find(id) is None


@virtual
async def test_a_response_tells_its_model_and_its_time() -> None:
    """The default model's name stands in for none; the time is that of ``now``."""
    bench = Bench(default_model="the default", now=lambda: 1234.5)
    live, call = await bench.start()
    call.finish()
    await live.until_ended()
    snapshot = live.recorder.snapshot()
    assert (snapshot["model"], snapshot["created_at"]) == ("the default", 1234)
    assert snapshot["completed_at"] == 1234
    named = bench.hub.submit(create(model="m"))
    assert named.recorder.snapshot()["model"] == "m"
    await bench.hub.close(0)


@virtual
async def test_reasoning_events_have_the_name_that_was_chosen() -> None:
    """``reasoning_events`` chooses between the names that clients know."""
    bench = Bench(reasoning_events="reasoning")
    live, call = await bench.start()
    call.sink.reasoning("hmm")
    assert "response.reasoning.delta" in types(live)
    await bench.hub.close(0)


# The chain.


def message(text: str, role: str = "user") -> Json:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


@virtual
async def test_the_chain_comes_before_the_request() -> None:
    """The engine gets the instructions, then the context's items, then the request's."""
    bench = Bench()
    context = [message("one"), message("two", "assistant")]
    live = bench.hub.submit(create(input="three", instructions="be brief"), context)
    await asyncio.sleep(0)
    (call,) = bench.engine.calls
    assert [(m["role"], m["content"]) for m in call.generation.messages] == [
        ("system", "be brief"),
        ("user", "one"),
        ("assistant", "two"),
        ("user", "three"),
    ]
    call.sink.text("four")
    call.finish()
    await live.until_ended()
    texts = [part["text"] for item in live.history() for part in item["content"]]
    assert texts == ["one", "two", "three", "four"]


@virtual
async def test_a_response_can_be_continued_without_input() -> None:
    """With a context, an empty input asks for more."""
    bench = Bench()
    bench.hub.submit(create(input=[]), [message("go on")])
    await asyncio.sleep(0)
    assert len(bench.engine.calls[0].generation.messages) == 1
    await bench.hub.close(0)


@virtual
async def test_messages_that_a_dialect_made_stay_as_they_are() -> None:
    """Chat messages reach the engine as they came, vendor fields and all."""
    bench = Bench()
    messages = [{"role": "user", "content": "hi", "vendor": 1}]
    bench.hub.submit(Request("", Generation("", messages), store=False))
    await asyncio.sleep(0)
    assert bench.engine.calls[0].generation.messages == messages
    await bench.hub.close(0)


# Refusals.


OUTPUT = {"type": "function_call_output", "call_id": "nobody's", "output": "42"}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "other"}, "model_not_found", "model"),
        ({"model": "other", "generate": False}, "model_not_found", "model"),
        ({"input": []}, "missing_required_parameter", "input"),
        ({"input": [OUTPUT]}, "invalid_value", "input[0].call_id"),
    ],
)
@virtual
async def test_a_refused_request_leaves_no_trace(
    fields: dict[str, Any], code: str, param: str
) -> None:
    """What cannot run is refused before anything is promised or counted."""
    bench = Bench()
    with pytest.raises(HubError) as caught:
        bench.hub.submit(create(**fields))
    assert (caught.value.code, caught.value.param) == (code, param)
    assert bench.hub.statistics() == statistics(live=0, accepted=0, by_status={})
    await asyncio.sleep(0)
    assert bench.engine.calls == []


@virtual
async def test_a_tools_output_may_answer_a_call_of_the_chain() -> None:
    """The call may be in the context or in the input, before its output."""
    bench = Bench()
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {**OUTPUT, "call_id": "c"}
    bench.hub.submit(create(input=[output]), [message("hi"), call])
    bench.hub.submit(create(input=[call, output]))
    assert bench.hub.statistics().live == 2
    await bench.hub.close(0)


@virtual
async def test_a_full_queue_refuses_before_anything_is_counted() -> None:
    """What the dispatcher refuses, the hub refuses; a warm-up needs no place in the queue."""
    bench = Bench(window=1, queue_size=1)
    for _ in range(2):
        bench.hub.submit(create())
    with pytest.raises(HubError) as caught:
        bench.hub.submit(create())
    assert caught.value.code == "rate_limit_exceeded"
    assert bench.hub.statistics() == statistics(live=2, accepted=2, by_status={})
    bench.hub.submit(create(generate=False))
    await bench.hub.close(0)
    assert bench.hub.statistics() == statistics(
        live=0, accepted=3, by_status={"completed": 1, "cancelled": 2}
    )


# Warm-up.


@pytest.mark.parametrize("input", ["hi", []])
@virtual
async def test_a_warm_up_completes_at_once_without_the_engine(input: Any) -> None:
    """``generate: false``: a whole life with an id to continue from, no output, no engine."""
    bench = Bench()
    live = bench.hub.submit(create(input=input, generate=False))
    assert types(live) == ["response.created", "response.in_progress", "response.completed"]
    await live.until_ended()
    assert live.recorder.output == []
    assert live.history() == list(create(input=input).items)
    assert bench.hub.statistics() == statistics(live=0, accepted=1, by_status={"completed": 1})
    await asyncio.sleep(0)
    assert bench.engine.calls == []
    bench.hub.cancel(live)
    assert live.recorder.status == "completed"


# Waiting.


@virtual
async def test_any_number_may_wait_for_the_end_and_stop_waiting() -> None:
    """Whoever waits is woken by the end; who is cancelled meanwhile leaves the response, the other
    waiters and the log alone."""
    bench = Bench()
    live, call = await bench.start()
    before = len(live.log._enders)
    waiting = [asyncio.create_task(live.until_ended()) for _ in range(3)]
    await asyncio.sleep(1)
    assert len(live.log._enders) == before + 3
    waiting[0].cancel()
    await asyncio.sleep(1)
    assert len(live.log._enders) == before + 2
    call.sink.text("hello")
    await asyncio.sleep(1)
    assert [task.done() for task in waiting] == [True, False, False]
    assert not live.log.sealed
    call.finish()
    await asyncio.gather(*waiting[1:])
    assert waiting[0].cancelled()
    assert live.log._enders == []
    await live.until_ended()


@pytest.mark.parametrize(
    ("news_after", "patience", "waited"), [(3.0, 10.0, 3.0), (None, 10.0, 10.0), (3.0, 3.5, 3.0)]
)
@virtual
async def test_news_are_awaited_with_patience(
    news_after: float | None, patience: float, waited: float
) -> None:
    """``until_news`` returns with the model's first word, or when patience is at its end."""
    bench = Bench()
    live, call = await bench.start()
    loop = asyncio.get_running_loop()
    if news_after is not None:
        loop.call_later(news_after, call.sink.text, "hello")
    await live.until_news(patience)
    assert loop.time() == waited
    assert live.log.readers == 0
    if news_after is not None:
        await live.until_news(patience)
        assert loop.time() == waited, "the news are there already"
    await bench.hub.close(0)


@virtual
async def test_an_end_without_a_word_is_news() -> None:
    """``until_news`` returns with the end, too, and at once after it."""
    bench = Bench()
    live, call = await bench.start()
    loop = asyncio.get_running_loop()
    loop.call_later(2, end_with_an_error, call)
    await live.until_news(10)
    assert loop.time() == 2
    await live.until_news(10)
    assert loop.time() == 2


# Closing.


@virtual
async def test_close_refuses_what_is_new_from_its_first_moment() -> None:
    """``shutting_down`` says to come back later; a warm-up is refused as well."""
    bench = Bench()
    live, call = await bench.start()
    closing = asyncio.create_task(bench.hub.close(10))
    await asyncio.sleep(1)
    for generate in (True, False):
        with pytest.raises(HubError) as caught:
            bench.hub.submit(create(generate=generate))
        assert caught.value.code == "shutting_down"
        assert caught.value.retry_after is not None
    call.finish()
    await closing
    assert live.recorder.status == "completed"
    assert bench.hub.statistics() == statistics(live=0, accepted=1, by_status={"completed": 1})


@virtual
async def test_close_returns_as_soon_as_everything_has_ended() -> None:
    """What ends before the deadline ends as it would; a queued request still gets its turn."""
    bench = Bench(window=1)
    first, call = await bench.start()
    second = bench.hub.submit(create())
    loop = asyncio.get_running_loop()
    loop.call_later(2, end_normally, call)
    loop.call_later(5, lambda: end_normally(bench.engine.calls[1]))
    await bench.hub.close(60)
    assert loop.time() == 5
    assert (first.recorder.status, second.recorder.status) == ("completed", "completed")


@pytest.mark.parametrize("deadline", [0.0, 10.0])
@virtual
async def test_close_cancels_the_rest_at_its_deadline(deadline: float) -> None:
    """What still runs or waits at the deadline is cancelled, with its terminal event."""
    bench = Bench(window=1)
    running, call = await bench.start()
    queued = bench.hub.submit(create())
    call.sink.text("so far")
    await bench.hub.close(deadline)
    assert asyncio.get_running_loop().time() == deadline
    assert (running.recorder.status, queued.recorder.status) == ("cancelled", "cancelled")
    assert types(running)[-1] == types(queued)[-1] == "response.incomplete"
    assert said(running) == "so far"
    assert bench.hub.statistics() == statistics(live=0, accepted=2, by_status={"cancelled": 2})
    assert bench.dispatcher.reserved == 0


@virtual
async def test_closing_an_idle_hub_takes_no_time() -> None:
    """Nothing lives, nothing is waited for."""
    bench = Bench()
    await bench.hub.close(60)
    assert asyncio.get_running_loop().time() == 0


# Any traffic.

MODELS = ["sim", "sim", "sim+error=3", "sim+eof=2", "sim+429", "sim+400", "sim+slow=1", "sim+hang"]
arrivals = st.tuples(
    st.integers(0, 500), st.sampled_from(MODELS), st.none() | st.integers(0, 800), st.booleans()
)


@given(traces(arrivals, 12), st.integers(1, 4), st.integers(1, 8))
@virtual
async def test_every_accepted_response_has_one_end_and_its_own_text(
    traffic: list[tuple[int, str, int | None, bool]], window: int, queue_size: int
) -> None:
    """Whatever fails, hangs, is refused or cancelled: each accepted response gets one terminal
    event, its last; numbers without gaps; of the text what its model said to it, and all of it if
    it completed; and the hub counts them all."""
    loop = asyncio.get_running_loop()
    engine = SimEngine(PROFILES["h100-8b"], faults=True)
    dispatcher = Dispatcher([Upstream(engine, window)], rules_with(queue_size=queue_size))
    hub = Hub(dispatcher, MemoryStore())
    accepted: list[Live] = []

    def arrive(number: int, model: str, leaves: int | None, generate: bool) -> None:
        try:
            live = hub.submit(
                create(
                    model=model,
                    input=f"Tell me about number {number}.",
                    max_output_tokens=20,
                    generate=generate,
                )
            )
        except HubError:
            return
        accepted.append(live)
        if leaves is not None:
            loop.call_later(leaves / 1000, come_and_go, hub, live)

    for number, (at, model, leaves, generate) in enumerate(traffic):
        loop.call_at(at / 1000, arrive, number, model, leaves, generate)
    await asyncio.sleep(1)
    await hub.close(100)

    for live in accepted:
        events = live.log.read(-1)
        assert [event.seq for event in events] == [*range(len(events))]
        assert [event.type in TERMINAL_EVENTS for event in events[:-1]] == [False] * (
            len(events) - 1
        )
        assert events[-1].type in TERMINAL_EVENTS
        whole = script(live.generation, 0)
        if not live.recorder.request.generate:
            assert said(live) == ""
        elif live.recorder.status in ("completed", "incomplete"):
            assert said(live) == "".join((*whole.reasoning, *whole.text))
        else:
            assert "".join((*whole.reasoning, *whole.text)).startswith(said(live))
    statistics = hub.statistics()
    assert (statistics.live, statistics.accepted) == (0, len(accepted))
    assert sum(statistics.by_status.values()) == len(accepted)
    assert hub.dispatcher.reserved == 0
    await engine.close()
