"""What a token costs: the cases of the hot path, run against hub and servers like it.

Every case has processes of its own: a token source, the server in front of it, and this process as
the load generator. Where there are two cores the server has one for itself, and the others share
the other. Cases take turns, so that what else the machine does falls on all of them.

*Unpaced*, the source is faster than any server behind it: tokens pile up in the sockets and the
server reads many at a time. That is throughput. What a token costs that comes alone, as a model's
do, shows at a *steady* rate that the server can follow, and *paced*, when it sleeps in between; the
reads per token tell which of it is.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from hub.bench import machine, report
from hub.bench.clients import Target
from hub.bench.load import Run
from hub.bench.plan import Load
from hub.bench.processes import serving
from hub.bench.stats import Spread, middle
from hub.bench.tally import Result

WINDOW = 4096
"""hub's window and queue: never to be the limit."""
DIRECT = "source"
HUB = "hub"


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    title: str
    load: Load
    rate: float = 0.0
    """Tokens per second and stream; 0: as fast as it goes."""
    per_chunk: int = 1
    aim: float | None = None
    """CPU time per token that hub aims at, in microseconds."""
    direct: bool = False
    """Measure the source without a server, too: what the server adds to the TTFT."""

    @property
    def slow(self) -> bool:
        """Its responses last longer than a short measurement."""
        return 0 < self.rate < self.load.max_tokens / 4


@dataclass(frozen=True, slots=True)
class Times:
    """How long the cases take, in seconds: those that are slow need longer to have samples."""

    unpaced: float = 3.0
    paced: float = 6.0
    warmup: float = 1.5
    paced_warmup: float = 3.0

    def apply(self, case: Case) -> Load:
        return replace(
            case.load,
            seconds=self.paced if case.slow else self.unpaced,
            warmup=self.paced_warmup if case.slow else self.warmup,
        )


def _load(mode: Any, connections: int, lanes: int = 1) -> Load:
    # What is not over with the window is cut: waiting for it would measure nothing.
    return Load(mode=mode, connections=connections, lanes=lanes, seconds=1.0, drain=0.0)


