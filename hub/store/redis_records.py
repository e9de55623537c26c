"""Records, segments and deliveries, as Redis keeps them and as the scripts give them."""

from collections.abc import Sequence
from typing import Any

from hub.store.base import Delivery, Record, Segment

MOST_PUSHED = 64 << 10
"""Bytes of a segment that is sent to its followers; they have to fetch a larger one."""


def number(value: float) -> str:
    """A float that comes back as it was."""
    return repr(float(value))


def record_fields(record: Record) -> list[Any]:
    """Names and values, in turn. What is ``None`` is left out."""
    fields: list[Any] = [
        "tenant",
        record.tenant,
        "status",
        record.status,
        "background",
        int(record.background),
        "created_at",
        number(record.created_at),
        "expires_at",
        number(record.expires_at),
        "request",
        record.request,
        "attempt",
        record.attempt,
    ]
    if record.previous_response_id is not None:
        fields += ["previous", record.previous_response_id]
    if record.result is not None:
        fields += ["result", record.result]
    if record.cancelled:
        fields += ["cancelled", 1]
    return fields


def record_of(id: str, reply: Sequence[bytes]) -> Record:
    """The record of what ``HGETALL`` gives, which is not empty."""
    fields = dict(zip(reply[::2], reply[1::2], strict=True))
    previous = fields.get(b"previous")
    return Record(
        id=id,
        tenant=fields[b"tenant"].decode(),
        status=fields[b"status"].decode(),
        background=fields[b"background"] == b"1",
        created_at=float(fields[b"created_at"]),
        expires_at=float(fields[b"expires_at"]),
        request=fields[b"request"],
        previous_response_id=previous.decode() if previous is not None else None,
        result=fields.get(b"result"),
        attempt=int(fields[b"attempt"]),
        cancelled=b"cancelled" in fields,
    )


def entry_id(segment: Segment) -> str:
    """The place of a segment in a Stream. It rises with ``last``, and ``XRANGE`` from ``after + 2``
    gives what reaches beyond ``after``."""
    return f"{segment.last + 1}-{segment.first}"


def segment_of(entry: Sequence[Any]) -> Segment:
    """The segment of an entry of a Stream."""
    end, _, first = entry[0].partition(b"-")
    return Segment(int(first), int(end) - 1, entry[1][1])


def segment_fields(segment: Segment | None) -> list[Any]:
    """First, last, entry, body: empty if there is none."""
    if segment is None:
        return ["", "", "", b""]
    return [segment.first, segment.last, entry_id(segment), segment.body]


def is_pushed(segment: Segment | None) -> int:
    """Whether its body is sent to its followers: 1 or 0."""
    return int(segment is not None and len(segment.body) <= MOST_PUSHED)


def delivery_fields(delivery: Delivery) -> list[Any]:
    """Its id, and what ``delivery_of`` takes."""
    return [
        delivery.id,
        delivery.response_id,
        delivery.url,
        delivery.body,
        number(delivery.next_at),
        delivery.tries,
    ]


def delivery_of(reply: Sequence[Any]) -> Delivery:
    """A delivery as a script gives it."""
    id, (response, url, body, next_at, tries) = reply
    return Delivery(id.decode(), response.decode(), url.decode(), body, float(next_at), int(tries))
