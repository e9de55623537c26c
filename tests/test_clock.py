"""Virtual time: it jumps to exactly the next thing that is due."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.clock import run_virtual

seconds = st.integers(0, 1 << 20).map(lambda n: n / 64)
"""Sums of these are exact."""


@given(st.lists(seconds, max_size=10), seconds)
def test_sleepers_wake_in_order_at_their_time(delays: list[float], start: float) -> None:
    """Whoever sleeps wakes at its start plus its delay, the shorter sleep first."""
    woken: list[tuple[float, float]] = []

    async def sleeper(delay: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(delay)
        woken.append((loop.time(), delay))

    async def main() -> None:
        await asyncio.sleep(start)
        assert asyncio.get_running_loop().time() == start
        await asyncio.gather(*(sleeper(delay) for delay in delays))

    run_virtual(main())
    assert woken == [(start + delay, delay) for delay in sorted(delays)]


def test_time_begins_at_zero_and_does_not_pass_by_itself() -> None:
    """However often the loop turns, the clock stands until there is nothing to do but wait."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        times = [loop.time()]
        for _ in range(100):
            await asyncio.sleep(0)
        times.append(loop.time())
        return times

    assert run_virtual(main()) == [0.0, 0.0]


@given(st.lists(st.integers(0, 1000), max_size=20))
def test_a_timer_is_never_early(whens: list[int]) -> None:
    """A timer fires when the clock has reached its time, not before."""

    async def main() -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        fired: list[tuple[float, int]] = []

        def fire(when: int) -> None:
            fired.append((loop.time(), when))

        for when in whens:
            loop.call_at(when / 8, fire, when)
        await asyncio.sleep(1000)
        return fired

    assert run_virtual(main()) == [(when / 8, when) for when in sorted(whens)]


def test_a_timeout_comes_at_its_time() -> None:
    """Timeouts of asyncio run on the virtual clock as timers do."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.sleep(7200)
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 3600


def test_what_is_ready_comes_before_time_passes() -> None:
    """The clock does not jump while a socket, here the loop's own, has something to read."""

    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        called: asyncio.Future[float] = loop.create_future()
        loop.call_soon_threadsafe(lambda: called.set_result(loop.time()))
        await asyncio.sleep(10)
        return called.result(), loop.time()

    assert run_virtual(main()) == (0.0, 10.0)


def test_waiting_for_nothing_is_an_error() -> None:
    """Who waits for what nothing will bring is told so, and cleans up, instead of hanging."""
    cleaned: list[bool] = []

    async def main() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cleaned.append(True)

    with pytest.raises(RuntimeError, match="virtual time stands still"):
        run_virtual(main())
    assert cleaned == [True]


def test_an_error_reaches_the_caller() -> None:
    """What the main coroutine raises, ``run_virtual`` raises."""

    async def main() -> None:
        await asyncio.sleep(1)
        raise LookupError

    with pytest.raises(LookupError):
        run_virtual(main())
