"""The simulated engine: a model server's timing and a chat model's output, without a model.

``sim_model`` says how long each iteration of the server takes and who has a token at its end,
``sim_text`` what the tokens are; this file lets the time pass on the event loop and calls the
sinks. One timer exists while there is work and none while there is not. A token costs plain calls:
no task, no queue and no await.
"""

import asyncio
import time
from collections import abc
from collections.abc import Callable
from dataclasses import dataclass

from hub.api.requests import Generation, Usage
from hub.engines import sim_faults, sim_text
from hub.engines.base import PAUSE, Load, Member, Sink, notes_of
from hub.engines.sim_faults import Fault
from hub.engines.sim_model import DEFAULT_PROFILE, Profile, Scheduler, Sequence
from hub.errors import HubError

MODEL = "sim"
MAX_LAG = 0.25
"""Seconds of a stalled event loop that are made up for afterwards. Lag within it costs no speed;
more of it than that is forgotten, since a burst of a minute's tokens would be like no server."""


_BREAKS = {
    "error": ("upstream_error", "The simulated engine fails, as it was asked."),
    "eof": (
        "upstream_incomplete_stream",
        "The simulated engine stops without an end, as it was asked.",
    ),
}
"""The faults that break an answer off, and as what."""


@dataclass(frozen=True, slots=True)
class SimStatistics:
    """What the engine is doing, and what it has done since it was made."""

    running: int
    waiting: int
    kv_used: int
    iterations: int
    tokens: int
    """Tokens that sinks were given."""
    finished: int
    failed: int
    aborted: int
    """Generations that were stopped before their end."""


class Run(Sequence):
    """One generation on its way. ``done`` resolves when it is over: to its failure, or to None."""

    __slots__ = (
        "breaks_after", "broken", "came", "done", "first", "notes", "over", "said", "script",
        "sink", "timer",
    )  # fmt: skip

    def __init__(
        self,
        prompt_tokens: int,
        script: sim_text.Script,
        sink: Sink,
        fault: Fault | None,
        done: asyncio.Future[Exception | None],
        now: float,
    ) -> None:
        """It comes ``now``, by the engine's own clock."""
        breaks = fault is not None and fault.kind in _BREAKS
        # The end of an empty answer takes a token to decode, too, and so does what breaks one.
        super().__init__(prompt_tokens, max(1, len(script) + breaks))
        self.script = script
        self.sink = sink
        self.notes = notes_of(sink)
        self.came = self.first = self.said = now
        self.broken: HubError | None = None
        self.breaks_after = 0
        if fault is not None and breaks:
            self.broken = HubError(*_BREAKS[fault.kind])
            self.breaks_after = min(fault.amount, len(script))
        self.done = done
        self.over = False
        self.timer: asyncio.TimerHandle | None = None

    def say(self, now: float) -> bool:
        """Tell the sink the token just decoded; true if it was the last."""
        if self.decoded == 1:
            self.first = now
        elif now - self.said >= PAUSE:
            self.notes.pause(now - self.said)
        self.said = now
        if self.broken is not None and self.decoded > self.breaks_after:
            raise self.broken
        if self.decoded <= len(self.script):
            self.script.say(self.decoded - 1, self.sink)
        return self.decoded == self.max_tokens

    def finish(self) -> None:
        """Tell the sink that this was all."""
        self.notes.timings((self.first - self.came) * 1000, (self.said - self.first) * 1000)
        self.sink.finish(self.script.finish)
        self.sink.usage(
            Usage(
                input_tokens=self.prompt_tokens,
                output_tokens=len(self.script),
                reasoning_tokens=len(self.script.reasoning),
            )
        )