CASES: dict[str, Case] = {
    "lanes": Case("lanes, 16 x 16, unpaced", _load("lanes", 16, 16), aim=8),
    "chat": Case("SSE chat, 64 streams, unpaced", _load("chat", 64), aim=12),
    "lanes-steady": Case("lanes, 16 x 16, 150 tokens/s", _load("lanes", 16, 16), rate=150),
    "chat-steady": Case("SSE chat, 64 streams, 600 tokens/s", _load("chat", 64), rate=600),
    # A connection of hub's has 16 active lanes at most, so a thousand streams are not 20 x 50.
    "lanes-paced": Case("lanes, 63 x 16, 20 tokens/s", _load("lanes", 63, 16), rate=20, aim=22),
    "chat-paced": Case(
        "SSE chat, 1000 streams, 20 tokens/s", _load("chat", 1000), rate=20, aim=33, direct=True
    ),
    "lanes-4": Case(
        "lanes, 16 x 16, unpaced, 4 tokens per chunk", _load("lanes", 16, 16), per_chunk=4, aim=5
    ),
    "sse": Case("SSE responses, 64 streams, unpaced", _load("sse", 64)),
    "sse-paced": Case("SSE responses, 1000 streams, 20 tokens/s", _load("sse", 1000), rate=20),
    "chat-4": Case("SSE chat, 64 streams, unpaced, 4 per chunk", _load("chat", 64), per_chunk=4),
    "sockets": Case("256 sockets, 1 stream each, 20 tokens/s", _load("lanes", 256), rate=20),
}
DEFAULT_CASES = (
    "lanes", "chat", "lanes-4", "lanes-steady", "chat-steady", "lanes-paced", "chat-paced",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """A case on a server, with the results of its repetitions."""

    server: str
    case: Case
    results: list[Result]

    def middle(self, field: str) -> float | None:
        """The median of one figure, if there is one."""
        values = [value for one in self.results if (value := getattr(one, field)) is not None]
        return median(values) if values else None

    def spread(self, field: str) -> Spread:
        """The median of one spread, figure by figure."""
        return middle([getattr(one, field) for one in self.results])


@dataclass(frozen=True, slots=True)
class Setup:
    """What the cases are run with."""

    times: Times
    repeat: int
    pin: bool
    serve: Sequence[str]
    """Further arguments of ``hub serve``."""
    targets: dict[str, str]
    """Other servers, by name: they ask the source at ``source_port``."""
    source_port: int
    tick: float
    """Of the source, in milliseconds."""
    progress: Callable[[str], None]


async def measure(cases: Iterable[Case], setup: Setup) -> list[Row]:
    """Run the cases, ``repeat`` times one after the other."""
    plan = [
        (server, case)
        for case in cases
        for server in (*([DIRECT] if case.direct else []), HUB, *setup.targets)
    ]
    rows = [Row(server, case, []) for server, case in plan]
    cores = machine.cores()
    pinned = setup.pin and len(cores) > 1
    if pinned:
        machine.pin(0, cores[1])
    for turn in range(setup.repeat):
        for row in rows:
            setup.progress(f"{turn + 1}/{setup.repeat}  {row.server}: {row.case.title}")
            result = await _once(row, setup, cores[0] if pinned else None)
            row.results.append(result)
            setup.progress(f"     {_line(result)}")
    return rows


async def _once(row: Row, setup: Setup, core: int | None) -> Result:
    case, source_port = row.case, str(setup.source_port)
    pace = ("--rate", f"{case.rate:g}", "--per-chunk", str(case.per_chunk))
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(
            # On this process's core, which it inherits.
            serving("bench", "source", "--port", source_port, *pace, "--tick", f"{setup.tick:g}")
        )
        url, processes = source.url, None
        if row.server == HUB:
            large = ("--window", str(WINDOW), "--queue-size", str(WINDOW), "--store", "memory")
            hub = await stack.enter_async_context(
                serving(
                    *("serve", "--port", "0", "--upstream", source.url, *large, *setup.serve),
                    core=core,
                )
            )
            url, processes = hub.url, machine.ProcessTree(hub.pid)
        elif row.server != DIRECT:
            url = setup.targets[row.server]
            pid = machine.listening_pid(Target.parse(url).port)
            processes = None if pid is None else machine.ProcessTree(pid)
        run = Run(
            Target.parse(url),
            setup.times.apply(case),
            processes=processes,
            source=machine.ProcessTree(source.pid),
        )
        return await run.run()


def _line(result: Result) -> str:
    cost = "" if result.cpu_us is None else f"{result.cpu_us:.1f} us per token, "
    return (
        f"{cost}{result.tokens_per_s:,.0f} tokens/s, TTFT p50 {result.ttft_ms.p50:.2f} ms, "
        f"load generator {result.client_busy:.0%} busy, "
        f"others {report.number(result.others_busy)} cores, mistakes: {report.mistakes(result)}"
    )


HEAD = (
    "case", "server", "CPU per token, us", "aim", "tokens/s", "TTFT p50/p99, ms", "ITL p50/p99, ms",
    "reads, writes per token", "peak memory, MB", "mistakes",
)  # fmt: skip


def table(rows: Sequence[Row], setup: Setup) -> str:
    """The table in Markdown, with the date, the machine, and what the server adds to the TTFT."""
    number = report.number
    lines = []
    for row in rows:
        ttft, itl = row.spread("ttft_ms"), row.spread("itl_ms")
        calls = [row.middle("reads_per_token"), row.middle("writes_per_token")]
        wrong = [report.mistakes(one) for one in row.results if not one.flawless]
        lines.append(
            [
                row.case.title,
                row.server,
                number(row.middle("cpu_us")),
                number(row.case.aim, 0) if row.server == HUB else "",
                number(row.middle("tokens_per_s"), 0),
                f"{number(ttft.p50, 2)} / {number(ttft.p99, 2)}",
                f"{number(itl.p50, 2)} / {number(itl.p99, 2)}",
                ", ".join(number(one, 2) for one in calls if one is not None),
                number(row.middle("peak_mb"), 0),
                "; ".join(wrong) or "0",
            ]
        )
    return "\n".join([report.markdown_table(HEAD, lines), "", *_added(rows), _notes(rows, setup)])


def _added(rows: Sequence[Row]) -> list[str]:
    """What the servers add to the source's own TTFT."""
    direct = {row.case.title: row.spread("ttft_ms") for row in rows if row.server == DIRECT}
    lines = []
    for row in rows:
        base = direct.get(row.case.title)
        if base is not None and row.server != DIRECT:
            ttft = row.spread("ttft_ms")
            lines.append(
                f"TTFT that {row.server} adds ({row.case.title}): p50 {ttft.p50 - base.p50:.2f} "
                f"ms, p99 {ttft.p99 - base.p99:.2f} ms.\n"
            )
    return lines


def _notes(rows: Sequence[Row], setup: Setup) -> str:
    times = setup.times
    noise = [one.others_busy for row in rows for one in row.results if one.others_busy is not None]
    other = f" Other processes kept {median(noise):.2f} cores busy." if noise else ""
    return (
        f"{time.strftime('%Y-%m-%d %H:%M %Z')}, {machine.description()}. Medians of "
        f"{setup.repeat}, {times.unpaced:g} s each, {times.paced:g} s at 20 tokens/s. CPU: user "
        "and system time of the server's processes per streamed token, responses of "
        f"{CASES['lanes'].load.max_tokens} tokens, their creation included.{other}"
    )
