"""A short chaos: nothing is lost, repeated or said twice while nodes and Redis fail."""

import pytest

from hub.bench import chaos, chaos_report
from hub.bench.chaos_cluster import find_redis

KINDS = (
    "kill a node",
    "kill Redis",
    "black hole before Redis",
    "cut all from Redis",
    "end a node",
)
"""Those that say most in a short time."""


@pytest.mark.timeout(180)
async def test_nodes_lose_repeat_and_mix_nothing_whatever_fails() -> None:
    """``hub bench chaos`` does it longer."""
    redis = find_redis(None)
    if redis is None:
        pytest.skip("no redis-server or valkey-server is installed here")
    setup = chaos.Setup(
        redis=redis,
        seed=20,
        seconds=25,
        readers=40,
        kinds=KINDS,
        faults=5,
        gap=(0.5, 1.5),
        tokens=(40, 200),
    )
    book = await chaos.run(setup)
    table = chaos_report.table(book)
    assert book.flawless, table
    assert book.faults.total() >= 3, table
    assert book.continued > 0, table
    ends = [kind for kind, ended in book.ended.items() if ended["completed"]]
    assert any(kind.startswith("background") for kind in ends), table
    assert any(kind.startswith("foreground") for kind in ends), table