class SimEngine:
    """An ``Engine`` (see ``base``) that simulates a server.

    ``speed`` is how many simulated seconds pass in one of the event loop's; ``seed`` makes both
    timing and texts reproducible. ``faults`` allows what ``sim_faults`` lists. ``clock`` (s) is
    what its ``timings`` are told by: not the loop's, whose grain is a millisecond with uvloop.
    """

    name = MODEL
    continues = True
    arrays = True

    def __init__(
        self,
        profile: Profile = DEFAULT_PROFILE,
        *,
        speed: float = 1.0,
        seed: int = 0,
        faults: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be positive, but it is {speed}")
        self.profile = profile
        self.slots: int | None = profile.slots
        self._speed = speed
        self._seed = seed
        self._faults = faults
        self._clock = clock
        self._scheduler: Scheduler[Run] = Scheduler(profile, seed)
        self._members: dict[Run, Member] = {}
        """The runs that belong to arrays and are not over."""
        self._timer: asyncio.Handle | None = None
        self._now = 0.0
        self._iterations = self._tokens = self._finished = self._failed = self._aborted = 0

    def serves(self, model: str) -> bool:
        return not model or model.startswith(MODEL)

    async def generate(self, generation: Generation, sink: Sink) -> None:
        run = self.start(generation, sink)
        try:
            failure = await run.done
        finally:
            self.stop(run)
        if failure is not None:
            raise failure

    async def generate_array(self, members: abc.Sequence[Member]) -> None:
        """See ``Engine``. The members run side by side, as if each had come alone.

        Nobody says when a member leaves: it is seen when an iteration ends, so one that hangs
        (``sim_faults``) stays until the task is cancelled.
        """
        runs: list[tuple[Run, Member]] = []
        defect: Exception | None = None
        try:
            for member in members:
                if member.left:
                    member.done(None)
                    continue
                try:
                    run = self.start(member.generation, member.sink)
                except HubError as refusal:
                    member.done(refusal)
                else:
                    self._members[run] = member
                    runs.append((run, member))
            while runs:
                going = [run.done for run, _ in runs]
                await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
                ended = [(run, member) for run, member in runs if run.done.done()]
                runs = [(run, member) for run, member in runs if not run.done.done()]
                for run, member in ended:
                    failure = None if run.done.cancelled() else run.done.result()
                    if failure is not None and not isinstance(failure, HubError):
                        defect = defect or failure
                        failure = HubError("server_error", "The request failed inside hub.")
                    member.done(None if member.left else failure)
        finally:
            for run, _ in runs:
                self.stop(run)
        if defect is not None:
            raise defect  # late, so that it changes nothing for the other members

    async def probe(self) -> Load:
        return Load(
            slots=self.profile.slots,
            kv_tokens=self.profile.kv_tokens,
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            kv_used=self._scheduler.kv_used / self.profile.kv_tokens,
        )

    async def models(self) -> list[str]:
        return [MODEL]

    async def close(self) -> None:
        assert not self._scheduler, "close the engine after its last generation"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def fault(self, model: str) -> Fault | None:
        """The fault that a model's name asks for, if faults are allowed."""
        return sim_faults.parse(model) if self._faults else None

    def start(self, generation: Generation, sink: Sink) -> Run:
        """The form of ``generate`` that does not wait.

        The sink's calls come from the event loop's timers. Wait for ``run.done``, and call ``stop``
        whatever came of it.
        """
        came = self._clock()
        if not self.serves(generation.model):
            raise HubError(
                "model_not_found",
                f"The simulated engine has no model '{generation.model[:64]}'.",
                param="model",
            )
        fault = self.fault(generation.model)
        loop = asyncio.get_running_loop()
        run = Run(
            sim_text.prompt_tokens(generation),
            sim_text.script(generation, self._seed),
            sink,
            fault,
            loop.create_future(),
            came,
        )
        if run.kv_tokens > self.profile.kv_tokens or (fault is not None and fault.kind == "400"):
            raise HubError(
                "context_length_exceeded",
                f"The prompt has {run.prompt_tokens} tokens and the answer {run.max_tokens}; "
                f"the context holds {self.profile.kv_tokens}.",
                param="messages" if generation.prompt is None else "prompt",
            )
        run.notes.mark("connected")
        match fault:
            case Fault("429" | "503", seconds):
                raise HubError(
                    "upstream_overloaded",
                    "The simulated engine is overloaded, as it was asked.",
                    retry_after=seconds,
                )
            case Fault("hang", _):
                pass
            case Fault("slow", seconds):
                run.timer = loop.call_later(seconds / self._speed, self._add, run)
            case _:
                self._add(run)
        return run

    def stop(self, run: Run) -> None:
        """Let go of a run at once: its slot and its cache are free. Harmless when it is over."""
        if not run.over:
            self._aborted += 1
            self._end(run)
            run.done.cancel()

    def statistics(self) -> SimStatistics:
        return SimStatistics(
            running=self._scheduler.running,
            waiting=self._scheduler.waiting,
            kv_used=self._scheduler.kv_used,
            iterations=self._iterations,
            tokens=self._tokens,
            finished=self._finished,
            failed=self._failed,
            aborted=self._aborted,
        )

    def _add(self, run: Run) -> None:
        run.timer = None
        self._scheduler.add(run)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._now = loop.time()
            # Not at once: who comes in the same turn of the loop shares the first iteration.
            self._timer = loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Begin an iteration. Once begun it takes its time, even if all of it is stopped."""
        loop = asyncio.get_running_loop()
        iteration = self._scheduler.iterate()
        self._iterations += 1
        # On an absolute schedule, so that late timers do not add up.
        self._now = max(self._now, loop.time() - MAX_LAG) + iteration.dt / self._speed
        self._timer = loop.call_at(self._now, self._finish, iteration.emitted)

    def _finish(self, emitted: list[Run]) -> None:
        """Tell the sinks what an iteration brought, and go on if there is more to do."""
        now = self._clock()
        for run in [run for run in self._members if self._left(run)]:
            self.stop(run)
        for run in emitted:
            if self._left(run):
                self.stop(run)  # another's sink has made it leave
            if run.done.done():
                # Stopped meanwhile, or about to be: its task was cancelled and has yet to run.
                self._scheduler.remove(run)
                continue
            try:
                last = run.say(now)
                if self._left(run):
                    self.stop(run)
                elif last and not run.over:
                    run.finish()
            # The boundary between generations: this one ends with whatever its sink or its fault
            # raised, and all the others go on.
            except Exception as failure:
                self._settle(run, failure)
            else:
                self._tokens += run.decoded <= len(run.script)
                if last:
                    self._settle(run, None)
        self._go_on()

    def _go_on(self) -> None:
        if not self._scheduler:
            self._timer = None
        elif self.profile.static and not self._scheduler.running:
            # As in _add: who comes in this turn of the loop belongs to the next batch.
            self._timer = asyncio.get_running_loop().call_soon(self._begin)
        else:
            self._begin()

    def _left(self, run: Run) -> bool:
        """Whether it belongs to an array whose owner does not want it any more."""
        member = self._members.get(run)
        return member is not None and member.left

    def _settle(self, run: Run, failure: Exception | None) -> None:
        # A sink may have stopped its own run, or cancelled the task that waits for it.
        if run.over:
            return
        self._finished += failure is None
        self._failed += failure is not None
        self._end(run)
        if not run.done.done():
            run.done.set_result(failure)

    def _end(self, run: Run) -> None:
        run.over = True
        self._members.pop(run, None)
        if run.timer is not None:
            run.timer.cancel()
        self._scheduler.remove(run)
