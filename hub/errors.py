"""Every error that hub tells anyone, in one table.

A code says what happened; its row says what every transport makes of it: the HTTP status, the
``type`` of the error object, whose fault it is, and whether the same request may succeed later.
``HubError`` carries a code, so raising a code that has no row fails at once.

Sources: the error object and its types are OpenAI's (``{"error": {message, type, param, code}}``);
the WebSocket codes are those of its WebSocket mode (``previous_response_not_found``,
``invalid_stream_id``, ``websocket_*``).
"""

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any


class Fault(Enum):
    """Whose fault an error is, and so who has to act."""

    CLIENT = "client"
    """The request is wrong: sending it again unchanged will fail again."""
    CAPACITY = "capacity"
    """Nobody is wrong: hub or a model server is full. Wait and send it again."""
    UPSTREAM = "upstream"
    """The model server failed or lied."""
    HUB = "hub"
    """A defect of hub itself."""


class CloseCode(IntEnum):
    """WebSocket close codes that hub sends. A close code is an instruction to the client.

    1000, 1002, 1007, 1008, 1009: stop; the same conduct on a new connection ends the same
    way. 1001, 1011, 1012, 1013: connect again.
    """

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013


@dataclass(frozen=True, slots=True)
class Row:
    """What the transports make of one error code."""

    status: int
    type: str
    fault: Fault
    retryable: bool = False


_BAD = "invalid_request_error"
_SERVER = "server_error"

TABLE: dict[str, Row] = {
    # The request cannot be understood.
    "invalid_http": Row(400, _BAD, Fault.CLIENT),
    "invalid_json": Row(400, _BAD, Fault.CLIENT),
    "invalid_type": Row(400, _BAD, Fault.CLIENT),
    "invalid_value": Row(400, _BAD, Fault.CLIENT),
    "missing_required_parameter": Row(400, _BAD, Fault.CLIENT),
    "unsupported_parameter": Row(400, _BAD, Fault.CLIENT),
    "unsupported_value": Row(400, _BAD, Fault.CLIENT),
    "unknown_event_type": Row(400, _BAD, Fault.CLIENT),
    "invalid_stream_id": Row(400, _BAD, Fault.CLIENT),
    "message_too_large": Row(413, _BAD, Fault.CLIENT),
    # Its network was slow, or it was: the next try may be faster.
    "request_timeout": Row(408, _BAD, Fault.CAPACITY, True),
    # The request names something that is not there.
    "not_found": Row(404, _BAD, Fault.CLIENT),
    "model_not_found": Row(404, _BAD, Fault.CLIENT),
    "response_not_found": Row(404, _BAD, Fault.CLIENT),
    "previous_response_not_found": Row(400, _BAD, Fault.CLIENT),
    "method_not_allowed": Row(405, _BAD, Fault.CLIENT),
    "upgrade_required": Row(426, _BAD, Fault.CLIENT),
    # The model server refused the request itself.
    "context_length_exceeded": Row(400, _BAD, Fault.CLIENT),
    "upstream_rejected_request": Row(400, _BAD, Fault.CLIENT),
    # llama.cpp's status and type for a model that cannot fill in the middle.
    "fim_not_supported": Row(501, "not_supported_error", Fault.CLIENT),
    # Who asks, and what he may.
    "invalid_api_key": Row(401, _BAD, Fault.CLIENT),
    "class_not_allowed": Row(403, _BAD, Fault.CLIENT),
    "admin_required": Row(403, _BAD, Fault.CLIENT),
    "origin_not_allowed": Row(403, _BAD, Fault.CLIENT),
    "host_not_allowed": Row(421, _BAD, Fault.CLIENT),
    "lab_not_allowed": Row(403, _BAD, Fault.CLIENT),
    # Bounds.
    "websocket_stream_limit_reached": Row(400, _BAD, Fault.CLIENT),
    "websocket_connection_limit_reached": Row(400, _BAD, Fault.CAPACITY, True),
    "rate_limit_exceeded": Row(429, "rate_limit_error", Fault.CAPACITY, True),
    "too_many_connections": Row(503, _SERVER, Fault.CAPACITY, True),
    "deadline_exceeded": Row(503, _SERVER, Fault.CAPACITY, True),
    "store_unavailable": Row(503, _SERVER, Fault.CAPACITY, True),
    "idempotency_conflict": Row(409, _BAD, Fault.CLIENT),
    "shutting_down": Row(503, _SERVER, Fault.CAPACITY, True),
    # The model server.
    "upstream_overloaded": Row(503, _SERVER, Fault.UPSTREAM, True),
    "upstream_unavailable": Row(502, _SERVER, Fault.UPSTREAM, True),
    "upstream_timeout": Row(504, _SERVER, Fault.UPSTREAM, True),
    "upstream_protocol_error": Row(502, _SERVER, Fault.UPSTREAM, True),
    "upstream_incomplete_stream": Row(502, _SERVER, Fault.UPSTREAM, True),
    # It said more than hub keeps of one response, and would say it again.
    "response_too_large": Row(502, _SERVER, Fault.UPSTREAM),
    "upstream_error": Row(502, _SERVER, Fault.UPSTREAM, True),
    "worker_lost": Row(500, _SERVER, Fault.HUB, True),
    # Hub.
    "server_error": Row(500, _SERVER, Fault.HUB, True),
}


class HubError(Exception):
    """An error with a row in ``TABLE``.

    ``param`` names the request's field at fault, in the dialect's own spelling. ``retry_after``
    (seconds) is set where hub can say when to try again. ``message`` is shown to clients: it never
    holds a key, a prompt or an address inside.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.row = TABLE[code]
        self.message = message
        self.param = param
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status, also the ``status`` of a WebSocket error frame."""
        return self.row.status

    def body(self) -> dict[str, Any]:
        """The inner error object: ``{message, type, param, code}``."""
        return {
            "message": self.message,
            "type": self.row.type,
            "param": self.param,
            "code": self.code,
        }

    def __repr__(self) -> str:
        return f"HubError({self.code!r}, {self.message!r}, param={self.param!r})"
