"""On what terms a request waits, as its headers, its endpoint and itself say. Pure.

    X-Hub-Class: completion | chat | background | speculative
                            how urgent it is; by default the endpoint's class
    X-Hub-Lane: NAME        requests of one lane leave in order of arrival; of completions the
                            latest wins
    X-Hub-Deadline-Ms: N    it must have been dispatched within so many ms

A request with ``service_tier: "flex"`` or ``background: true`` is of the background class, and one
that is made ahead of time of the speculative one, whatever the header says. Where hub asks for no
keys, who shares with others is told apart by the key that is sent all the same, whatever it is.
"""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from hashlib import blake2b

from hub.api.requests import Request
from hub.dispatch.terms import Class, Terms
from hub.errors import HubError

MAX_LANE = 128
MAX_DEADLINE_MS = 86_400_000
_CLASSES = {rank.label: rank for rank in Class}


def terms_of(headers: Mapping[str, str], rank: Class) -> Terms:
    """The terms of a request with such headers, at an endpoint whose class is ``rank``.

    Raises ``HubError`` ``invalid_value`` with the header's name as its ``param``.
    """
    name = headers.get("X-Hub-Class")
    if name is not None:
        if name.strip().lower() not in _CLASSES:
            raise _wrong("X-Hub-Class", f"must be one of {', '.join(_CLASSES)}")
        rank = _CLASSES[name.strip().lower()]
    lane = headers.get("X-Hub-Lane", "")
    if len(lane) > MAX_LANE:
        raise _wrong("X-Hub-Lane", f"has at most {MAX_LANE} characters")
    patience: float | None = None
    deadline = headers.get("X-Hub-Deadline-Ms")
    if deadline is not None:
        if not (deadline.isascii() and deadline.isdigit() and len(deadline) <= 8):
            raise _wrong("X-Hub-Deadline-Ms", "must be a number of milliseconds")
        if not 0 < int(deadline) <= MAX_DEADLINE_MS:
            raise _wrong("X-Hub-Deadline-Ms", f"must be between 1 and {MAX_DEADLINE_MS}")
        patience = int(deadline) / 1000
    return Terms(rank, _tenant(headers.get("Authorization", "")), lane, patience)


def terms_for(terms: Terms, request: Request) -> Terms:
    """The same terms, as far as the request itself says nothing else."""
    if request.ahead:
        return replace(terms, rank=Class.SPECULATIVE)
    waits = request.flex or request.background
    return replace(terms, rank=Class.BACKGROUND) if waits else terms


def lane_of(terms: Terms, request: Request, client: str) -> Hashable:
    """The place in which somebody types; ``None`` if nobody does.

    It is the lane that a request of the class ``completion`` names. A request to fill a gap has one
    in any case: a client's, which only knows itself by its address and name, for as long as what is
    behind the line of the cursor stays the same. Where nothing is, the first line tells the places
    of one client apart.
    """
    if terms.rank not in (Class.COMPLETION, Class.SPECULATIVE):
        return None
    if terms.lane:
        return terms.tenant, terms.lane
    generation = request.generation
    if generation.suffix is None:
        return None
    behind = generation.suffix.partition("\n")[2].strip()
    place = behind or (generation.prompt or "").lstrip().partition("\n")[0]
    digest = blake2b(place.encode(errors="surrogatepass"), digest_size=16).digest()
    return terms.tenant, client, generation.model, bool(behind), digest


def _tenant(authorization: str) -> str:
    # Not the key itself: it would show in every dump of the queue.
    if not authorization:
        return ""
    # Bytes that are no UTF-8 come as lone surrogates.
    return blake2b(authorization.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _wrong(header: str, why: str) -> HubError:
    return HubError("invalid_value", f"The header {header} {why}.", param=header)
