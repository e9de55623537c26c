"""The conversation on one WebSocket: messages in, turns on lanes, their events out.

What a message asks for and what may start is decided in ``lanes.py``; here the turns are run. Most
start at once. One that needs the store first (a parent or a response that is not in memory) starts
when the store has answered, and one with a long chain when its messages are made; its lane is
active meanwhile, so the order holds.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson

from hub import logs
from hub.api.prompt import completed
from hub.api.requests import Json, Request
from hub.api.responses import parse_create
from hub.completer import Completer
from hub.dispatch.terms import Terms
from hub.errors import HubError
from hub.hub import Hub
from hub.live import Live
from hub.log import Event
from hub.server.auth import Gate
from hub.server.cache import ResponseCache
from hub.server.completion_lanes import CompletionLanes
from hub.server.frames import event_frame
from hub.server.lanes import (
    Cancel,
    Command,
    Complete,
    Create,
    LaneError,
    Lanes,
    Resume,
    Steer,
    Turn,
    decode,
)
from hub.server.outbox import Outbox, Subscription
from hub.server.parser import Parser, is_long
from hub.server.terms import terms_for

logger = logging.getLogger("hub.session")


def understand(data: bytes) -> Command:
    """What a text message asks for. Raises ``LaneError``, and ``UnicodeDecodeError`` if it is not
    UTF-8."""
    try:
        return decode(data)
    except LaneError as refusal:
        if refusal.error.code == "invalid_json":
            data.decode()
        raise


def understand_all(data: bytes) -> Command:
    """``understand``, and what a create asks for as well: all of the work, for another thread."""
    command = understand(data)
    if not isinstance(command, Create):
        return command
    asked: Request | HubError
    try:
        asked = completed(parse_create(command.body))
    except HubError as error:
        # It is told when the turn comes.
        asked = error
    return replace(command, asked=asked)


class _Running:
    """A turn whose response is read on its lane."""

    __slots__ = ("live", "moved", "parent", "subscription", "turn")

    def __init__(self, turn: Turn, live: Live, parent: str | None) -> None:
        self.turn = turn
        self.live = live
        self.parent = parent
        self.subscription: Subscription | None = None
        self.moved: Callable[[], None] = lambda: None
        """What is called when another node goes on with the response."""


class Session:
    """See the top of this file. All calls are plain."""

    def __init__(
        self,
        hub: Hub,
        outbox: Outbox,
        send: Callable[[Json], None],
        *,
        parser: Parser,
        completer: Completer,
        gate: Gate,
        tenant: str,
        terms: Terms,
        on_idle: Callable[[], None],
    ) -> None:
        """``send`` sends a message that is no event; ``terms`` hold for all requests, each of which
        asks ``gate``; what is stored is the ``tenant``'s; ``on_idle`` is called when nothing runs
        and nothing waits any more."""
        self._hub = hub
        self._outbox = outbox
        self._send = send
        self._parser = parser
        self._gate = gate
        self._tenant = tenant
        self._terms = terms
        self._on_idle = on_idle
        policy = hub.policy
        self._lanes = Lanes(
            max_lanes=policy.lanes, max_active=policy.active_lanes, max_waiting=policy.waiting
        )
        self._completions = CompletionLanes(
            completer, outbox, send, gate=gate, tenant=tenant, terms=terms, on_idle=self._rest
        )
        self._cache = ResponseCache()
        self._running: dict[str | None, _Running] = {}
        self._starting: dict[asyncio.Task[None], Turn] = {}
        self._unwanted: list[Turn] = []
        """Turns that were cancelled before they had a response: it is, once they have one."""
        self._expired = False
        self.handed_over = False
        """What was read here goes on at other nodes, since this one stops."""

    @property
    def idle(self) -> bool:
        """Whether nothing runs here and nothing waits."""
        return self._lanes.idle and self._completions.idle

    @property
    def lanes(self) -> tuple[int, int]:
        """How many lanes run a response, and how many creates wait for their turn."""
        return self._lanes.active, self._lanes.waiting

    def expire(self, message: str) -> None:
        """Tell the client that this connection takes no more turns, and take none."""
        self._expired = True
        self.refuse(HubError("websocket_connection_limit_reached", message))

    def close(self) -> None:
        """The connection is gone: stop reading everything."""
        for task in self._starting:
            task.cancel()
        self._completions.close()
        # What it holds does not wait for a collection of garbage.
        self._cache = ResponseCache()
        running, self._running = self._running, {}
        for one in running.values():
            one.live.stay(one.moved)
            self._hub.leave(one.live)

    def receive(self, command: Callable[[], Command]) -> None:
        """A message: what it asks for is what ``command`` returns, or raises, as ``understand``
        does. Raises ``UnicodeDecodeError`` if that does."""
        try:
            match command():
                case Create() | Resume() as turn:
                    self._admit(turn.lane)
                    self._run(self._lanes.add(turn))
                case Cancel() as cancel:
                    self._cancel(cancel)
                case Steer() as steer:
                    self._refuse_steer(steer)
                case Complete() as message:
                    if message.body["type"] in ("completion.create", "completion.type"):
                        self._admit(message.lane)
                    self._completions.receive(message)
        except LaneError as refusal:
            self.refuse(refusal.error, refusal.lane)

    def refuse(self, error: HubError, lane: str | None = None) -> None:
        """Answer a lane, or the connection, with an error."""
        frame: Json = {"type": "error", "status": error.status, "error": error.body()}
        if error.retry_after is not None:
            frame["headers"] = {"retry-after": str(error.retry_after)}
        if lane is not None:
            frame["stream_id"] = lane
        self._send(frame)

    # Turns.

    def _admit(self, lane: str | None) -> None:
        if self._expired:
            raise LaneError(
                HubError(
                    "websocket_connection_limit_reached",
                    "This connection takes no new requests. Create a new websocket connection.",
                ),
                lane,
            )

    def _run(self, turn: Turn | None) -> None:
        """Start a turn, and while starting fails, whatever may start in its place."""
        while turn is not None:
            try:
                self._start(turn)
                return
            except HubError as error:
                turn = self._failed(turn, error)
            except Exception:
                # The boundary of one turn: its lane goes on with the next one.
                logger.exception("a turn could not start")
                turn = self._failed(turn, _defect())
        self._rest()

    def _rest(self) -> None:
        if self.idle:
            self._on_idle()

    def _failed(self, turn: Turn, error: HubError) -> Turn | None:
        """A turn could not start: say so, and give the one that may start instead."""
        self.refuse(error, turn.lane)
        self._unwanted = self._others(turn)
        parent = turn.body.get("previous_response_id") if isinstance(turn, Create) else None
        if error.status != 429 and isinstance(parent, str):
            self._cache.failed(parent, turn.lane)
        return self._lanes.finish(turn.lane)

    def _start(self, turn: Turn) -> None:
        if isinstance(turn, Resume):
            live = self._hub.find(turn.response_id, tenant=self._tenant)
            if live is None:
                self._later(turn, partial(self._resume, turn))
            else:
                self._read(turn, live, cursor=turn.starting_after)
            return
        if turn.body.get("background"):
            raise HubError(
                "unsupported_value",
                "'background' is not available on a WebSocket.",
                param="background",
            )
        request = turn.asked or parse_create(turn.body)
        if isinstance(request, HubError):
            raise request
        parent = request.previous_response_id
        context = () if parent is None else self._cache.get(parent)
        if context is None or is_long(request, context):
            self._later(turn, partial(self._continue, turn, request, context))
        else:
            self._create(turn, request, context)

    def _later(self, turn: Turn, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a turn when the store has answered, or the parser."""

        async def begin() -> None:
            try:
                await start()
            except HubError as error:
                self._run(self._failed(turn, error))
            except Exception:
                # The same boundary.
                logger.exception("a turn could not start")
                self._run(self._failed(turn, _defect()))

        task = asyncio.create_task(begin())
        self._starting[task] = turn
        task.add_done_callback(self._starting.pop)

    async def _resume(self, turn: Resume) -> None:
        live = await self._hub.open(turn.response_id, tenant=self._tenant)
        self._read(turn, live, cursor=turn.starting_after)

    async def _continue(
        self, turn: Create, request: Request, context: Sequence[Json] | None
    ) -> None:
        if context is None:
            context = await self._hub.context(request, tenant=self._tenant)
        self._create(turn, await self._parser.with_messages(request, context), context)

    def _create(self, turn: Turn, request: Request, context: Sequence[Json]) -> None:
        terms = terms_for(self._terms, request)
        self._gate.admit(terms, request)
        live = self._hub.submit(request, context, tenant=self._tenant, terms=terms)
        self._read(turn, live, cursor=-1, parent=request.previous_response_id)

    def _read(self, turn: Turn, live: Live, *, cursor: int, parent: str | None = None) -> None:
        live.check_cursor(cursor, "starting_after")
        self._hub.join(live)
        running = _Running(turn, live, parent)
        running.moved = partial(self._moved, running)
        self._running[turn.lane] = running
        running.subscription = self._outbox.subscribe(
            live.log,
            _renderer(turn.lane),
            cursor=cursor,
            on_end=partial(self._ended, running),
            on_text=partial(live.ledger.wrote, "first_written"),
        )
        live.when_moved(running.moved)
        others = self._others(turn)
        if len(others) < len(self._unwanted):
            self._unwanted = others
            self._hub.cancel(live)

    def _moved(self, one: _Running) -> None:
        """Another node goes on with a lane's response: read it as that one writes it, unless this
        node stops; then the client comes back for the rest to a node that lives."""
        assert one.subscription is not None
        self._outbox.unsubscribe(one.subscription)
        lane, cursor = one.turn.lane, one.subscription.cursor
        del self._running[lane]
        self._hub.leave(one.live)
        if self._hub.closing:
            self.handed_over = True
            self._run(self._lanes.finish(lane))
        else:
            self._later(one.turn, partial(self._go_along, one, cursor))

    async def _go_along(self, one: _Running, cursor: int) -> None:
        live = await self._hub.open(one.live.kept_as, tenant=self._tenant)
        self._read(one.turn, live, cursor=cursor, parent=one.parent)

    def _ended(self, one: _Running) -> None:
        """The terminal event of a lane's response was written."""
        lane, live = one.turn.lane, one.live
        live.stay(one.moved)
        logs.written(live)
        del self._running[lane]
        self._hub.leave(live)
        if live.recorder.status != "failed":
            self._cache.put(live.id, lane, live.history(), one.turn.size + live.log.size)
        elif one.parent is not None:
            self._cache.failed(one.parent, lane)
        self._run(self._lanes.finish(lane))

    # Other messages.

    def _cancel(self, cancel: Cancel) -> None:
        if cancel.response_id is None:
            # A cancel that meets the end of the response has nothing left to do.
            one = self._running.get(cancel.lane)
            coming = self._coming(cancel.lane)
            if one is not None:
                self._hub.cancel(one.live)
            elif coming is not None:
                # Once, however often it is said.
                self._unwanted = [*self._others(coming), coming]
            return
        for one in self._running.values():
            if one.live.id == cancel.response_id:
                self._hub.cancel(one.live)
                return
        error = HubError(
            "response_not_found",
            f"No response '{cancel.response_id[:64]}' is running on this connection.",
            param="response_id",
        )
        raise LaneError(error, cancel.lane)

    def _coming(self, lane: str | None) -> Turn | None:
        """The turn of a lane that has no response yet and gets the next one."""
        starting = (turn for turn in self._starting.values() if turn.lane == lane)
        return next(starting, None) or self._lanes.first_waiting(lane)

    def _others(self, turn: Turn) -> list[Turn]:
        """Those that were cancelled early, but for this one."""
        return [one for one in self._unwanted if one is not turn]

    def _refuse_steer(self, steer: Steer) -> None:
        answer: Json = {
            "type": "response.steer.failed",
            "sequence_number": 0,
            "steer": {"input": steer.input, "previous_response_id": steer.previous_response_id},
            "error": {
                "type": "invalid_request_error",
                "code": "steering_not_supported",
                "message": "hub does not support steering a running response.",
            },
        }
        for lane, one in self._running.items():
            if one.live.id == steer.previous_response_id:
                answer["sequence_number"] = one.live.log.last
                if lane is not None:
                    answer["stream_id"] = lane
        self._send(answer)


def _defect() -> HubError:
    return HubError("server_error", "The request failed inside hub.")


def _renderer(lane: str | None) -> Callable[[Event], bytes]:
    tail = b"}" if lane is None else b',"stream_id":' + orjson.dumps(lane) + b"}"

    def render(event: Event) -> bytes:
        return event_frame(event.wire, tail)

    return render
