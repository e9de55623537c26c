"""Webhooks: what the configured endpoints are told when a background response has ended.

The event and its signature are Standard Webhooks (standardwebhooks.com) as OpenAI uses it: the
event names the response, and the receiver fetches the rest. The signature is made by that project's
own library, which is 120 lines without dependencies.

A webhook is a row in the store from the moment that its response ends, so what is due survives a
restart. It is delivered *at least once*: a receiver tells repetitions by ``webhook-id``. An answer
of 2xx acknowledges it; 410 Gone gives it up; everything else, redirects included, is a failure, and
it is tried again (``backoff``) until ``LIFETIME`` after the response's end.

Pure: this module makes rows and decides; ``hub.server.courier`` delivers.
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum

import orjson
from standardwebhooks import Webhook
from yarl import URL

from hub.api.ids import new_id
from hub.server.addresses import is_public, parse_host
from hub.store.base import Delivery

EVENTS = frozenset({"completed", "failed", "cancelled", "incomplete"})
"""The statuses of which webhooks tell."""
PORTS = (443, 8443)
"""Where endpoints on the internet may listen: hub speaks to no other service there."""
LEAST_SECRET = 24
"""Bytes that a secret has at least (Standard Webhooks: 24 to 64)."""

FIRST = 10.0
LONGEST = 4 * 3600.0
"""Seconds that a retry is put off at most: ``FIRST`` after the first try, then twice as long after
each one, up to ``LONGEST``."""
LIFETIME = 72 * 3600.0
"""Seconds after the response's end in which retries begin."""


# Endpoints.


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Somebody who is told. While a secret is being replaced, the same URL appears once with each;
    what it is sent is signed with all of them."""

    url: str
    secret: str = field(repr=False)

    @property
    def key(self) -> bytes:
        """The key of the signature: what is after ``whsec_``, decoded; or all of it, as it is.

        So does the ``openai`` SDK; the ``standardwebhooks`` library, given text, would decode both.
        Raises ``ValueError`` if it is not base64.
        """
        encoded = self.secret.removeprefix("whsec_")
        if encoded == self.secret:
            return self.secret.encode()
        return base64.b64decode(encoded, validate=True)


def parse_endpoint(text: str, *, allow_private: bool = False) -> Endpoint:
    """An endpoint as it is configured: its URL with the secret for a fragment, ``URL#SECRET``.

    A fragment is the part of a URL that is never sent; and the text has no spaces, so several fit
    into one environment variable. Raises ``ValueError`` whose message names what is wrong, and
    neither the secret nor more of the URL than its host.
    """
    address, _, secret = text.partition("#")
    if not text.isprintable() or " " in text:
        raise ValueError("a webhook is URL#SECRET, without spaces or control characters")
    try:
        url = URL(address)
    except (ValueError, IndexError):
        # The reason would show the URL, which may hold a password. IndexError is a defect of yarl
        # (seen in 1.25, with ``https://[]@``).
        raise ValueError("a webhook is URL#SECRET, and this has no valid URL") from None
    host = url.raw_host
    if url.scheme not in ("https", "http") or not host:
        raise ValueError("a webhook is URL#SECRET, with a URL that begins with https://HOST")
    what = f"the webhook of {host}"
    if url.user is not None or url.password is not None:
        raise ValueError(f"{what} must not have a user or password in its URL")
    if url.scheme == "http" and not allow_private:
        raise ValueError(f"{what} needs https: http is for private addresses, if those are allowed")
    if url.port not in PORTS and not allow_private:
        raise ValueError(f"{what} is at port {url.port}; it may be {' or '.join(map(str, PORTS))}")
    try:
        literal = parse_host(host)
    except ValueError as error:
        raise ValueError(f"{what} has no valid host: {error}") from None
    if literal is not None and not allow_private and not is_public(literal):
        raise ValueError(f"{what} is at an address that is not public")
    endpoint = Endpoint(address, secret)
    if not secret:
        raise ValueError(f"{what} has no secret: it is URL#SECRET")
    try:
        size = len(endpoint.key)
    except ValueError:
        raise ValueError(f"{what} has a secret that is not base64 after whsec_") from None
    if size < LEAST_SECRET:
        raise ValueError(f"{what} has a secret of {size} bytes; {LEAST_SECRET} are the least")
    return endpoint


# Events.


def event_body(response_id: str, status: str, created_at: float) -> tuple[str, bytes]:
    """The id and the body of the event that a response has ended, with one of ``EVENTS``, at that
    time (Unix, s)."""
    assert status in EVENTS, f"no event tells of the status {status!r}"
    id = new_id("evt")
    event = {
        "id": id,
        "object": "event",
        "created_at": int(created_at),
        "type": f"response.{status}",
        "data": {"id": response_id},
    }
    return id, orjson.dumps(event)


def deliveries_of(
    endpoints: Iterable[Endpoint], response_id: str, status: str, now: float
) -> list[Delivery]:
    """The rows that tell every endpoint of a response's end; for ``Store.complete``.

    Each is an event of its own, since a row is known by its event's id.
    """
    rows = []
    for url in dict.fromkeys(endpoint.url for endpoint in endpoints):
        id, body = event_body(response_id, status, now)
        rows.append(Delivery(id=id, response_id=response_id, url=url, body=body, next_at=now))
    return rows


def signed(keys: Sequence[Webhook], id: str, body: bytes, now: float) -> dict[str, str]:
    """The headers of a try at that time (Unix, s): receivers refuse those 300 s off their clock."""
    timestamp = int(now)
    at = datetime.fromtimestamp(timestamp, UTC)
    return {
        "content-type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(key.sign(id, at, body.decode()) for key in keys),
    }


# What comes of a try.


class Outcome(Enum):
    """What an answer means."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """Try again."""
    GONE = "gone"
    """The receiver wants no more of this."""


def outcome(status: int | None) -> Outcome:
    """What an HTTP status means; None: there was no answer."""
    if status is not None and 200 <= status < 300:
        return Outcome.DELIVERED
    return Outcome.GONE if status == 410 else Outcome.FAILED


def backoff(tries: int, chance: float) -> float:
    """Seconds from a failed try to the next one, ``tries`` having failed before it.

    Exponential with full jitter: ``chance``, in [0, 1), is how much of the longest delay it is.
    """
    # The exponent is bounded, as the power of thousands of tries is no float any more.
    return chance * min(LONGEST, FIRST * 2.0 ** min(tries, 32))


def next_try(delivery: Delivery, now: float, chance: float) -> float | None:
    """When to try again after a failure at ``now``; None: give it up.

    Its age is that of the event, which its body tells, as a row does not keep the time of its first
    try. The two differ when hub was down: what is older than ``LIFETIME`` by then has one try.
    """
    at = now + backoff(delivery.tries, chance)
    began = orjson.loads(delivery.body)["created_at"]
    return at if at <= began + LIFETIME else None
