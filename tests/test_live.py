"""A response that lives: what it knows, how it is waited for, and how it goes on."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.api.prompt import with_messages
from hub.api.recorder import Recorder
from hub.api.requests import Json, Usage
from hub.api.responses import parse_create
from hub.api.transcript import Transcript
from hub.errors import HubError
from hub.journal import ForegroundJournal, JobJournal
from hub.live import Live
from hub.store.base import Record
from hub.store.memory import MemoryStore
from tests.virtual import virtual

PARENT: Json = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "before"}],
}


def new(
    context: tuple[Json, ...] | None = (), *, kept: bool = True, started: bool = True, **fields: Any
) -> Live:
    request = parse_create({"input": "Hi", **fields})
    recorder = Recorder(with_messages(request, context or ()), id="resp_1", model="m", now=100.0)
    recorder.created()
    transcript = Transcript(recorder) if kept else None
    live = Live(recorder, context, tenant="ada", now=lambda: 105.0, transcript=transcript)
    if started:
        live.started()
    return live


def types(live: Live) -> list[str]:
    return [event.type.removeprefix("response.") for event in live.log.read(-1)]


def code(call: Callable[[], object]) -> str:
    with pytest.raises(HubError) as caught:
        call()
    return caught.value.code


# What it knows.


def test_it_is_what_its_recorder_says() -> None:
    """Its id, its log and its kind are those of its recorder; without a transcript the engine
    writes to the recorder itself."""
    live = new(background=True)
    assert (live.id, live.background, live.tenant, live.attempt) == ("resp_1", True, "ada", 0)
    assert live.log is live.recorder.log
    assert live.sink is live.transcript
    plain = new(kept=False)
    assert plain.sink is plain.recorder
    assert not plain.background


def test_the_chain_goes_on_with_its_output() -> None:
    """What the model was given is the chain and the request's own items; with the output it is the
    chain of the next response."""
    live = new((PARENT,))
    live.sink.text("Hello")
    live.sink.finish("stop")
    live.completed()
    hi = live.recorder.request.items[0]
    assert live.input() == [PARENT, hi]
    assert live.history() == [PARENT, hi, *live.recorder.output]
    assert live.recorder.output[0]["content"][0]["text"] == "Hello"
    heavy = new((PARENT,), input="x" * 5000)
    assert heavy.weigh() > heavy.log.size + 5000, "and so much does it weigh"


@given(st.integers(-3, 9), st.integers(0, 5), st.booleans())
def test_a_cursor_is_on_an_event_that_readers_see(cursor: int, said: int, held: bool) -> None:
    """A cursor before the beginning, or on an event that nobody has had, is refused."""
    live = new()
    if held:
        live.log.hold()
    for _ in range(said):
        live.sink.text("a")
    if -1 <= cursor <= live.log.last:
        live.check_cursor(cursor, "starting_after")
    else:
        with pytest.raises(HubError) as caught:
            live.check_cursor(cursor, "starting_after")
        assert (caught.value.code, caught.value.param) == ("invalid_value", "starting_after")


# Waiting.


async def state(waiter: asyncio.Task[Any]) -> bool:
    """Whether it has waited enough, after this turn of the loop."""
    for _ in range(3):
        await asyncio.sleep(0)
    return waiter.done()


@virtual
async def test_the_end_is_reached_when_readers_see_it() -> None:
    """``until_ended`` waits for the terminal event to be visible; when it is, it does not wait."""
    live = new()
    waiter = asyncio.create_task(live.until_ended())
    live.log.hold()
    live.sink.text("a")
    live.cancelled()
    live.log.release(live.log.next - 2)
    assert not await state(waiter)
    live.log.release(live.log.next - 1)
    live.log.release(live.log.next - 1)
    assert await state(waiter)
    await live.until_ended()
    assert live.log.readers == 0


@virtual
async def test_what_was_written_so_far_is_waited_for() -> None:
    """``until_kept`` waits for what has been written, not for what is written later."""
    live = new()
    await live.until_kept()
    live.log.hold()
    live.sink.text("a")
    reached = live.log.next - 1
    waiter = asyncio.create_task(live.until_kept())
    assert not await state(waiter)
    live.sink.text("b")
    live.log.release(reached)
    assert await state(waiter)
    assert live.log.last < live.log.next - 1


@virtual
async def test_who_waits_for_the_store_is_told_when_it_takes_too_long() -> None:
    """With a patience, ``until_kept`` does not wait longer than that."""
    live = new()
    live.log.hold()
    live.sink.text("a")
    with pytest.raises(HubError) as error:
        await live.until_kept(2.0)
    assert error.value.code == "store_unavailable"
    assert asyncio.get_running_loop().time() == pytest.approx(2.0)
    assert live.log.readers == 0


@virtual
async def test_nobody_waits_for_what_another_keeps() -> None:
    """Once its journal is fenced off, nothing more of it is kept here: the wait is over."""
    live = new(background=True)
    store = MemoryStore()
    await store.start(0.0)
    assert live.transcript is not None
    live.journal = JobJournal(
        store,
        live.transcript,
        tenant="",
        on_fenced=lambda: None,
        deliveries=lambda: (),
        on_kept=lambda: None,
    )
    live.journal.open(1)
    live.sink.text("a")
    waiter = asyncio.create_task(live.until_kept())
    assert await state(waiter)
    assert live.log.last < live.log.next - 1


@virtual
async def test_news_is_output_or_an_end_or_patience_that_ran_out() -> None:
    """``until_news`` returns when the model has said something, when the response has ended, and
    after ``patience`` seconds in any case; nothing of it is left."""
    loop = asyncio.get_running_loop()
    speaking, ending, silent = new(started=False), new(), new()
    loop.call_later(1.0, speaking.started)
    loop.call_later(2.0, lambda: speaking.sink.text("a"))
    loop.call_later(3.0, ending.cancelled)
    for live, at in [(speaking, 2.0), (ending, 3.0), (silent, 8.0)]:
        await live.until_news(5.0)
        assert loop.time() == pytest.approx(at)
        assert live.log.readers == 0


@virtual
async def test_who_stops_waiting_leaves_the_response_alone() -> None:
    """Cancelling a wait changes nothing but that."""
    live = new()
    waiter = asyncio.create_task(live.until_ended())
    assert not await state(waiter)
    waiter.cancel()
    assert await state(waiter)
    assert live.log.readers == 0
    assert not live.log.ended


# Going on where an earlier attempt has stopped.


@given(st.lists(st.text(max_size=3), min_size=1, max_size=5), st.none() | st.integers(7, 9))
def test_an_engine_is_asked_for_the_rest(said: list[str], limit: int | None) -> None:
    """The engine is given what was said as the unfinished last message, and what is left of its
    tokens; what it then counts is put right."""
    live = new(max_output_tokens=limit)
    asked = live.generation
    for delta in said:
        live.sink.text(delta)
    assert live.go_on()
    assert live.generation.continues
    assert live.generation.messages == [
        *asked.messages,
        {"role": "assistant", "content": "".join(said)},
    ]
    assert live.generation.max_tokens == (None if limit is None else limit - len(said))
    live.sink.usage(Usage(10 + len(said), 3))
    assert live.recorder.reported_usage == Usage(10, 3 + len(said))
    live.sink.text("more")
    assert live.go_on(), "and again, when that attempt has died, too"
    assert live.generation.messages[-1]["content"] == "".join(said) + "more"


def test_what_said_nothing_yet_begins_anew() -> None:
    """An attempt that has died before its first token leaves nothing to go on from."""
    live = new(max_output_tokens=5)
    asked = live.generation
    assert live.go_on()
    assert live.generation == asked
    live.started()
    assert types(live) == ["created", "in_progress"], "it has started only once"


def test_a_spent_limit_is_the_end() -> None:
    """Nothing is left to ask for when all tokens were used: it ends as incomplete."""
    live = new(max_output_tokens=2)
    live.sink.text("a")
    live.sink.text("b")
    assert not live.go_on()
    assert types(live)[-1] == "incomplete"
    assert live.recorder.snapshot()["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    ("reason", "last"), [("stop", "completed"), ("length", "incomplete"), ("tool_calls", None)]
)
def test_what_the_model_had_finished_is_only_ended(reason: str, last: str | None) -> None:
    """When the model had told why it stopped, nothing is asked of anybody, whatever it said."""
    live = new((PARENT,))
    if reason == "tool_calls":
        live.sink.tool_call(0, "c", "f", "{}")
    else:
        live.sink.text("a")
    live.sink.finish(reason)
    assert not live.go_on()
    assert types(live)[-1] == (last or "completed")


def test_nobody_can_go_on_from_half_a_tool_call() -> None:
    """What is not the beginning of one text cannot be continued."""
    live = new()
    live.sink.tool_call(0, "c", "f", "{")
    assert code(live.go_on) == "worker_lost"


def test_a_lost_chain_can_be_read_but_not_gone_on_with() -> None:
    """Without what was said before, its items are its own, and no engine is asked."""
    live = new(None)
    assert live.orphaned
    assert live.input() == live.history() == live.recorder.request.items
    assert code(live.go_on) == "previous_response_not_found"
    assert not new().orphaned


# The dispatcher's calls.


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda live: (live.sink.finish("stop"), live.completed()), "completed"),
        (lambda live: live.failed(HubError("upstream_error", "No.")), "failed"),
        (lambda live: live.cancelled(), "cancelled"),
    ],
)
@pytest.mark.parametrize("kept", [True, False])
@virtual
async def test_every_end_goes_through_its_journal(
    end: Callable[[Live], Any], status: str, kept: bool
) -> None:
    """However it ends, the end of a foreground response that is kept is its journal's to show; any
    other is seen at once."""
    live = new(kept=kept)
    store = MemoryStore()
    await store.start(0.0)
    if kept:
        assert live.transcript is not None
        live.journal = ForegroundJournal(
            store,
            live.transcript,
            lambda status, result: Record(
                live.id, "ada", status, False, 100.0, 200.0, b"{}", result=result
            ),
            None,
        )
    end(live)
    assert live.recorder.status == status
    assert live.log.ended
    assert live.log.sealed is not kept
    await live.until_ended()
    record = await store.get("ada", live.id)
    assert (record.status if record else None) == (status if kept else None)


def test_what_was_handed_over_does_not_end_here() -> None:
    """Another process goes on with it: being let go of is no end."""
    live = new(background=True)
    live.handed_over = True
    live.cancelled()
    assert not live.log.ended


# Moving to another node.


def test_who_reads_is_told_once_that_it_moves() -> None:
    """``when_moved`` calls once, also if it moves twice; at once if it has moved; nobody who has
    gone by then."""
    live = new()
    told: list[str] = []

    def gone() -> None:
        told.append("gone")

    live.when_moved(lambda: told.append("early"))
    live.when_moved(gone)
    live.stay(gone)
    assert told == []
    live.moved()
    live.moved()
    live.when_moved(lambda: told.append("late"))
    live.stay(gone)
    assert told == ["early", "late"]


@virtual
async def test_a_move_ends_the_wait_for_the_end() -> None:
    """Whoever waits for its end hears that there is none to come here, and nothing of him is
    left."""
    live = new()
    waiter = asyncio.create_task(live.until_ended())
    assert not await state(waiter)
    live.moved()
    assert await state(waiter)
    assert not live.log.ended
    await live.until_ended()


@virtual
async def test_it_is_let_go_of_when_its_engine_says_so() -> None:
    """``let_go`` asks its model server to stop, and is done when that has stopped, without an end;
    or with one, if that was faster."""
    stopped: list[Live] = []
    live = new()
    done = live.let_go(stopped.append)
    assert (stopped, done.done()) == ([live], False)
    live.sink.text("the last word")
    live.cancelled()
    assert done.done()
    assert not live.log.ended
    fast = new()
    done = fast.let_go(stopped.append)
    fast.sink.finish("stop")
    fast.completed()
    assert done.done()
    assert types(fast)[-1] == "completed"
