"""What honest clients feel of hostile ones, and what these leave behind.

Honest clients keep a fixed number of streams going, half of them SSE and half lanes of WebSockets,
and compare every character. They do so in front of a hub that nobody else uses, in front of one
that is attacked in one way, and in front of one that is attacked in all ways at once. Every case
has a hub of its own, so that its memory and its sockets are those of the case.

Where there are two cores hub has one for itself, and the attackers, who give way to everybody,
share the other with the token sources and the honest clients; their rates are limited. So what
changes in the honest clients' times is what hub makes of the attack, not the price of attacking.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from hub.bench import machine, report
from hub.bench.clients import Target
from hub.bench.hostile_attacks import ATTACKS, FAST, LIMITED, ROOMY
from hub.bench.hostile_process import NICE, Came, Plan, raise_limit
from hub.bench.load import Run
from hub.bench.machine import ProcessTree
from hub.bench.plan import Load, lanes_for
from hub.bench.processes import Served, serving
from hub.bench.stats import Spread, spread
from hub.bench.tally import Result

QUIET = "nobody"
MIX = "all at once"
RATE, FAST_RATE = 20, 200
"""Tokens per second of the honest clients' streams, and of those that nobody reads ..."""
PER_CHUNK = 10
"""... which come so many at a time."""
PER_ADDRESS = 512
"""Connections of one address: what hub takes by default where other machines reach it."""
LOOK = 0.25
"""Seconds between two looks at hub's memory and sockets."""
LATER = 3.0
"""Seconds after everybody has gone in which hub may let go of the last sockets."""
WARMUP = 2.0
TOKENS = 64
"""Of an honest response."""
HONEST = "honest"
TENANTS = {
    HONEST: (),
    LIMITED: (
        "--requests-per-minute",
        "600",
        "--concurrent",
        "4",
        "--queued",
        "4",
        "--sockets",
        "4",
    ),
    ROOMY: ("--concurrent", "32", "--sockets", "256"),
}
"""Tenant -> the limits of his key."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What the cases are run with."""

    streams: int
    seconds: float
    strength: float
    """Times the attacks' own rates."""
    serve: Sequence[str]
    """Further arguments of ``hub serve``."""
    pin: bool
    progress: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Case:
    """What one case found."""

    title: str
    attacks: dict[str, Came]
    ttft_ms: Spread
    itl_ms: Spread
    failures: dict[str, int]
    """Of honest streams, by code; wrong texts, too."""
    completed: int
    hub_busy: float
    """The share of its core that hub used."""
    others_busy: float | None
    """Cores that everybody else used, the attackers among them."""
    peak_mb: float
    """The most memory that hub had resident."""
    sockets: int
    """The most that hub had open."""
    left: int
    """Those that it had open when everybody had gone, beyond what it had at first."""

    def json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Watch:
    """Looks at hub while a case goes on."""

    tree: ProcessTree
    sockets: int = 0
    cpu: list[float] = field(default_factory=list)

    async def run(self) -> None:
        while True:
            self.sockets = max(self.sockets, sockets_of(self.tree.pid))
            await asyncio.sleep(LOOK)


async def measure(
    names: Sequence[str], setup: Setup, *, alone: bool = True, mix: bool = True
) -> list[Case]:
    """The quiet case; with ``alone`` one for each of these attacks, and with ``mix`` one of all of
    them.

    Raises ``StartError``.
    """
    raise_limit()
    cores = machine.cores()
    pinned = setup.pin and len(cores) > 1
    if pinned:
        machine.pin(0, cores[1])
    cases: list[tuple[str, list[str]]] = [(QUIET, [])]
    if alone:
        cases += ((ATTACKS[name].title, [name]) for name in names)
    if mix:
        cases.append((MIX, [*names]))
    found = []
    async with (
        serving("bench", "source", "--port", "0", "--rate", f"{RATE}") as source,
        serving(
            *("bench", "source", "--rate", f"{FAST_RATE}", "--model", FAST),
            *("--per-chunk", f"{PER_CHUNK}"),
        ) as fast,
        _directory() as place,
    ):
        os.setpriority(os.PRIO_PROCESS, fast.pid, NICE)
        keys = await _keys(place / "keys.json")
        arguments = [f"--upstream={one.url}#window=1024" for one in (source, fast)]
        # A hub that only this machine reaches would let in any number.
        arguments += ["--sockets-per-address", f"{PER_ADDRESS}", "--log-level", "warning"]
        arguments += ["--keys", f"{place}/keys.json", *setup.serve]
        core = cores[0] if pinned else None
        for number, (title, attacks) in enumerate(cases, 1):
            setup.progress(f"{number}/{len(cases)}  {title}")
            store = ("--store", f"{place}/{number}")
            async with serving("serve", "--port", "0", *store, *arguments, core=core) as hub:
                case = await _once(title, attacks, hub, keys, setup)
            found.append(case)
            setup.progress(f"     {_line(case)}")
    return found


async def _once(
    title: str, attacks: Sequence[str], hub: Served, keys: Mapping[str, str], setup: Setup
) -> Case:
    watch = _Watch(ProcessTree(hub.pid))
    at_first = sockets_of(hub.pid)
    plan = Plan(
        hub.url,
        {name: ATTACKS[name].rate * setup.strength for name in attacks},
        WARMUP + setup.seconds + 1,
        {tenant: key for tenant, key in keys.items() if tenant != HONEST},
        {name: source_of(name) for name in attacks},
    )
    watching = asyncio.create_task(watch.run())
    try:
        async with _attackers(plan) as came:
            runs = _honest(Target.parse(hub.url, keys[HONEST]), setup)
            measured = asyncio.create_task(_busy(watch.tree, setup.seconds))
            results = await asyncio.gather(*(run.run() for run in runs))
            hub_busy, others_busy = await measured
        peak = watch.tree.peak()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    left = sockets_of(hub.pid) - at_first
    with suppress(TimeoutError):
        async with asyncio.timeout(LATER):
            while left > 0:
                await asyncio.sleep(LOOK)
                left = sockets_of(hub.pid) - at_first
    records = [record for run in runs for record in run.records]
    return Case(
        title,
        dict(came),
        spread(one.ttft_ms for one in records if one.ttft_ms is not None),
        spread((gap for run in runs for gap in run.gaps), 1e3),
        _failures(results),
        sum(one.completed for one in results),
        hub_busy,
        others_busy,
        peak / 1e6,
        watch.sockets,
        left,
    )


