"""The experiments of ``hub bench dispatch``: what the dispatcher's policy is worth, in figures.

Each is a function that runs its trials with fixed seeds and returns tables. A row's figures are the
medians over the seeds; what is compared with a baseline is compared seed by seed, on the same
requests. Times are in milliseconds and count from a request's arrival. All of it is in virtual time
but the half of ``light`` that says otherwise.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from hub.bench.dispatch import (
    HUB,
    SEND_ALL,
    Knows,
    Outcome,
    Setting,
    capacity,
    try_real,
    try_virtual,
)
from hub.bench.dispatch_tables import Row, Table, middle
from hub.bench.traffic import (
    CHAT,
    CPU,
    CPU_VALLEY,
    H100_LIKE,
    MIXED,
    SHORT,
    Ask,
    Stream,
    backlog,
    held,
    poisson,
    scaled,
    shuffled,
)
from hub.dispatch.terms import Class, rules_with
from hub.engines.sim_model import PROFILES, Profile

SEEDS = (1, 2, 3)
NO_CEILING = Setting("hub, no places kept free", rules=rules_with(ceiling=1.0))


def _row(outcome: Outcome, rank: Class) -> Row:
    times = outcome.classes[rank]
    return {
        "TTFT p50": times.ttft.p50,
        "TTFT p99": times.ttft.p99,
        "E2E p50": times.e2e.p50,
        "E2E p99": times.e2e.p99,
        "tokens/s": times.tokens_per_s,
        "lost": sum(times.lost.values()),
    }


RATIOS = ("TTFT p50", "TTFT p99", "E2E p50", "tokens/s")


def _compared(
    plan: Sequence[Ask], profile: Profile, settings: Sequence[Setting], seed: int
) -> list[Row]:
    """A row for each class and setting, with what each is of the first setting's."""
    rows: list[Row] = []
    for setting in settings:
        outcome = try_virtual(plan, profile, setting, seed=seed)
        rows += [
            {"class": rank.label, "dispatch": setting.name, **_row(outcome, rank)}
            for rank in outcome.classes
        ]
    rows.sort(key=lambda row: str(row["class"]), reverse=True)
    first = {row["class"]: row for row in rows if row["dispatch"] == settings[0].name}
    for row in rows:
        base = first[row["class"]]
        row.update({f"{name} x": row[name] / base[name] for name in RATIOS})
    return rows


def _measured(profile: Profile, streams: Sequence[Stream], seeds: Sequence[int]) -> float:
    """The requests per second that a server completes at most, of a mix."""
    return median(capacity(backlog(streams, 1200, seed), profile, seed=seed) for seed in seeds)


SHOWN = (
    "load", "class", "dispatch", "TTFT p50", "TTFT p99", "E2E p50", "E2E p99", "tokens/s",
    "TTFT p50 x", "TTFT p99 x", "tokens/s x",
)  # fmt: skip


def _at_loads(
    shares: Sequence[float], seconds: float, seeds: Sequence[int], settings: Sequence[Setting]
) -> list[Row]:
    """Chat with 20 % of completions, at so many times the capacity of the server."""
    most = _measured(H100_LIKE, MIXED, seeds)
    rows: list[Row] = []
    for share in shares:
        label = {"load": f"{share:.2g}x ({share * most:.0f}/s)"}
        runs: list[list[Row]] = []
        for seed in seeds:
            plan = poisson(scaled(MIXED, share * most), seconds, seed)
            runs.append([label | row for row in _compared(plan, H100_LIKE, settings, seed)])
        rows += middle(runs)
    return rows


def overload(
    seconds: float = 60, seeds: Sequence[int] = SEEDS, shares: Sequence[float] = (1.2, 1.5)
) -> list[Table]:
    """More arrives than the server can do: what becomes of those who type."""
    rows = _at_loads(shares, seconds, seeds, (SEND_ALL, HUB, NO_CEILING))
    return [
        Table(
            "Overload, a fifth of it completions for somebody who types",
            rows,
            SHOWN,
            notes=f"{H100_LIKE.name}, 64 slots, {seconds:g} s of Poisson arrivals. x is against "
            "send-all, on the same requests. Queues grow all the time: so do waits with the run.",
        )
    ]


