"""A few crashes: nothing that was accepted or read is lost, repeated or out of order."""

import random
from pathlib import Path

import pytest

from tests.e2e.crash import run


@pytest.mark.timeout(120)
async def test_killing_hub_loses_repeats_and_mixes_nothing(tmp_path: Path) -> None:
    """``python -m tests.e2e.crash`` does it more often."""
    seed = random.SystemRandom().randrange(1 << 32)
    report = await run(kills=5, seed=seed, minutes=1.5, clients=8, store=tmp_path)
    table = report.table()
    assert not any(report.wrong.values()), table
    assert report.kills == 5, table
    assert report.ended["completed"] == sum(report.ended.values()) > 0, table