def _honest(target: Target, setup: Setup) -> list[Run]:
    half = setup.streams // 2
    connections, lanes = lanes_for(setup.streams - half)
    common: dict[str, Any] = {"seconds": setup.seconds, "warmup": WARMUP, "max_tokens": TOKENS}
    return [
        Run(target, Load(mode="sse", connections=half, seed=1, **common)),
        Run(target, Load(mode="lanes", connections=connections, lanes=lanes, seed=2, **common)),
    ]


async def _busy(tree: ProcessTree, seconds: float) -> tuple[float, float | None]:
    """How many cores hub and everybody else keep busy, in the measured time."""
    await asyncio.sleep(WARMUP)
    before, all_before = tree.usage().cpu, machine.busy()
    await asyncio.sleep(seconds)
    cpu, all_after = tree.usage().cpu - before, machine.busy()
    if all_before is None or all_after is None:
        return cpu / seconds, None
    return cpu / seconds, max(0.0, all_after - all_before - cpu) / seconds


def _failures(results: Sequence[Result]) -> dict[str, int]:
    failures: dict[str, int] = {}
    for result in results:
        for code, number in result.failed.items():
            failures[code] = failures.get(code, 0) + number
        if result.wrong:
            failures["wrong text"] = failures.get("wrong text", 0) + result.wrong
    return failures


@asynccontextmanager
async def _directory() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hub-bench-") as place:
        yield Path(place)


async def _keys(file: Path) -> dict[str, str]:
    """A key for each tenant, made by ``hub keys``."""

    async def create(tenant: str, limits: Sequence[str]) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hub", "keys", "create", "--keys", str(file)),
            *("--tenant", tenant, *limits),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, "a new file takes a new key"
        return out.decode().strip()

    made = await asyncio.gather(*(create(tenant, limits) for tenant, limits in TENANTS.items()))
    return dict(zip(TENANTS, made, strict=True))


@asynccontextmanager
async def _attackers(plan: Plan) -> AsyncIterator[dict[str, Came]]:
    """Attack while the block runs. What the attacks came to is there at its end."""
    came: dict[str, Came] = {}
    if not plan.attacks:
        yield came
        return
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hub.bench.hostile_process"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(orjson.dumps(asdict(plan)) + b"\n")
        await process.stdout.readline()
        process.stdin.write(b"go\n")
        yield came
        found = orjson.loads(await process.stdout.read())
        came |= {name: Came(**one) for name, one in found.items()}
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.communicate()


def source_of(name: str) -> str:
    """The address that an attack comes from. Linux answers to all of 127.0.0.0/8; elsewhere there
    is one address for everybody."""
    return f"127.0.1.{1 + [*ATTACKS].index(name)}" if sys.platform.startswith("linux") else ""


def sockets_of(pid: int) -> int:
    """How many sockets a process has open."""
    count = 0
    for handle in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            count += os.readlink(handle).startswith("socket:")
    return count


def _line(case: Case) -> str:
    return (
        f"TTFT {_pair(case.ttft_ms)} ms, ITL {_pair(case.itl_ms)} ms, hub {case.hub_busy:.0%} "
        f"busy, others {report.number(case.others_busy, 2)} cores, {case.peak_mb:.0f} MB, "
        f"{case.sockets} sockets, {case.left} left, failures: {_failed(case)}"
    )


HEAD = (
    "attack", "attempts/s", "what they got", "TTFT p50 / p99, ms", "ITL p50 / p99, ms",
    "p99, times the quiet", "hub busy", "peak memory, MB", "sockets at most, left", "lost",
)  # fmt: skip


def table(cases: Sequence[Case]) -> str:
    """A Markdown table; the first case is the quiet one."""
    quiet = cases[0]
    rows = []
    for case in cases:
        came = case.attacks.values()
        rows.append(
            [
                case.title,
                f"{sum(one.attempts_per_s for one in came):,.0f}" if came else "",
                "" if len(came) != 1 else _got(*came),
                _pair(case.ttft_ms),
                _pair(case.itl_ms),
                "" if case is quiet else " / ".join(f"{one:.2f}" for one in ratios(case, quiet)),
                f"{case.hub_busy:.0%}",
                f"{case.peak_mb:.0f}",
                f"{case.sockets}, {case.left}",
                f"{_failed(case)} of {case.completed + sum(case.failures.values())}",
            ]
        )
    return report.markdown_table(HEAD, rows)


def ratios(case: Case, quiet: Case) -> tuple[float, float]:
    """The p99 of TTFT and of ITL, times those of the quiet case."""
    return case.ttft_ms.p99 / quiet.ttft_ms.p99, case.itl_ms.p99 / quiet.itl_ms.p99


def _got(came: Came) -> str:
    return ", ".join(f"{name}: {number:,}" for name, number in came.got.items()) or "nothing"


def _pair(one: Spread) -> str:
    return f"{one.p50:.1f} / {one.p99:.1f}"


def _failed(case: Case) -> str:
    return ", ".join(f"{number} {code}" for code, number in case.failures.items()) or "0"