def near(
    seconds: float = 60, seeds: Sequence[int] = SEEDS, shares: Sequence[float] = (0.9, 0.95)
) -> list[Table]:
    """Nearly as much arrives as the server can do: what holding requests back costs."""
    rows = _at_loads(shares, seconds, seeds, (SEND_ALL, HUB, NO_CEILING))
    return [Table("Near the capacity", rows, SHOWN, notes=f"As under overload, {seconds:g} s.")]


LONG_CHAT = replace(CHAT, prompt=range(200, 601), output=range(200, 401))
SHORT_CHAT = replace(CHAT, prompt=range(20, 61), output=range(20, 61))
TENANTS = (
    ("equal", CHAT, CHAT, HUB),
    ("few are longer", LONG_CHAT, SHORT_CHAT, HUB),
    ("few are shorter", SHORT_CHAT, LONG_CHAT, HUB),
    ("equal", CHAT, CHAT, SEND_ALL),
)
"""Sizes of requests: of the tenant who sends few, and of the one who sends many."""


def tenants(
    seconds: float = 90,
    seeds: Sequence[int] = SEEDS,
    cases: Sequence[tuple[str, Stream, Stream, Setting]] = TENANTS,
) -> list[Table]:
    """Two tenants with always something waiting, one of whom sends ten times as much."""
    rows: list[Row] = []
    for sizes, few, many, setting in cases:
        label = {"sizes": sizes, "dispatch": setting.name}
        length = seconds if setting is HUB else seconds / 4
        run = partial(_shared, few, many, setting, length)
        rows += middle([[label | run(seed)] for seed in seeds])
    return [
        Table(
            "Two tenants, one of whom sends ten times as much",
            rows,
            notes=f"{H100_LIKE.name}; {seconds:g} s in which both have requests waiting. Served: "
            "weighted tokens (input 1, output 2) of the one who sends little, and of the other.",
        )
    ]


def _shared(few: Stream, many: Stream, setting: Setting, seconds: float, seed: int) -> Row:
    # More than its half of the server, so that both always have something waiting.
    alone = capacity(backlog([few], 800, seed), H100_LIKE, seed=seed)
    few = replace(few, rate=0.55 * alone, tenant="few")
    many = replace(many, rate=10 * few.rate, tenant="many")
    waiting = [ask for one in (few, many) for ask in backlog([one], int(4 * one.rate), seed)]
    plan = shuffled(waiting, seed) + poisson([few, many], seconds, seed)
    shared = try_virtual(plan, H100_LIKE, setting, seed=seed, cut=True).shared
    return {
        "few served": shared["few"],
        "many served": shared["many"],
        "few : many": shared["few"] / shared["many"],
    }


def light(seconds: float = 5, seeds: Sequence[int] = SEEDS, rate: float = 50) -> list[Table]:
    """Hardly anything to do: what the dispatcher adds to a request's way."""
    streams = scaled(MIXED, rate)
    fast = 5.0
    rows = []
    for name, run in (("virtual", try_virtual), ("real", partial(try_real, speed=fast))):
        runs: list[list[Row]] = []
        for seed in seeds:
            # In virtual time the server is not faster: a fifth of the requests is the same load.
            plan = poisson(scaled(streams, rate if name == "real" else rate / fast), seconds, seed)
            wait = run(plan, H100_LIKE, HUB, seed=seed).classes[Class.CHAT].wait
            runs.append(
                [{"time": name, "wait p50": wait.p50, "wait p99": wait.p99, "wait max": wait.max}]
            )
        rows += middle(runs)
    return [
        Table(
            "Light load: from a request's arrival to the engine's being called",
            rows,
            notes=f"{rate:g} requests/s in real time, a third of what the engine can do at {fast:g}"
            " times its speed; asyncio's own loop, which simulates the server, too.",
        )
    ]


BATCH_SIZES = (1, 2, 4, 8, 16)
INTERVALS = (0, 10, 50, 300)
"""Flush intervals, in milliseconds."""


