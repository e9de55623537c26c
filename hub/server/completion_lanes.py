"""Completions on a WebSocket: the lanes on which the latest wins.

    completion.create     the text before and behind the cursor, and how to complete it
    completion.type       the same, but for what was typed or deleted before the cursor since
    completion.cancel     no more of a lane's completions
    completion.accepted   the user took so many characters; has no answer

Each version of a lane is answered with any number of ``completion.delta``, and then with exactly
one ``completion.done`` or ``error``. A lane is one of an editor's buffers, say; it has nothing to
do with a lane of responses that has the same name.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import orjson

from hub.api.keystrokes import Asked, accepted_of, parse_asked, typed, version_of
from hub.api.recorder import TERMINAL_EVENTS
from hub.api.requests import Json
from hub.completer import Completer
from hub.dispatch.terms import Class, Terms
from hub.errors import HubError
from hub.log import Event
from hub.prediction import Caller
from hub.server.auth import Gate
from hub.server.frames import text_frame
from hub.server.lanes import Complete, LaneError
from hub.server.outbox import Outbox
from hub.server.terms import terms_for

MAX_LANES = 64
"""Lanes of a connection whose text is remembered, the longest unused ones being forgotten."""
MAX_CHARACTERS = 4 << 20
"""The most that their texts may have together; the latest is remembered in any case."""
MAX_OPEN = 256
"""Versions of a connection that have not been answered to their end."""
MAX_OPEN_BYTES = 8 << 20
"""About what they may hold, whose client sends and does not read."""


class CompletionLanes:
    """Those of one connection. See the top of this file. All calls are plain."""

    def __init__(
        self,
        completer: Completer,
        outbox: Outbox,
        send: Callable[[Json], None],
        *,
        gate: Gate,
        tenant: str,
        terms: Terms,
        on_idle: Callable[[], None],
    ) -> None:
        """``send`` sends a message of its own, ``on_idle`` is called when nobody waits any more."""
        self._completer = completer
        self._outbox = outbox
        self._send = send
        # Not its id(), which another connection may have later, and with it what was said here.
        self._own = object()
        self._gate = gate
        self._tenant = tenant
        self._terms = replace(terms, rank=Class.COMPLETION, lane="")
        self._on_idle = on_idle
        self._latest: OrderedDict[str | None, Asked] = OrderedDict()
        self._callers: dict[Caller, str | None] = {}
        """Those who wait, each with its lane."""

    @property
    def idle(self) -> bool:
        """Whether nobody waits for a completion."""
        return not self._callers

    def receive(self, message: Complete) -> None:
        """Do as a message asks. Raises ``LaneError`` for what has no version to answer."""
        lane, body = message.lane, message.body
        try:
            match body["type"]:
                case "completion.cancel":
                    self._completer.cancel(self._key(lane))
                    return
                case "completion.accepted":
                    self._completer.accepted(accepted_of(body))
                    return
            version = version_of(body)
        except HubError as error:
            raise LaneError(error, lane) from None
        try:
            self._complete(lane, version, body)
        except HubError as error:
            self._send(_named({**_error(error), "version": version}, lane))

    def close(self) -> None:
        """The connection is gone."""
        callers, self._callers = self._callers, {}
        for caller, lane in callers.items():
            self._completer.leave(caller, self._key(lane))

    def _complete(self, lane: str | None, version: int, body: Json) -> None:
        before = self._latest.get(lane)
        if before is not None and version <= before.version:
            # It was overtaken on its way.
            self._send(_named({"type": "completion.done", "version": version, **_STALE}, lane))
            return
        new = body["type"] == "completion.create"
        try:
            asked = parse_asked(body) if new else typed(before, body)
        except HubError:
            # What the text is now is not known: what is typed next would be added to the wrong one.
            self._latest.pop(lane, None)
            raise
        self._latest[lane] = asked
        self._latest.move_to_end(lane)
        while len(self._latest) > 1 and (
            len(self._latest) > MAX_LANES
            or sum(one.characters for one in self._latest.values()) > MAX_CHARACTERS
        ):
            self._latest.popitem(last=False)
        terms = terms_for(self._terms, asked.request)
        self._admit()
        self._gate.admit(terms, asked.request)
        (caller,) = self._completer.submit(
            [asked.request],
            tenant=self._tenant,
            terms=terms,
            lane=self._key(lane),
            kind=asked.kind,
            alternatives=False,
        )
        self._callers[caller] = lane
        self._outbox.subscribe(
            caller.live.log,
            _renderer(caller, version, lane),
            cursor=-1,
            on_end=lambda: self._ended(caller),
        )

    def _admit(self) -> None:
        """Refuse one more version, if too many are open. Raises ``HubError``."""
        held = sum(one.live.asked for one in self._callers)
        if len(self._callers) >= MAX_OPEN or held >= MAX_OPEN_BYTES:
            why = f"{len(self._callers)} versions are not answered to the end on this connection."
            raise HubError("rate_limit_exceeded", why, retry_after=1.0)

    def _ended(self, caller: Caller) -> None:
        self._completer.leave(caller, self._key(self._callers.pop(caller)))
        if not self._callers:
            self._on_idle()

    def _key(self, lane: str | None) -> tuple[object, str | None]:
        return self._own, lane


_STALE = {"reason": "superseded", "reused": False}


def _named(frame: Json, lane: str | None) -> Json:
    return frame if lane is None else {**frame, "stream_id": lane}


def _error(error: HubError) -> Json:
    return {"type": "error", "status": error.status, "error": error.body()}


def _renderer(caller: Caller, version: int, lane: str | None) -> Callable[[Event], bytes]:
    head = _named({"type": "completion.delta", "version": version}, lane)
    start = orjson.dumps(head)[:-1] + b',"delta":'

    def render(event: Event) -> bytes:
        if event.type == "response.output_text.delta":
            # What nobody wants any more is not told, although it was said.
            text = b"" if caller.superseded else orjson.dumps(event.delta)
            return text and text_frame(start + text + b"}")
        if event.type not in TERMINAL_EVENTS:
            return b""
        return text_frame(orjson.dumps(_named(_done(caller, version), lane)))

    return render


def _done(caller: Caller, version: int) -> Json:
    recorder = caller.live.recorder
    if recorder.error is not None:
        return {**_error(recorder.error), "version": version}
    done: Json = {
        "type": "completion.done",
        "version": version,
        "reason": caller.reason,
        "reused": caller.reused,
    }
    if recorder.reported_usage is not None:
        done["usage"] = recorder.reported_usage.chat()
    return done
