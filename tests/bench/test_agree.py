"""Three clocks of the time to first token: in virtual time they agree to the last digit."""

import asyncio

import orjson
import pytest

from hub.api.recorder import Recorder
from hub.api.responses import parse_create
from hub.bench import agree
from hub.bench.answer import Answer, Window, responses_event
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.upstream import Upstream
from hub.engines.sim import SimEngine
from hub.engines.sim_model import PROFILES
from hub.ledger import MARKS
from hub.live import Live
from hub.server.outbox import Outbox
from tests.virtual import virtual


class Reader:
    """Reads one response as the load generator does; its socket is a list."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.answer = Answer(None, seed=0, tokens=None, window=Window())
        self.answer.begun = self._loop.time()
        self.ended = asyncio.Event()
        self._outbox = Outbox(
            self._write, self._loop, patience=60.0, max_lag=1 << 30, on_slow=self.ended.set
        )

    def follow(self, live: Live) -> None:
        self._outbox.subscribe(
            live.log,
            lambda event: event.wire + b"}\n",
            on_end=self.ended.set,
            on_text=lambda: live.ledger.wrote("first_written"),
        )

    def _write(self, data: bytes) -> None:
        for line in data.splitlines():
            responses_event(self.answer, orjson.loads(line), self._loop.time())


async def respond(
    dispatcher: Dispatcher, number: int, *, before: float = 0.0, tokens: int = 5
) -> tuple[dict[str, object], Answer]:
    """A response: what hub tells of it, and what its reader saw."""
    await asyncio.sleep(before)
    loop = asyncio.get_running_loop()
    request = parse_create({"input": f"Tell me {number}", "max_output_tokens": tokens})
    recorder = Recorder(request, id=f"resp_{number}", model="sim", now=0.0)
    recorder.created()
    live = Live(recorder, (), tenant="", now=loop.time, clock=loop.time)
    reader = Reader()
    reader.follow(live)
    dispatcher.submit(live)
    await reader.ended.wait()
    told = recorder.snapshot()["hub"]
    return told, reader.answer


@virtual
async def test_the_clocks_of_engine_ledger_and_reader_agree() -> None:
    """Nothing takes time but the engine, so what is between them is the queue, and where nothing
    waits it is 0."""
    loop = asyncio.get_running_loop()
    engine = SimEngine(PROFILES["h100-8b"], clock=loop.time)
    dispatcher = Dispatcher([Upstream(engine, 2)])
    found = await asyncio.gather(
        *(respond(dispatcher, number, before=0.01 * number) for number in range(6))
    )
    times = [
        agree.times_of(told, None if answer.ttft is None else answer.ttft * 1000)
        for told, answer in found
    ]
    for one in times:
        assert one["engine"] == pytest.approx(one["dispatched"], abs=0.002)
        assert one["received"] == pytest.approx(one["written"], abs=0.002)
        assert one["received"] == pytest.approx(one["reader"], abs=0.002)
    assert all(one["received"] - one["dispatched"] < 0.002 for one in times[:2])
    assert all(one["received"] - one["dispatched"] > 1 for one in times[2:]), "they waited"
    agreed = agree.compared("in hub's process", "sse", times[:2])
    assert agreed.whole.max < 0.002
    assert "| +0.00 | +0.00 | +0.00 |" in agree.table(agreed)
    for told, answer in found:
        ledger = told["ledger_ms"]
        assert isinstance(ledger, dict)
        assert set(ledger) == {*MARKS} - {"first_byte", "written"}
        assert answer.e2e is not None
        assert ledger["ended"] == pytest.approx(answer.e2e * 1000, abs=0.002)
    await dispatcher.close()


@virtual
async def test_every_pause_is_where_the_engine_made_it() -> None:
    """An engine with a second between its tokens: the ledger has them all, and nothing else."""
    loop = asyncio.get_running_loop()
    slow = SimEngine(PROFILES["h100-8b"], speed=0.01, clock=loop.time)
    dispatcher = Dispatcher([Upstream(slow, 2)])
    told, _ = await respond(dispatcher, 0, tokens=40)
    ledger, pauses = told["ledger_ms"], told["pauses_ms"]
    assert isinstance(ledger, dict)
    assert isinstance(pauses, dict)
    assert pauses["count"] == 39
    assert pauses["total"] == pytest.approx(ledger["last_token"] - ledger["first_token"], abs=0.1)
    await dispatcher.close()


@pytest.mark.parametrize(
    "told",
    [
        {"ledger_ms": {"dispatched": 1.0, "first_token": 2.0, "first_written": 3.0}},
        {"ledger_ms": {"dispatched": 1.0}, "engine_ms": {"first_token": 1.0}},
    ],
)
def test_a_time_that_nobody_has_told_is_an_error(told: dict[str, object]) -> None:
    with pytest.raises(agree.Silent, match="does not tell"):
        agree.times_of(told, 1.0)
    whole = {"ledger_ms": {"dispatched": 1.0, "first_token": 2.0, "first_written": 3.0}}
    with pytest.raises(agree.Silent, match="no text"):
        agree.times_of({**whole, "engine_ms": {"first_token": 1.0}}, None)


async def test_processes_are_compared() -> None:
    """Real ones, an engine behind a socket: every response has every time."""
    found = await agree.measure("behind a socket", "sse", requests=8, streams=4, max_tokens=4)
    assert [one.count for one in found.clocks.values()] == [8] * len(agree.CLOCKS)
    lines = agree.table(found).splitlines()
    assert lines[0] == "**The engine behind a socket, sse**, 8 responses"
    assert len(lines) == 5 + len(agree.CLOCKS)
    assert len({line.count("|") for line in lines[2:]}) == 1