def matrix(seconds: float = 120, seeds: Sequence[int] = SEEDS) -> list[Table]:
    """Batch sizes and flush intervals, where the server batches by itself and where it cannot."""
    batching, static = PROFILES["h100-8b"], PROFILES["h100-8b-static"]
    rate = 0.6 * _measured(batching, [SHORT], seeds)
    eights = Setting("batches of 8", window=8, gather=0)
    slower = 0.6 * median(
        capacity(backlog([SHORT], 400, seed), static, eights, seed=seed) for seed in seeds
    )
    continuous = {f"{size}": [_flushing(size, ms) for ms in INTERVALS] for size in BATCH_SIZES}
    # The same object: it is tried once.
    continuous["1, one after the other"] = [Setting("", window=1)] * len(INTERVALS)
    gathered = {
        f"{size}": [Setting("", window=size, gather=ms / 1000) for ms in INTERVALS]
        for size in BATCH_SIZES
    }
    return [
        Table(
            f"{profile.name}: {words}",
            _grid(profile, load, settings, seconds, seeds),
            ("TTFT p50", "TTFT p99", "tokens/s"),
            grid=("BATCH_SIZE", "FLUSH_INTERVAL (ms)"),
            notes=f"{load:.2g} requests/s for {seconds:g} s. Cells: TTFT p50 / p99 (ms), tokens/s.",
        )
        for profile, load, settings, words in (
            (batching, rate, continuous, "it batches by itself; 60 % of its capacity"),
            (static, slower, gathered, "it cannot batch; 60 % of what batches of 8 carry"),
        )
    ]


def _flushing(batch_size: int, interval: float) -> Setting:
    rules = rules_with(batch_size=batch_size, flush_interval=interval / 1000)
    return Setting("", window=16, rules=rules)


def _grid(
    profile: Profile,
    rate: float,
    settings: Mapping[str, Sequence[Setting]],
    seconds: float,
    seeds: Sequence[int],
) -> list[Row]:
    runs: list[list[Row]] = []
    for seed in seeds:
        plan = poisson([replace(SHORT, rate=rate)], seconds, seed)
        rows: list[Row] = []
        for label, line in settings.items():
            tried: dict[int, Row] = {}
            for interval, setting in zip(INTERVALS, line, strict=True):
                if id(setting) not in tried:
                    outcome = try_virtual(plan, profile, setting, seed=seed)
                    tried[id(setting)] = _row(outcome, Class.CHAT)
                cell = {"BATCH_SIZE": label, "FLUSH_INTERVAL (ms)": f"{interval}"}
                rows.append(cell | tried[id(setting)])
        runs.append(rows)
    return middle(runs)


TINY = Stream(1.3, range(46, 51), (8, 16, 24, 48))
PUBLISHED = {"at once": 152, "gather 50 ms": 207, "gather 300 ms": 574, "static": 774}
"""TTFT p50 (ms) as measured on a real llama-server, with 26 requests each."""
COMPARED = (
    Setting("at once", window=16),
    Setting("gather 50 ms", window=16, rules=rules_with(flush_interval=0.05)),
    Setting("gather 300 ms", window=16, rules=rules_with(flush_interval=0.3)),
    Setting("static", window=8, gather=0.05),
)
TIMERS = {"plain timer 50 ms": 0.05, "plain timer 300 ms": 0.3}


def published(
    seconds: float = 300, seeds: Sequence[int] = SEEDS, short_runs: int = 15
) -> list[Table]:
    """The comparison that was measured on a real llama-server, on what simulates it."""
    rows = middle([_published(seconds, seed) for seed in seeds])
    short = [_published(26 / TINY.rate, seed) for seed in range(short_runs)]
    for number, row in enumerate(rows):
        medians = sorted(run[number]["TTFT p50"] for run in short)
        row["TTFT p50 x"] = row["TTFT p50"] / rows[0]["TTFT p50"]
        row["26 requests"] = f"{medians[0]:.0f} to {medians[-1]:.0f}" if medians else ""
        row["measured"] = f"{PUBLISHED.get(str(row['dispatch']), '')}"
    return [
        Table(
            "Poisson arrivals at llama-cpu, 1.3 requests/s, 16 slots",
            rows,
            notes=f"{seconds:g} s. 26 requests: the range of the TTFT p50 of {short_runs} runs as "
            "short as the measured one. Measured: a real llama-server; gathered requests were sent "
            "as arrays there, which run all their members to the longest. gather: the flush "
            "interval, which nobody waits for while nothing runs; plain timer: everybody does. "
            "static: batches of at most 8, gathered for 50 ms, one after the other.",
        )
    ]


