"""What a model server's HTTP answer to a prompt means: a stream, a whole message, or a refusal.

Pure. Implements ``exchange.Answer``. A stream's events go to the reader of its chunks as they come;
a whole message (from a server that ignores "stream") and a refusal's body are collected first.
"""

from typing import Protocol

from hub.api.sse import SseParser
from hub.engines.chat_errors import error_from_response
from hub.errors import HubError

MAX_BODY = 8 << 20
"""Bytes of an answer that is no stream."""
MAX_ERROR_BODY = 64 << 10
"""Bytes of an error's body that are read."""
ERROR_BODY_TIMEOUT = 5.0
"""Seconds for the body of an error. Without it the status has to do."""
USAGE_GRACE = 5.0
"""Seconds that the usage and ``[DONE]`` may take after the finish reason. The answer is whole by
then, so a server that forgets to close costs no more than this, and no error."""


class Reader(Protocol):
    """What reads the chunks of a stream, or the body of a whole message."""

    @property
    def done(self) -> bool: ...
    @property
    def finished(self) -> bool:
        """The model has said why it stopped."""
        ...

    def feed(self, payload: bytes) -> None: ...


class Relay:
    """One answer, on its way to one reader. Call ``end`` when the exchange is over."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._collecting = False
        """It is no stream: its body is read as a whole."""
        self._parser = SseParser()
        self._body = bytearray()
        self._most = MAX_BODY
        self.status = 0
        """The answer's, once it has begun."""
        self._retry_after: str | None = None
        self.done = False

    def head(self, status: int, headers: dict[str, str]) -> float | None:
        self.status = status
        if status != 200:
            self._retry_after = headers.get("retry-after")
            self._collecting, self._most = True, MAX_ERROR_BODY
            return ERROR_BODY_TIMEOUT
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/html":
            raise HubError("upstream_protocol_error", "The model server answered with a web page.")
        if kind == "application/json":
            self._collecting = True
        return None

    def feed(self, data: bytes) -> float | None:
        if self._collecting:
            self._body += data[: self._most + 1 - len(self._body)]
            self.done = len(self._body) > self._most
            return None
        reader = self._reader
        for payload in self._parser.feed(data):
            reader.feed(payload)
        if reader.done:
            self.done = True
        return USAGE_GRACE if reader.finished else None

    def end(self) -> None:
        """The answer is complete. Raises the ``HubError`` that a refusal means."""
        if self.status != 200:
            raise error_from_response(
                self.status, bytes(self._body[: self._most]), self._retry_after
            )
        if self.done and self._collecting:
            raise HubError(
                "upstream_protocol_error",
                f"The model server answered more than {MAX_BODY} bytes.",
            )
        if self._collecting:
            self._reader.feed(bytes(self._body))
