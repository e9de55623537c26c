"""Completions for somebody who types: who is superseded, who follows what, what is let go of."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.api.completions import parse_completions
from hub.api.infill import Kind
from hub.api.requests import Request
from hub.completer import KEPT, WARM, Completer
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import RULES, Class, Terms
from hub.dispatch.upstream import Upstream
from hub.errors import HubError
from hub.hub import Hub
from hub.policy import Policy
from hub.prediction import Caller
from hub.server.terms import terms_for
from hub.store.memory import MemoryStore
from tests.manual import Call, ManualEngine
from tests.virtual import virtual

TERMS = Terms(Class.COMPLETION)


class Bench:
    """A completer in front of an engine in the test's hands, its model loaded."""

    def __init__(
        self, *, cold: bool = False, window: int = 8, policy: Policy | None = None
    ) -> None:
        self.engine = ManualEngine()
        self.dispatcher = Dispatcher([Upstream(self.engine, window)], RULES)
        self.hub = Hub(self.dispatcher, MemoryStore(), policy)
        self.completer = Completer(self.hub)
        if not cold:
            self.completer.warm("")

    def ask(
        self, prompt: str, *, lane: str | None = "a", kind: Kind = "foreground", **fields: Any
    ) -> Caller:
        (caller,) = self.ask_all(prompt, lane=lane, kind=kind, **fields)
        return caller

    def ask_all(
        self, prompt: str, *, lane: str | None = "a", kind: Kind = "foreground", **fields: Any
    ) -> list[Caller]:
        ahead = kind != "foreground"
        requests = [replace(one, ahead=ahead) for one in asked(prompt, **fields)]
        terms = terms_for(TERMS, requests[0])
        return self.completer.submit(requests, terms=terms, lane=lane, kind=kind)

    async def call(self, number: int = -1) -> Call:
        """An engine's call, once it has it."""
        await turns()
        return self.engine.calls[number]

    async def close(self) -> None:
        await self.hub.close(0)
        assert self.dispatcher.reserved == 0


def asked(prompt: str, **fields: Any) -> list[Request]:
    return parse_completions({"prompt": prompt, "suffix": "\n)", **fields})


async def turns(count: int = 4) -> None:
    """Let the loop turn, in no time."""
    for _ in range(count):
        await asyncio.sleep(0)


def said(caller: Caller) -> str:
    return "".join(event.delta for event in caller.live.log.read(-1))


def ended(caller: Caller) -> bool:
    return caller.live.log.sealed


# Latest wins.


@virtual
async def test_a_newer_request_supersedes_the_older_one_at_once() -> None:
    """Its caller has ended when the new one is accepted, and its upstream is let go of."""
    bench = Bench()
    old = bench.ask("foo")
    call = await bench.call()
    call.sink.text("bar")
    await turns()
    new = bench.ask("quux")
    assert (ended(old), old.superseded, old.reason) == (True, True, "superseded")
    await turns()
    assert call.result.cancelled()
    (await bench.call()).sink.text("corge")
    await turns()
    assert (said(new), len(bench.engine.calls)) == ("corge", 2)
    await bench.close()


@virtual
async def test_the_same_request_is_a_sibling_and_supersedes_nobody() -> None:
    """Each gets a text of its own; a different one supersedes them all."""
    bench = Bench()
    siblings = [bench.ask("foo") for _ in range(3)]
    await turns()
    assert len(bench.engine.calls) == 3
    assert not any(ended(one) for one in siblings)
    bench.ask("other")
    assert all(one.superseded for one in siblings)
    await turns()
    assert [call.result.cancelled() for call in bench.engine.calls] == [True] * 3 + [False]
    await bench.close()


@virtual
async def test_the_same_text_that_is_to_end_elsewhere_is_another_request() -> None:
    bench = Bench()
    old = bench.ask("foo", single_line=True)
    bench.ask("foo")
    assert old.superseded
    await bench.close()


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"seed": 7}])
@virtual
async def test_where_nothing_is_left_to_chance_siblings_share_one_text(
    fields: dict[str, Any],
) -> None:
    bench = Bench()
    first, second = bench.ask("foo", **fields), bench.ask("foo", **fields)
    call = await bench.call()
    call.sink.text("bar")
    call.finish()
    await turns()
    assert [said(first), said(second)] == ["bar", "bar"]
    assert len(bench.engine.calls) == 1
    assert not first.superseded
    await bench.close()