def _published(seconds: float, seed: int) -> list[Row]:
    plan = poisson([TINY], seconds, seed)
    tried = [(setting.name, plan, setting) for setting in (*COMPARED, HUB)]
    tried += [(name, held(plan, interval), COMPARED[0]) for name, interval in TIMERS.items()]
    return [
        {"dispatch": name, **_row(try_virtual(asks, CPU, setting, seed=seed), Class.CHAT)}
        for name, asks, setting in tried
    ]


def windows(seconds: float = 45, seeds: Sequence[int] = SEEDS) -> list[Table]:
    """Fixed windows, and those that hub finds, by what it knows of the server."""
    most = _measured(H100_LIKE, MIXED, seeds)
    plans = [
        (f"{share:.2g}x ({share * most:.0f}/s)", scaled(MIXED, share * most))
        for share in (0.95, 1.2)
    ]
    settings = [SEND_ALL, *_fixed(64, 32), *FOUND]
    shown = (
        "load", "window", "tokens/s", "TTFT p50", "TTFT p99", "completion p99",
        "min", "median", "max", "changes",
    )  # fmt: skip
    valley = [(f"{rate:g}/s", [replace(TINY, rate=rate)]) for rate in (1.0, 1.8, 3.0)]
    small = tuple(name for name in shown if name != "completion p99")
    return [
        Table(
            "Windows on h100-like, 64 slots",
            _sized(H100_LIKE, plans, settings, seconds, seeds),
            shown,
            notes=f"{seconds:g} s. TTFT of chat; the last but four: TTFT p99 of completions. "
            "No places are kept free. The window's changes are those of the first seed.",
        ),
        Table(
            "Windows on llama-cpu with 4 slots, where 2 to 4 side by side are slower than one",
            _sized(CPU_VALLEY, valley, [*_fixed(4, 1), *FOUND], 300, seeds),
            small,
            notes="300 s.",
        ),
    ]


KNOWN: dict[str, Knows] = {
    "adaptive, knows the slots": "slots",
    "adaptive, knows who waits": "load",
    "adaptive, knows nothing": "nothing",
}
FOUND = [replace(NO_CEILING, name=name, knows=knows) for name, knows in KNOWN.items()]


def _fixed(*sizes: int) -> list[Setting]:
    return [replace(NO_CEILING, name=f"{size}", window=size) for size in sizes]


def _sized(
    profile: Profile,
    plans: Sequence[tuple[str, Sequence[Stream]]],
    settings: Sequence[Setting],
    seconds: float,
    seeds: Sequence[int],
) -> list[Row]:
    rows: list[Row] = []
    for load, streams in plans:
        runs: list[list[Row]] = []
        for seed in seeds:
            plan = poisson(streams, seconds, seed)
            outcomes = [(s, try_virtual(plan, profile, s, seed=seed)) for s in settings]
            runs.append([{"load": load} | _window_row(s, outcome) for s, outcome in outcomes])
        rows += middle(runs)
    return rows


def _window_row(setting: Setting, outcome: Outcome) -> Row:
    row = {"window": setting.name, **_row(outcome, Class.CHAT), "tokens/s": outcome.tokens_per_s}
    if Class.COMPLETION in outcome.classes:
        row["completion p99"] = outcome.classes[Class.COMPLETION].ttft.p99
    sizes = outcome.windows
    row |= {"min": min(sizes), "median": median(sizes), "max": max(sizes)}
    changes = sorted(outcome.changes.items(), key=lambda item: -item[1])
    return row | {"changes": ", ".join(f"{why} {count}" for why, count in changes)}


EXPERIMENTS: dict[str, Callable[[], list[Table]]] = {
    "overload": overload,
    "near": near,
    "tenants": tenants,
    "light": light,
    "matrix": matrix,
    "published": published,
    "windows": windows,
}
"""By name, in the order in which they are run."""
