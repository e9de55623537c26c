"""An engine in the hands of a test."""

import asyncio
from collections.abc import Sequence

from hub.api.requests import Generation
from hub.engines.base import Load, Member, Sink


class Call:
    """One generation in the hands of a test."""

    def __init__(self, generation: Generation, sink: Sink) -> None:
        self.generation = generation
        self.sink = sink
        self.result: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def over(self) -> None:
        """Wait until it was finished or stopped."""
        await asyncio.wait([self.result])

    def finish(self, reason: str = "stop") -> None:
        self.sink.finish(reason)
        self.result.set_result(None)


class ManualEngine:
    """An engine that leaves what it says, and when it ends, to the test."""

    name = "manual"
    slots: int | None = None
    continues = True
    arrays = False

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._called = asyncio.Event()

    def serves(self, model: str) -> bool:
        return model in ("", "m")

    async def generate(self, generation: Generation, sink: Sink) -> None:
        self.calls.append(Call(generation, sink))
        self._called.set()
        await self.calls[-1].result

    async def call(self, number: int) -> Call:
        """The call of that number, once it has come."""
        while len(self.calls) <= number:
            self._called.clear()
            await self._called.wait()
        return self.calls[number]

    async def generate_array(self, members: Sequence[Member]) -> None:
        raise NotImplementedError

    async def probe(self) -> Load:
        return Load()

    async def models(self) -> list[str]:
        return ["m"]

    async def close(self) -> None:
        pass
