"""WebSocket frames on the way out. RFC 6455, section 5.2. Pure.

hub's frames are final, unmasked text frames, so a frame is a header of 2, 4 or 10 bytes and the
payload. Writing them here instead of through a library saves most of what a token costs: the
payload is encoded once for all readers, and only its length decides the header.
"""

_TEXT = 0x81


def text_frame(payload: bytes) -> bytes:
    """One text frame."""
    return _header(len(payload)) + payload


def event_frame(wire: bytes, tail: bytes) -> bytes:
    """One text frame of an event's JSON without its closing brace, and what closes it."""
    return b"%b%b%b" % (_header(len(wire) + len(tail)), wire, tail)


def _header(length: int) -> bytes:
    if length < 126:
        return bytes((_TEXT, length))
    if length < 65536:
        return b"%c\x7e%b" % (_TEXT, length.to_bytes(2))
    return b"%c\x7f%b" % (_TEXT, length.to_bytes(8))