@virtual
async def test_lanes_and_kinds_do_not_supersede_each_other() -> None:
    bench = Bench()
    callers = [
        bench.ask("foo"),
        bench.ask("bar", lane="b"),
        bench.ask("quux", kind="speculative"),
        bench.ask("foo", lane=None),
        bench.ask("bar", lane=None),
    ]
    await turns()
    assert not any(ended(one) for one in callers)
    assert len(bench.engine.calls) == 5
    await bench.close()


@virtual
async def test_several_texts_of_one_body_are_superseded_together() -> None:
    bench = Bench()
    callers = bench.ask_all("foo", n=3)
    await turns()
    bench.ask("bar")
    assert [one.superseded for one in callers] == [True] * 3
    await turns()
    assert [call.result.cancelled() for call in bench.engine.calls] == [True] * 3 + [False]
    await bench.close()


@virtual
async def test_a_request_that_is_refused_leaves_nothing_behind() -> None:
    bench = Bench()
    with pytest.raises(HubError, match="No model"):
        bench.ask("foo", model="unknown")
    assert bench.completer.statistics().running == 0
    bench.ask("foo")
    await bench.close()


@virtual
async def test_a_caller_that_goes_away_stops_its_upstream() -> None:
    bench = Bench()
    caller = bench.ask("foo")
    call = await bench.call()
    bench.completer.leave(caller, "a")
    await turns()
    assert call.result.cancelled()
    assert bench.completer.statistics().ended == {"cancelled": 1}
    await bench.close()


@virtual
async def test_a_cancelled_lane_stops_all_that_it_waits_for() -> None:
    bench = Bench()
    callers = [bench.ask("foo"), bench.ask("foobar", kind="speculative")]
    await turns()
    bench.completer.cancel("a")
    await turns()
    assert [one.reason for one in callers] == ["cancelled"] * 2
    assert all(call.result.cancelled() for call in bench.engine.calls)
    bench.completer.cancel("never seen")
    await bench.close()


@virtual
async def test_a_failure_of_the_model_server_is_the_callers() -> None:
    bench = Bench()
    caller = bench.ask("foo")
    call = await bench.call()
    call.result.set_exception(HubError("upstream_rejected_request", "no"))
    await turns()
    error = caller.live.recorder.error
    assert error is not None
    assert error.code == "upstream_rejected_request"
    await bench.close()


# Type-through.


@virtual
async def test_what_was_typed_as_predicted_is_answered_from_the_running_prediction() -> None:
    """The old caller has ended, the stream lives on, and the new one is told the rest only."""
    bench = Bench()
    old = bench.ask("re")
    call = await bench.call()
    call.sink.text("turn a")
    await turns()
    new = bench.ask("retu")
    assert (old.superseded, new.reused, said(new)) == (True, True, "rn a")
    call.sink.text(" + b")
    call.finish()
    await turns()
    assert (said(new), ended(new), new.reason) == ("rn a + b", True, "stop")
    assert len(bench.engine.calls) == 1
    await bench.close()


@virtual
async def test_an_ended_prediction_answers_in_the_same_call() -> None:
    """With its own end, and as often as somebody types along."""
    bench = Bench()
    first = bench.ask("re")
    call = await bench.call()
    call.sink.text("turn a")
    call.finish("length")
    await turns()
    bench.completer.leave(first, "a")
    for prompt, rest in (("ret", "urn a"), ("return", " a"), ("re" + "turn ", "a")):
        caller = bench.ask(prompt)
        assert (said(caller), ended(caller), caller.reason) == (rest, True, "length")
        bench.completer.leave(caller, "a")
    assert len(bench.engine.calls) == 1
    # Nothing is left to say: that is a question of its own.
    bench.ask("return a")
    await turns()
    assert len(bench.engine.calls) == 2
    await bench.close()


@virtual
async def test_who_types_faster_than_the_model_waits_as_long_as_it_agrees() -> None:
    bench = Bench()
    bench.ask("re")
    call = await bench.call()
    new = bench.ask("return")
    call.sink.text("tu")
    await turns()
    assert (said(new), len(bench.engine.calls)) == ("", 1)
    call.sink.text("rn a")
    await turns()
    assert said(new) == " a"
    await bench.close()


