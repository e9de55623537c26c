"""The lanes of one WebSocket: what a client's message asks for, and what may start. Pure.

Machines and rules of this file's world:

- A *lane* is named by the ``stream_id`` of a ``response.create``; without one it is the default
  lane. A ``response.resume`` runs on a lane just as a create does. A lane is *idle* or *active*:
  it runs one of them at a time.
- A create on an idle lane starts at once while fewer than ``max_active`` lanes are active.
  Otherwise it *waits*. The end of a response makes its lane idle and starts whoever has waited
  longest among those that may start: so lanes are FIFO inside and parallel across.
- A lane's name counts against ``max_lanes`` for the life of the connection, the default lane does
  not. What waits is bounded in number and in bytes.
- A create is checked when its turn comes, not when it arrives: its error is its lane's next
  terminal frame, so it must not overtake the response that runs there.

Sources: OpenAI's WebSocket mode (lanes, limits, codes); Open Responses 2026-04-24 (one response at
a time on a connection that uses no lanes). ``response.cancel`` and
``response.resume`` are hub's extensions.

What may not be in this file: a socket, a log, a clock, the meaning of a create's body.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from hub.api.requests import Fields, Json, Request, check_containers, check_depth, json_type
from hub.errors import HubError

MAX_LANES = 32
MAX_ACTIVE = 16
MAX_WAITING = 256
MAX_WAITING_BYTES = 8 << 20

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,256}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Create:
    """``response.create``: start a response on a lane (``None``: the default lane)."""

    lane: str | None
    body: Json
    size: int
    """Bytes of the message."""
    asked: Request | HubError | None = None
    """What the body asks for, or what is wrong with it, if that was found out already."""


@dataclass(frozen=True, slots=True)
class Resume:
    """``response.resume``: read a response on a lane, after the event ``starting_after``."""

    lane: str | None
    response_id: str
    starting_after: int
    size: int


Turn = Create | Resume
"""What a lane runs."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """``response.cancel``: stop a response, by its id or as the one that runs on a lane."""

    lane: str | None
    response_id: str | None


@dataclass(frozen=True, slots=True)
class Steer:
    """``response.steer``: add input to a running response."""

    previous_response_id: Any
    input: Any


@dataclass(frozen=True, slots=True)
class Ignore:
    """A message that asks for nothing."""


@dataclass(frozen=True, slots=True)
class Complete:
    """One of the ``completion.*`` messages, which are not checked here."""

    lane: str | None
    body: Json


Command = Turn | Cancel | Steer | Complete | Ignore


class LaneError(Exception):
    """An error, and the lane that it answers (``None``: the default lane, or the connection)."""

    def __init__(self, error: HubError, lane: str | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.lane = lane


def decode(data: bytes) -> Command:
    """What a client's text message asks for. Raises ``LaneError``, whatever the bytes are."""
    try:
        check_containers(data)
        message = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise LaneError(HubError("invalid_json", f"The message is not JSON: {error}.")) from None
    except HubError as error:
        raise LaneError(error) from None
    if not isinstance(message, dict):
        raise LaneError(
            HubError(
                "invalid_type", f"A message must be an object, but this is {json_type(message)}."
            )
        )
    lane = _lane(message)
    match message.get("type"):
        case "response.create":
            return Create(lane, message, len(data))
        case "response.resume":
            return _resume(message, lane, len(data))
        case "response.cancel":
            return Cancel(lane, _response_id(message, lane))
        case "response.steer":
            return _steer(message, lane)
        case "completion.create" | "completion.type" | "completion.cancel" | "completion.accepted":
            return Complete(lane, message)
        case "response.processed":
            # An acknowledgement that some clients send; nothing waits for it.
            return Ignore()
        case None:
            missing = HubError("missing_required_parameter", "'type' is required.", param="type")
            raise LaneError(missing, lane)
        case str(kind):
            unknown = HubError(
                "unknown_event_type", f"Unknown event type {kind[:64]!r}.", param="type"
            )
            raise LaneError(unknown, lane)
        case kind:
            wrong = HubError(
                "invalid_type",
                f"'type' must be a string, but it is {json_type(kind)}.",
                param="type",
            )
            raise LaneError(wrong, lane)


