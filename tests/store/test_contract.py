"""The stores against the contract: by example, and against a model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from hypothesis import settings

from hub.store.base import Store
from hub.store.memory import MemoryStore
from hub.store.redis import RedisStore
from hub.store.sqlite import SqliteStore
from tests.redis_server import RedisServer, needs_redis
from tests.store.contract import StoreContract
from tests.store.machine import SqliteMachine, StoreMachine


class TestMemoryStore(StoreContract):
    """By example, in memory."""

    @pytest.fixture
    async def store(self, no_blocking: BlockBuster) -> AsyncIterator[Store]:
        store = MemoryStore()
        await store.start(0.0)
        yield store
        await store.close()


class TestSqliteStore(StoreContract):
    """By example, in SQLite."""

    @pytest.fixture
    async def store(self, tmp_path: Path, no_blocking: BlockBuster) -> AsyncIterator[Store]:
        store = SqliteStore(tmp_path / "store")
        await store.start(0.0)
        yield store
        await store.close()


@needs_redis
class TestRedisStore(StoreContract):
    """By example, in Redis."""

    @pytest.fixture
    async def store(
        self, redis_server: RedisServer, no_blocking: BlockBuster
    ) -> AsyncIterator[Store]:
        store = RedisStore(redis_server.url)
        await store.start(0.0)
        yield store
        await store.close()


TestMemoryModel = StoreMachine.TestCase
TestMemoryModel.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)

TestSqliteModel = SqliteMachine.TestCase
TestSqliteModel.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)
