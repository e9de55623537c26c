"""Completions for somebody who types: the latest wins, and what was predicted is not asked again.

A *lane* is one place in which one person types. What generates there is a *prediction*: a response
that was dispatched. Whoever asks is a *caller*, with a response of its own, whose log is written
by following a prediction's, from its beginning or from somewhere in it. So a caller may come and go
without the generation, and the generation may change owners. The rules:

1. **Latest wins.** A new request of a lane supersedes the older ones of its kind at once: their
   callers end, and predictions that nobody follows any more are let go of. One that is the same in
   every respect is a sibling and supersedes nobody: editors ask for alternatives that way.
2. **Type-through.** If what was typed since a prediction began agrees with what it says, the new
   request follows it from there, whether it still runs or has ended. While it has not got as far
   as the typist, it may yet agree; from the first character that differs it may not.
3. **Alternatives.** The same prompt of the same kind gets a text of its own, unless nothing in it
   is left to chance. What was asked for ahead of time (another kind) is there to be used.
4. **A cold model** may take a minute to load, and a server that loses its client stops loading. So
   a prediction that has said nothing, of a model that has said nothing lately, is not let go of;
   who comes later waits for it, the latest only.
5. A speculative prediction that no text from here on can agree with is let go of.

A request that asks for several texts is superseded like any other and never typed through. All
calls are plain; predictions are followed once per turn of the loop.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from hub.api.infill import Kind
from hub.api.requests import Request
from hub.dispatch.terms import Terms
from hub.errors import Fault, HubError
from hub.hub import Hub
from hub.prediction import Caller, Prediction, prompt_of

WARM = 300.0
"""Seconds for which a model counts as loaded after it has said something: Ollama unloads after
five minutes."""
MAX_MODELS = 256
KEPT = 8
"""Ended predictions of a lane that may still be agreed with."""
MAX_LANES = 4096
"""Lanes that are remembered. Those in use do not count."""
MAX_KEPT_BYTES = 32 << 20
"""About how much their predictions may hold."""


@dataclass(slots=True, eq=False)
class Group:
    """The callers of one request: one body, or several that are the same."""

    key: tuple[Request, ...]
    kind: Kind
    callers: list[Caller]


class Lane:
    """What is known of one place in which somebody types."""

    def __init__(self) -> None:
        self.groups: dict[Kind, Group] = {}
        """The latest request of each kind, while it has callers."""
        self.running: list[Prediction] = []
        self.ended: deque[Prediction] = deque(maxlen=KEPT)
        """Latest first."""
        self.held: Prediction | None = None
        """It may be loading its model. Rule 4."""
        self.waiting: list[Caller] = []
        """The callers that wait for it."""

    @property
    def idle(self) -> bool:
        return not (self.running or self.groups or self.waiting)

    @property
    def size(self) -> int:
        return sum(one.size for one in self.ended)

    def group_of(self, caller: Caller) -> Group:
        """The group of one that has not been superseded."""
        return next(group for group in self.groups.values() if caller in group.callers)

    def find(
        self, requests: Sequence[Request], kind: Kind, *, alternatives: bool = True
    ) -> Prediction | None:
        """A prediction that the request of a body may follow, if it is the only one."""
        if len(requests) > 1:
            return None
        (request,) = requests
        for one in (*reversed(self.running), *self.ended):
            if one.agrees(request, kind, alternatives=alternatives):
                return one
        return None


@dataclass(frozen=True, slots=True)
class CompleterStatistics:
    """What it is doing, and what it has done since the start."""

    running: int
    """Predictions that are generated."""
    lanes: int
    kept_bytes: int
    asked: int
    """Requests that came on a lane."""
    dispatched: int
    """Predictions that were asked of a model server."""
    reused: int
    """Requests that were answered from what was predicted before."""
    superseded: int
    held: int
    """Predictions that nobody wanted any more, and that went on to load their model."""
    wasted_tokens: int
    """Tokens of predictions that were let go of."""
    ended: dict[str, int]
    """Callers, by why they ended."""
    accepted_characters: int
    """That clients have reported."""


class Completer:
    """See the top of this file."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lanes: OrderedDict[Hashable, Lane] = OrderedDict()
        self._warm: OrderedDict[str, float] = OrderedDict()
        self._kept_bytes = 0
        self._counts: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()

    def submit(
        self,
        asked: Sequence[Request],
        *,
        tenant: str = "",
        terms: Terms,
        lane: Hashable = None,
        kind: Kind = "foreground",
        alternatives: bool = True,
    ) -> list[Caller]:
        """Answer what one body asks for: a caller for each request, to be left when it was read.

        Without a lane each is a response like any other. Without ``alternatives`` the same request
        again is a newer one, not a sibling. Raises ``HubError`` if one is refused: none of them is
        asked for then.
        """
        if lane is None:
            return self._submit_all(asked, tenant, terms)
        self._counts["asked"] += 1
        callers = [Caller(self._hub.new(one, tenant=tenant, terms=terms)) for one in asked]
        state = self._lane(lane)
        # As they are dispatched: within hub's bounds.
        requests = tuple(caller.live.recorder.request for caller in callers)
        found = state.find(requests, kind, alternatives=alternatives)
        group = state.groups.get(kind)
        if group is None or group.key != requests or not alternatives:
            self._supersede(state, kind, prompt_of(asked[0]), found)
            group = state.groups[kind] = Group(requests, kind, [])
        group.callers += callers
        try:
            for caller in callers:
                self._ask(state, caller, kind, found)
        except HubError:
            for caller in callers:
                self._drop(state, caller)
            raise
        finally:
            self._forget()
        return callers

    def leave(self, caller: Caller, lane: Hashable = None) -> None:
        """Its client has all of it, or is gone."""
        if lane is None:
            self._hub.leave(caller.live)
            return
        state = self._lanes.get(lane)
        if not caller.live.recorder.ended:
            caller.live.cancelled()
        self._ended[caller.reason] += 1
        if state is not None:
            self._drop(state, caller)

    def cancel(self, lane: Hashable) -> None:
        """End whatever a lane's callers wait for."""
        state = self._lanes.get(lane)
        for group in [*state.groups.values()] if state is not None else ():
            for caller in [*group.callers]:
                if not caller.live.recorder.ended:
                    caller.live.cancelled()
                assert state is not None
                self._drop(state, caller)

    def accepted(self, characters: int) -> None:
        """A client tells that its user took so much of a completion."""
        self._counts["accepted"] += characters

    def statistics(self) -> CompleterStatistics:
        return CompleterStatistics(
            running=sum(len(lane.running) for lane in self._lanes.values()),
            lanes=len(self._lanes),
            kept_bytes=self._kept_bytes,
            asked=self._counts["asked"],
            dispatched=self._counts["dispatched"],
            reused=self._counts["reused"],
            superseded=self._counts["superseded"],
            held=self._counts["held"],
            wasted_tokens=self._counts["wasted"],
            ended=dict(self._ended),
            accepted_characters=self._counts["accepted"],
        )

    # Asking.

    def _submit_all(self, asked: Sequence[Request], tenant: str, terms: Terms) -> list[Caller]:
        callers: list[Caller] = []
        try:
            for one in asked:
                live = self._hub.submit(one, tenant=tenant, terms=terms)
                self._hub.join(live)
                callers.append(Caller(live))
        except HubError:
            for caller in callers:
                self._hub.leave(caller.live)
            raise
        return callers

    def _ask(self, state: Lane, caller: Caller, kind: Kind, found: Prediction | None) -> None:
        """Let a caller follow what was found, wait for a model that loads, or have its own."""
        if found is not None:
            caller.reused = True
            self._counts["reused"] += 1
            if found.live is None:
                caller.answer(found)
                return
            caller.live.started()
            caller.follow(found)
            if not caller.advance():
                raise AssertionError("what agrees can be followed")
        elif state.held is not None and state.held.request.model == caller.live.generation.model:
            state.waiting.append(caller)
        else:
            self._dispatch(state, caller, kind)

    def _dispatch(self, state: Lane, caller: Caller, kind: Kind) -> None:
        """Ask a model server. Raises ``HubError``."""
        asks = caller.live
        live = self._hub.submit(asks.recorder.request, tenant=asks.tenant, terms=asks.terms)
        self._hub.join(live)
        self._counts["dispatched"] += 1
        prediction = Prediction(live, kind, lambda one: self._news(state, one))
        state.running.append(prediction)
        if not caller.live.recorder.dispatched:
            caller.live.started()
        caller.reused = False
        caller.follow(prediction)

    def _again(self, state: Lane, caller: Caller) -> None:
        """What a caller has followed is not for it: find it another one."""
        self._leave(state, caller)
        group = state.group_of(caller)
        try:
            self._ask(state, caller, group.kind, state.find(group.key, group.kind))
        except HubError as error:
            caller.live.failed(error)

    # News.

    def _news(self, state: Lane, prediction: Prediction) -> None:
        prediction.read()
        if prediction.text:
            self.warm(prediction.request.model)
        for caller in [*prediction.callers]:
            if not caller.live.recorder.ended and not caller.advance():
                self._again(state, caller)
        if state.held is prediction and (prediction.text or prediction.ended):
            self._loaded(state)
        if prediction.ended:
            self._over(state, prediction)

    def _over(self, state: Lane, prediction: Prediction) -> None:
        """A prediction has ended: keep it, if it may be agreed with."""
        if prediction not in state.running:
            return
        state.running.remove(prediction)
        live = prediction.live
        assert live is not None
        error = live.recorder.error
        if error is not None and error.row.fault is Fault.UPSTREAM:
            self._warm.pop(prediction.request.model, None)
        self._hub.leave(live)
        prediction.let_go()
        if live.recorder.status in ("completed", "incomplete") and prediction.text:
            before = state.size
            state.ended.appendleft(prediction)
            self._kept_bytes += state.size - before

    def _loaded(self, state: Lane) -> None:
        """What was held has said something or has ended: whoever waits for it may go on."""
        held, state.held = state.held, None
        waiting, state.waiting = state.waiting, []
        for caller in waiting:
            self._again(state, caller)
        if held is not None:
            self._release(state, held)

    def warm(self, model: str) -> None:
        """A model has said something, so it is loaded."""
        self._warm[model] = _now()
        self._warm.move_to_end(model)
        if len(self._warm) > MAX_MODELS:
            self._warm.popitem(last=False)

    # Letting go.

    def _supersede(self, state: Lane, kind: Kind, prompt: str, found: Prediction | None) -> None:
        """Rules 1 and 5."""
        gone = [state.groups.pop(kind)] if kind in state.groups else []
        ahead = state.groups.get("speculative")
        if kind == "foreground" and ahead is not None:
            useful = [
                caller.prediction is not None
                and (caller.prediction is found or caller.prediction.reachable(prompt))
                for caller in ahead.callers
            ]
            if not any(useful):
                gone.append(state.groups.pop("speculative"))
        for group in gone:
            for caller in [*group.callers]:
                if not caller.live.recorder.ended:
                    caller.superseded = True
                    self._counts["superseded"] += 1
                    caller.live.cancelled()
                self._leave(state, caller, keep=found)

    def _drop(self, state: Lane, caller: Caller) -> None:
        """A caller is gone."""
        for kind, group in [*state.groups.items()]:
            if caller in group.callers:
                group.callers.remove(caller)
                if not group.callers:
                    del state.groups[kind]
        self._leave(state, caller)

    def _leave(self, state: Lane, caller: Caller, keep: Prediction | None = None) -> None:
        if caller in state.waiting:
            state.waiting.remove(caller)
        prediction = caller.leave()
        if prediction is not None and prediction is not keep:
            self._release(state, prediction)

    def _release(self, state: Lane, prediction: Prediction) -> None:
        """Let go of a prediction, if nobody follows it and it does not load a model."""
        live = prediction.live
        if live is None or prediction.callers or prediction is state.held:
            return
        if not prediction.ended and state.held is None and self._loads(prediction):
            self._counts["held"] += 1
            state.held = prediction
            return
        if not prediction.ended:
            state.running.remove(prediction)
            # An event of the log is a token, but for the first three.
            self._counts["wasted"] += max(0, live.tokens - 3)
            self._hub.leave(live)
            prediction.let_go()

    def _loads(self, prediction: Prediction) -> bool:
        """Whether its model may be loading. Rule 4."""
        live = prediction.live
        if prediction.text or live is None or live.ledger.between("received", "dispatched") is None:
            return False
        return _now() - self._warm.get(prediction.request.model, -WARM) >= WARM

    # Lanes.

    def _lane(self, key: Hashable) -> Lane:
        state = self._lanes.get(key)
        if state is None:
            state = self._lanes[key] = Lane()
        self._lanes.move_to_end(key)
        return state

    def _forget(self) -> None:
        """Keep to the bounds, the longest unused lanes first."""
        for key in [*self._lanes]:
            if len(self._lanes) <= MAX_LANES and self._kept_bytes <= MAX_KEPT_BYTES:
                return
            state = self._lanes[key]
            if state.idle:
                self._kept_bytes -= state.size
                del self._lanes[key]


def _now() -> float:
    return asyncio.get_running_loop().time()
