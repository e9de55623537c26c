"""The command that looks at what hub holds."""

import sys

import pytest

from hub.bench import memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
async def test_idle_connections_and_short_responses_are_looked_at() -> None:
    """A small run: every connection opens, every response is right, and memory is told."""
    found = await memory.measure(connections=50, responses=600, steps=2, progress=lambda _: None)
    assert found.mistakes == 0
    assert found.idle > 1 << 20
    assert found.handshakes_per_s > 0
    assert [number for number, _ in found.after] == [300, 600]
    table = memory.table(found)
    assert "each of 50 idle WebSockets" in table
    assert "after 600 responses" in table
