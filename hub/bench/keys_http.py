"""One HTTP message of an editor or of the oracle, taken apart by httptools. Pure."""

import httptools

from hub.bench.wire import WireError


class Message:
    """Reads one request or one response. ``feed`` it with what arrives, until it is ``done``.

    What it says of itself stands once it is ``headed``.
    """

    def __init__(self, *, response: bool) -> None:
        self.headed = self.done = False
        self.target = b""
        """A request's method and path."""
        self.status = 0
        """A response's."""
        self.kind = b""
        """Its content type."""
        self._pieces: list[bytes] = []
        self._parser: httptools.HttpRequestParser | httptools.HttpResponseParser = (
            httptools.HttpResponseParser(self) if response else httptools.HttpRequestParser(self)
        )

    def feed(self, data: bytes) -> bytes:
        """What ``data`` adds to the body. Raises ``WireError``."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise WireError(str(error)) from None
        body = b"".join(self._pieces)
        self._pieces.clear()
        return body

    # What httptools calls.

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self.kind = value

    def on_headers_complete(self) -> None:
        self.headed = True
        if isinstance(self._parser, httptools.HttpResponseParser):
            self.status = self._parser.get_status_code()
        else:
            self.target = self._parser.get_method() + b" " + self.target

    def on_body(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def on_message_complete(self) -> None:
        self.done = True