@virtual
async def test_the_first_character_that_differs_ends_the_agreement() -> None:
    """The old stream is let go of, and the caller gets a prediction of its own."""
    bench = Bench()
    bench.ask("re")
    call = await bench.call()
    new = bench.ask("return")
    call.sink.text("to")
    await turns()
    assert call.result.cancelled()
    own = await bench.call()
    assert own is not call
    own.sink.text(" a")
    own.finish()
    await turns()
    assert (said(new), new.reused, ended(new)) == (" a", False, True)
    await bench.close()


@virtual
async def test_a_prediction_that_ends_before_what_was_typed_is_no_answer() -> None:
    bench = Bench()
    bench.ask("re")
    call = await bench.call()
    new = bench.ask("return")
    call.sink.text("tu")
    call.finish()
    await turns()
    own = await bench.call()
    own.sink.text(" a")
    await turns()
    assert said(new) == " a"
    await bench.close()


@virtual
async def test_what_breaks_off_tells_nobody_what_was_typed_already() -> None:
    """It failed before it got as far as the caller, who is told that, and no text."""
    bench = Bench()
    bench.ask("re")
    call = await bench.call()
    new = bench.ask("return")
    call.sink.text("tu")
    call.result.set_exception(HubError("upstream_error", "no"))
    await turns()
    assert (said(new), new.live.recorder.status) == ("", "failed")
    await bench.close()


@virtual
async def test_a_bound_that_hub_sets_keeps_nobody_from_typing_through() -> None:
    """Who names no number of tokens has hub's, like what was predicted."""
    bench = Bench(policy=Policy(output_tokens=5))
    bench.ask("re")
    (await bench.call()).sink.text("turn")
    await turns()
    assert said(bench.ask("ret")) == "urn"
    await bench.close()


@virtual
async def test_who_wants_no_alternatives_goes_on_with_what_runs() -> None:
    """The same request again is a newer one then: the older one ends."""
    bench = Bench()
    old = bench.ask("re")
    call = await bench.call()
    call.sink.text("tu")
    await turns()
    (new,) = bench.completer.submit(asked("re"), terms=TERMS, lane="a", alternatives=False)
    call.sink.text("rn")
    await turns()
    assert (old.reason, new.reused, said(new)) == ("superseded", True, "turn")
    assert len(bench.engine.calls) == 1
    await bench.close()


@pytest.mark.parametrize(
    "fields", [{"suffix": "other"}, {"temperature": 0.5}, {"max_tokens": 3}, {"stop": "x"}]
)
@virtual
async def test_another_question_is_not_answered_by_typing_through(fields: dict[str, Any]) -> None:
    bench = Bench()
    bench.ask("re")
    (await bench.call()).sink.text("turn a")
    await turns()
    bench.ask("ret", **fields)
    await turns()
    assert len(bench.engine.calls) == 2
    await bench.close()


@virtual
async def test_a_correction_finds_the_prediction_from_before_the_mistake() -> None:
    """A wrong key, then a backspace: the text is as it was, and so is what was predicted for the
    text before."""
    bench = Bench()
    first = bench.ask("r")
    call = await bench.call()
    call.sink.text("eturn a")
    call.finish()
    await turns()
    bench.completer.leave(first, "a")
    bench.completer.leave(bench.ask("rx"), "a")
    again = bench.ask("re")
    assert (said(again), ended(again)) == ("turn a", True)
    await bench.close()


@virtual
async def test_what_was_asked_ahead_of_time_answers_the_one_who_comes_there() -> None:
    """A client asks for what may come after the completion that it shows; its user takes it."""
    bench = Bench()
    ahead = bench.ask("return a", kind="speculative")
    call = await bench.call()
    call.sink.text(" + b")
    call.finish()
    await turns()
    bench.completer.leave(ahead, "a")
    caller = bench.ask("return a")
    assert (said(caller), caller.reused, ended(caller)) == (" + b", True, True)
    await bench.close()


@virtual
async def test_what_was_asked_ahead_of_time_is_let_go_of_when_nobody_can_come_there() -> None:
    bench = Bench()
    ahead = bench.ask("return a", kind="speculative")
    call = await bench.call()
    call.sink.text(" + b")
    await turns()
    bench.ask("retur")
    assert not ended(ahead)
    bench.ask("return None")
    assert ahead.superseded
    await turns()
    assert call.result.cancelled()
    await bench.close()


