"""Bad frames and bad requests, over sockets. See ``frames.py``."""

import asyncio

from tests.fuzz import frames
from tests.fuzz.target import Target


def test_what_breaks_the_protocol_ends_its_own_connection_with_the_right_code() -> None:
    with Target() as target:
        found: list[str] = []
        before = target.holds()
        tried = asyncio.run(frames.attack(target.port, 400, 0, found=found.append))
        after = target.at_rest(before)
        errors = target.errors
    assert not found
    assert not errors
    assert after == before
    assert sum(tried.values()) == 400
