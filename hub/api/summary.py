"""The content of a compaction item: hub's own encoding of a summary.

Clients pass it back as it is. It is not secret: it holds nothing that the client has not sent or
been told.
"""

import base64

import orjson

_PREFIX = "hub1."


def summary_content(summary: str) -> str:
    """The content of a compaction item."""
    return _PREFIX + base64.urlsafe_b64encode(orjson.dumps({"summary": summary})).decode()


def content_summary(content: str) -> str:
    """The summary in a compaction item. Raises ``ValueError`` if hub did not make it."""
    if not content.startswith(_PREFIX):
        raise ValueError("another server's compaction")
    try:
        summary = orjson.loads(base64.urlsafe_b64decode(content.removeprefix(_PREFIX)))["summary"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("a damaged compaction") from error
    if not isinstance(summary, str) or summary_content(summary) != content:
        raise ValueError("a damaged compaction")
    return summary
