"""Any calls, in any order, on two nodes that share a Redis which is cut off and killed."""

import asyncio
import signal
from typing import ClassVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from hub.store.base import Store
from hub.store.redis import RedisStore
from tests.redis_server import RedisServer, needs_redis, running_redis
from tests.store.machine import StoreMachine


class RedisMachine(StoreMachine):
    """Two nodes on one Redis, and their model."""

    server: ClassVar[RedisServer]

    @initialize()
    def start(self) -> None:
        self.server.ask("FLUSHALL")
        super().start()

    def open(self) -> None:
        super().open()
        self.other = self.new_store()
        # A webhook is one node's for a minute: here they are the same.
        self.other.node = self.store.node
        self.runner.run(self.other.start(self.now))

    def new_store(self) -> Store:
        return RedisStore(self.server.url)

    @rule()
    def go_on_on_the_other_node(self) -> None:
        """There is no order between two nodes, but for what the first one knows to be done."""
        self.settle()
        self.store, self.other = self.other, self.store
        # Its answer tells the node what all of them have kept meanwhile.
        self.call(self.store.delete("ada", "none"), False)

    @rule(killed=st.sampled_from([False] * 9 + [True]))
    def fault(self, killed: bool) -> None:
        """What was acknowledged is there when Redis is."""
        self.settle()
        if killed:
            self.server.signal(signal.SIGKILL)
            self.server.start()
        else:
            for kind in ("normal", "pubsub"):
                self.server.ask("CLIENT", "KILL", "TYPE", kind)
        self.runner.run(self._back())

    async def _back(self) -> None:
        async def back(store: Store) -> None:
            while not store.lag:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await store.get("ada", "none")

        await asyncio.gather(back(self.store), back(self.other))

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.settle()
            self.runner.run(self.other.close())
        super().teardown()


@needs_redis
class TestRedisModel(RedisMachine.TestCase):  # type: ignore[valid-type, misc]
    """The machine, on a Redis of its own."""

    settings = settings(deadline=None, max_examples=40, stateful_step_count=40)

    @classmethod
    def setUpClass(cls) -> None:
        cls.running = running_redis()
        RedisMachine.server = cls.running.__enter__()

    @classmethod
    def tearDownClass(cls) -> None:
        cls.running.__exit__(None, None, None)