def _lane(message: Json) -> str | None:
    if "stream_id" not in message:
        return None
    name = message["stream_id"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise LaneError(
            HubError(
                "invalid_stream_id",
                "'stream_id' must be 1 to 256 letters, digits, underscores, hyphens or periods.",
                param="stream_id",
            )
        )
    return name


def _resume(message: Json, lane: str | None, size: int) -> Resume:
    fields = Fields(message)
    id = _response_id(message, lane)
    try:
        if id is None:
            raise fields.missing("response_id")
        cursor = fields.integer("starting_after", -1)
    except HubError as error:
        raise LaneError(error, lane) from None
    return Resume(lane, id, -1 if cursor is None else cursor, size)


def _response_id(message: Json, lane: str | None) -> str | None:
    id = message.get("response_id")
    if id is not None and not isinstance(id, str):
        error = HubError(
            "invalid_type",
            f"'response_id' must be a string, but it is {json_type(id)}.",
            param="response_id",
        )
        raise LaneError(error, lane)
    return id


def _steer(message: Json, lane: str | None) -> Steer:
    try:
        # Its answer repeats it.
        check_depth(message)
    except HubError as error:
        raise LaneError(error, lane) from None
    return Steer(message.get("previous_response_id"), message.get("input"))


class Lanes:
    """The lanes of one connection. See the rules at the top of this file."""

    def __init__(
        self,
        *,
        max_lanes: int = MAX_LANES,
        max_active: int = MAX_ACTIVE,
        max_waiting: int = MAX_WAITING,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        self._max_lanes = max_lanes
        self._max_active = max_active
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes
        self._names: set[str] = set()
        self._active: set[str | None] = set()
        self._waiting: list[Turn] = []
        self._waiting_bytes = 0

    @property
    def active(self) -> int:
        """How many lanes run a response."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """How many creates wait for their turn."""
        return len(self._waiting)

    def first_waiting(self, lane: str | None) -> Turn | None:
        """The turn of a lane that waits and comes next, if there is one."""
        return next((turn for turn in self._waiting if turn.lane == lane), None)

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._active and not self._waiting

    def add(self, create: Turn) -> Turn | None:
        """Accept a create: what to start now, or ``None`` if it waits.

        Who starts one calls ``finish`` when it has ended, however it ended. Raises ``LaneError``.
        """
        lane = create.lane
        if lane is not None and lane not in self._names:
            if len(self._names) >= self._max_lanes:
                raise LaneError(
                    HubError(
                        "websocket_stream_limit_reached",
                        f"A connection may use {self._max_lanes} different stream ids. "
                        "Use one of those that you have, or a new connection.",
                        param="stream_id",
                    ),
                    lane,
                )
            self._names.add(lane)
        if self._may_start(lane):
            self._active.add(lane)
            return create
        if (
            len(self._waiting) >= self._max_waiting
            or self._waiting_bytes + create.size > self._max_waiting_bytes
        ):
            raise LaneError(
                HubError(
                    "rate_limit_exceeded",
                    f"{len(self._waiting)} requests wait on this connection already.",
                    retry_after=1.0,
                ),
                lane,
            )
        self._waiting.append(create)
        self._waiting_bytes += create.size
        return None

    def finish(self, lane: str | None) -> Turn | None:
        """The response of a lane has ended: what to start next, if anything may."""
        self._active.remove(lane)
        for index, create in enumerate(self._waiting):
            if self._may_start(create.lane):
                del self._waiting[index]
                self._waiting_bytes -= create.size
                self._active.add(create.lane)
                return create
        return None

    def _may_start(self, lane: str | None) -> bool:
        # Enough for a create that has just arrived, too: while a place is free, whatever waits
        # does so for its own lane, so nobody is overtaken.
        return lane not in self._active and len(self._active) < self._max_active