@virtual
async def test_who_waits_does_not_wait_behind_what_was_asked_ahead_of_time() -> None:
    """What has no place yet is of the last class, and is given up soon."""
    bench = Bench(window=1)
    bench.ask("busy", lane="b")
    busy = await bench.call()
    bench.ask("return a", kind="speculative")
    caller = bench.ask("return a")
    assert not caller.reused
    await asyncio.sleep(RULES[Class.SPECULATIVE].patience + 1)
    assert not ended(caller)
    busy.finish()
    (await bench.call()).sink.text(" + b")
    await turns()
    assert said(caller) == " + b"
    await bench.close()


# A cold model.


@virtual
async def test_a_model_that_loads_is_not_let_go_of() -> None:
    """The old caller has ended, the load goes on; of those who come meanwhile the latest gets its
    own text when the model has said something."""
    bench = Bench(cold=True)
    first = bench.ask("foo")
    call = await bench.call()
    second = bench.ask("bar")
    third = bench.ask("baz")
    await turns()
    assert [first.superseded, second.superseded, ended(third)] == [True, True, False]
    assert (len(bench.engine.calls), call.result.done()) == (1, False)
    call.sink.text("x")
    await turns()
    assert call.result.cancelled()
    (await bench.call()).sink.text("y")
    await turns()
    assert (said(third), len(bench.engine.calls)) == ("y", 2)
    # It is loaded: the next one supersedes at once.
    bench.ask("qux")
    await turns()
    assert bench.engine.calls[1].result.cancelled()
    await bench.close()


@virtual
async def test_who_agrees_with_what_a_loading_model_says_follows_it() -> None:
    bench = Bench(cold=True)
    bench.ask("foo")
    call = await bench.call()
    bench.ask("bar")
    new = bench.ask("foob")
    call.sink.text("bar")
    await turns()
    assert said(new) == "ar"
    assert len(bench.engine.calls) == 1
    await bench.close()


@virtual
async def test_several_texts_of_one_body_stay_several_after_a_load() -> None:
    bench = Bench(cold=True)
    bench.ask("foo")
    call = await bench.call()
    callers = bench.ask_all("foob", n=2)
    call.sink.text("bar")
    await turns()
    assert call.result.cancelled()
    for number, text in ((1, "x"), (2, "y")):
        (await bench.call(number)).sink.text(text)
    await turns()
    assert [said(one) for one in callers] == ["x", "y"]
    await bench.close()


@virtual
async def test_a_client_that_goes_away_does_not_stop_the_load() -> None:
    bench = Bench(cold=True)
    bench.completer.leave(bench.ask("foo"), "a")
    bench.completer.leave(bench.ask("foo"), "a")
    call = await bench.call()
    assert bench.completer.statistics().held == 1
    assert not call.result.done()
    call.sink.text("x")
    await turns()
    assert call.result.cancelled()
    await bench.close()


@virtual
async def test_a_load_that_fails_is_tried_again_by_who_waits() -> None:
    bench = Bench(cold=True)
    bench.ask("foo")
    call = await bench.call()
    new = bench.ask("bar")
    call.result.set_exception(HubError("upstream_rejected_request", "no"))
    await turns()
    (await bench.call()).sink.text("y")
    await turns()
    assert said(new) == "y"
    await bench.close()


@virtual
async def test_a_model_that_has_said_nothing_for_long_may_have_to_load_again() -> None:
    bench = Bench()
    await asyncio.sleep(WARM)
    bench.ask("foo")
    call = await bench.call()
    bench.ask("bar")
    await turns()
    assert not call.result.done()
    await bench.close()


@virtual
async def test_a_request_that_found_no_place_says_nothing_of_the_model() -> None:
    """It is as loaded as before: the next one supersedes at once."""
    bench = Bench()
    bench.ask("foo", kind="speculative")
    (await bench.call()).result.set_exception(HubError("deadline_exceeded", "full"))
    await turns()
    bench.ask("bar")
    call = await bench.call()
    bench.ask("baz")
    await turns()
    assert call.result.cancelled()
    await bench.close()


