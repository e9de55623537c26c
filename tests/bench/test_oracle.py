"""A model server that notes everything, and goes on for nobody as llama.cpp does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from hub.bench.keys_clients import Shot, completion, infill
from hub.bench.keys_truth import Record, Truth
from hub.bench.oracle import MODEL, Oracle

SOURCE = "".join(f"    name_{number} = value({number})\n" for number in range(100))
AT, END = SOURCE.index("name_50"), SOURCE.index("    name_90")
BEFORE, BEHIND = SOURCE[:AT], SOURCE[END:]


@asynccontextmanager
async def oracle(**options: Any) -> AsyncIterator[tuple[Oracle, str]]:
    truth = Truth([SOURCE], 1.0, options.pop("length", 8))
    made = Oracle(truth, **{"prefill": 0.0, "per_token": 0.0, **options})
    url = await made.start()
    try:
        async with asyncio.timeout(10):
            yield made, url
    finally:
        await made.stop()


async def whole(shot: Shot) -> str:
    assert await shot.fire().ended == "", shot.ended.result()
    return shot.text


def when(made: Oracle, rule: Callable[[Record], bool]) -> Callable[[], Record | None]:
    return lambda: next(filter(rule, made.records), None)


async def test_it_says_the_same_whichever_way_it_is_asked() -> None:
    """Streamed or not, by /infill, with the family's markers or with a suffix."""
    async with oracle() as (made, url):
        marked = f"<|fim_prefix|>{BEFORE}<|fim_suffix|>{BEHIND}<|fim_middle|>"
        said = [
            await whole(Shot(url, "/infill", infill(BEFORE, BEHIND))),
            await whole(Shot(url, "/v1/completions", completion(marked, "", stream=True))),
            await whole(Shot(url, "/v1/completions", completion(BEFORE, BEHIND, stream=False))),
        ]
        assert said[0]
        assert SOURCE[AT:].startswith(said[0])
        assert {*said} == {said[0]}
        assert [one.before for one in made.records] == [BEFORE] * 3
        assert [one.streamed for one in made.records] == [False, True, False]
        assert all(len(one.said) == 8 and not one.cut for one in made.records)
        assert made.busy == 0


async def test_it_goes_on_without_a_reader_unless_it_streams() -> None:
    """As llama.cpp: a stream that is left ends at once, anything else is said to its end."""
    async with oracle(per_token=0.005, length=20) as (made, url):
        for stream in (True, False):
            body = completion(BEFORE, BEHIND, stream=stream)
            shot = Shot(url, "/v1/completions", body).fire()
            begun = when(made, lambda one: one.streamed is stream and len(one.said) > 1)  # noqa: B023
            await made.until(begun)
            shot.close()
        await made.until(lambda: None if made.busy else True)
        left, ran = made.records
        assert left.cut
        assert left.left is not None
        assert not ran.cut
        assert ran.left is not None
        assert ran.said[-1] > ran.left


async def test_requests_wait_for_a_slot() -> None:
    """In order; who leaves while it waits never begins if it streams."""
    async with oracle(per_token=0.002, slots=1) as (made, url):
        first = Shot(url, "/infill", infill(BEFORE, BEHIND)).fire()
        await made.until(when(made, lambda one: one.begun is not None))
        gone = Shot(url, "/v1/completions", completion(BEFORE, BEHIND, stream=True)).fire()
        await made.until(lambda: made.busy == 2 or None)
        last = Shot(url, "/infill", infill(BEFORE, BEHIND)).fire()
        await made.until(lambda: made.busy == 3 or None)
        gone.close()
        assert [await first.ended, await last.ended] == ["", ""]
        one, two, three = made.records
        assert two.begun is None
        assert two.cut
        assert one.ended is not None
        assert three.begun is not None
        assert three.begun >= one.ended


async def test_nothing_is_asked_of_a_warm_up() -> None:
    """``n_predict: 0``: an empty answer."""
    async with oracle() as (made, url):
        assert await whole(Shot(url, "/infill", infill(BEFORE, BEHIND, most=0))) == ""
        assert made.records[0].tokens == []


async def test_it_tells_what_it_is() -> None:
    """By /props it is a llama.cpp, if it is to be one; its model has a known family's name."""
    async with oracle(slots=3) as (_, url), oracle(llama=False) as (_, other):
        assert (await got(url, "/props"))["total_slots"] == 3
        assert (await got(other, "/v1/models"))["data"][0]["id"] == MODEL
        assert (await got(url, "/health"))["status"] == "ok"
        assert "error" in await got(other, "/props")


async def test_it_refuses_what_it_does_not_understand() -> None:
    async with oracle() as (made, url):
        assert (await Shot(url, "/infill", b"[]").fire().ended).startswith("400")
        assert (await Shot(url, "/v1/other", b"{}").fire().ended).startswith("404")
        assert made.records == []


async def got(url: str, path: str) -> Any:
    async with aiohttp.ClientSession() as session, session.get(url + path) as answer:
        return await answer.json()
