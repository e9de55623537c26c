"""A model server is killed by the command that measures what that costs."""

import re

from hub.bench import failover


async def test_nothing_that_had_no_text_is_lost() -> None:
    """Real processes and SIGKILL: what was only waiting is said by another source."""
    said: list[str] = []
    found = await failover.measure(rate=40, seconds=1.0, tokens=20, progress=said.append)
    assert found.running > 0
    assert found.retried > 0
    assert found.moved_ms > 0
    result = found.result
    assert (result.silent, result.wrong, result.lost, result.surplus) == (0, 0, 0, 0)
    assert sum(result.failed.values()) <= found.running
    assert result.completed > sum(result.failed.values())
    assert any(re.search(rf"holds {found.running} requests", line) for line in said)
    row = failover.table([found]).splitlines()[-1]
    assert row.startswith(f"| {result.completed + sum(result.failed.values())} |")