@virtual
async def test_nobody_waits_for_the_load_of_another_model() -> None:
    bench = Bench(cold=True)
    bench.ask("foo")
    await bench.call()
    bench.ask("bar")
    new = bench.ask("bar", model="m")
    call = await bench.call()
    assert call.generation.model == "m"
    call.sink.text("y")
    await turns()
    assert said(new) == "y"
    await bench.close()


# Bounds.


@virtual
async def test_a_lane_remembers_few_predictions_and_forgets_what_they_held() -> None:
    bench = Bench()
    for number in range(3 * KEPT):
        caller = bench.ask(f"{number:04}", suffix="y" * 1000)
        call = await bench.call()
        call.sink.text("x" * 6)
        call.finish()
        await turns()
        bench.completer.leave(caller, "a")
    # What is behind the gap is remembered, too.
    assert caller.live.asked > 1000
    assert bench.completer.statistics().kept_bytes == KEPT * (caller.live.asked + 6)
    await bench.close()


@virtual
async def test_lanes_on_which_all_is_refused_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.completer.MAX_LANES", 2)
    bench = Bench(policy=Policy(output_tokens=5))
    for number in range(5):
        for fields in ({"model": "unknown"}, {"max_tokens": 6}):
            with pytest.raises(HubError):
                bench.ask("foo", lane=f"{number} {fields}", **fields)
    assert bench.completer.statistics().lanes <= 2
    await bench.close()


@virtual
async def test_unused_lanes_are_forgotten_the_oldest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.completer.MAX_LANES", 2)
    bench = Bench()
    running = bench.ask("foo", lane="in use")
    for number in range(5):
        bench.completer.leave(bench.ask("foo", lane=f"{number}"), f"{number}")
    assert bench.completer.statistics().lanes == 2
    assert not ended(running)
    bench.completer.leave(running, "in use")
    await bench.close()


# The rule of it all.

KEYS = st.lists(
    st.one_of(
        st.sampled_from("abc"),
        st.sampled_from(["backspace", "say", "finish", "break", "wait", "leave"]),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(KEYS, st.text(alphabet="abc", min_size=40, max_size=60), st.booleans())
def test_nobody_is_told_anything_but_what_follows_its_own_text(
    keys: list[str], truth: str, cold: bool
) -> None:
    """Whatever is typed and whenever the model says something: only those at the latest text are
    told anything more; what they are told is what a model said of that text, or of its beginning;
    and at rest nothing runs."""

    @virtual
    async def run() -> None:
        bench = Bench(cold=cold)
        texts: dict[int, str] = {}
        text = ""
        callers: list[Caller] = []
        for key in keys:
            match key:
                case "say" | "finish" | "break":
                    for number, call in enumerate(bench.engine.calls):
                        if not call.result.done():
                            before = texts.get(number, "")
                            at = len(call.generation.prompt or "") + len(before)
                            piece = truth[at % 40 : at % 40 + 2]
                            texts[number] = before + piece
                            call.sink.text(piece)
                            if key == "finish":
                                call.finish()
                            elif key == "break":
                                call.result.set_exception(HubError("upstream_error", "no"))
                case "wait":
                    await turns()
                case "leave":
                    if callers:
                        bench.completer.leave(callers[-1], "a")
                case _:
                    text = text[:-1] if key == "backspace" else text + key
                    callers.append(bench.ask(text))
            for one in callers:
                assert ended(one) or one.live.recorder.request.generation.prompt == text
        await turns(10)
        said_of = [
            (call.generation.prompt or "") + texts.get(number, "")
            for number, call in enumerate(bench.engine.calls)
        ]
        for one in callers:
            prompt = one.live.recorder.request.generation.prompt or ""
            whole = prompt + said(one)
            assert whole == prompt or any(other.startswith(whole) for other in said_of)
        for one in callers:
            bench.completer.leave(one, "a")
        for call in bench.engine.calls:
            if not call.result.done():
                call.sink.text("x")
        await turns(10)
        assert bench.completer.statistics().running == 0
        await bench.close()

    run()


@virtual
async def test_a_request_whose_time_is_over_at_once_fails() -> None:
    """Its prediction has ended before there was anybody to be told."""
    bench = Bench()
    late = replace(TERMS, patience=0.0)
    (caller,) = bench.completer.submit(asked("foo"), terms=late, lane="a")
    await turns()
    error = caller.live.recorder.error
    assert error is not None
    assert error.code == "deadline_exceeded"
    await bench.close()
