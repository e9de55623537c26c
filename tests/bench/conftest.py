"""The clients and the token source run on both event loops, too; what runs in processes of its own
chooses its loop itself."""

from typing import Any

import pytest

from tests.server import conftest

PROCESSES = ("test_commands.py", "test_failover.py", "test_hostile.py", "test_memory.py")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Any:
    both = conftest.pytest_asyncio_loop_factories(config, item)
    if item.path.name in PROCESSES:
        name, factory = next(iter(both.items()))
        return {name: factory}
    return both
