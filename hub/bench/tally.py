"""What the responses of a run come to. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from hub.bench.answer import Answer, Window
from hub.bench.record import Limits, Record, met
from hub.bench.stats import Spread, percentile, spread


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process tree has used up to a moment, or between two."""

    cpu: float
    """User and system time, in seconds."""
    reads: int
    """``read`` and ``write`` system calls, of the kinds that the kernel counts: those of uvloop,
    not the ``recv`` and ``send`` of asyncio's own loop."""
    writes: int

    def since(self, before: "Usage") -> "Usage":
        return Usage(self.cpu - before.cpu, self.reads - before.reads, self.writes - before.writes)


@dataclass(slots=True)
class Traffic:
    """What went over the wire, up to a moment."""

    requests: int = 0
    """HTTP requests, those that open a WebSocket included."""
    sent: int = 0
    """Bytes, heads and frames included."""
    received: int = 0
    open: int = 0
    """Connections that are open."""
    peak: int = 0
    """The most that were open at a time."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The counts at one moment of a run; the server's, the source's and the machine's are ``None``
    where they are not known."""

    at: float
    """Of a monotonic clock, in seconds."""
    tokens: int
    ended: int
    client: float
    """CPU seconds of the load generator, and of the whole ``machine``."""
    traffic: Traffic
    usage: Usage | None = None
    source: Usage | None = None
    machine: float | None = None


class Moments(NamedTuple):
    """Those that a run is measured by."""

    begun: Moment
    opened: Moment
    """The warm-up is over, the window begins."""
    closed: Moment
    over: Moment
    """Nothing runs any more."""


@dataclass(frozen=True, slots=True)
class Sofar:
    """What a run that goes on has come to."""

    seconds: float
    """Since it began."""
    ended: int
    tokens_per_s: float
    ttft_ms: float
    """The median of the last thousand measured responses; ``nan`` without any."""
    mistakes: int
    """Responses that failed or have a wrong text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run found. Times in milliseconds, as ``answer.py`` defines them.

    Right or wrong counts over the whole run. TTFT, TPOT and E2E are those of the responses that
    began in the measured window, and ITL the gaps that ended in it; tokens, requests and CPU time
    are those of the window. What a response costs, in CPU time and on the wire, is that of the
    whole run, so that all is counted of every one.
    """

    mode: str
    streams: int
    window_s: float
    tokens: int
    tokens_per_s: float
    requests_per_s: float
    ttft_ms: Spread
    itl_ms: Spread
    tpot_ms: Spread
    e2e_ms: Spread
    gap_ms: Spread
    """The longest gap of each response."""
    polls: float | None
    """Polls per response, if it was polled."""
    goodput_per_s: float | None
    """Responses per second that met every limit, and their share; ``None`` without limits."""
    goodput_share: float | None
    http_requests: float
    """Per response; so are the bytes, of both directions."""
    wire_bytes: float
    peak_connections: int
    checked: bool
    """Whether texts could be compared with anything."""
    completed: int
    cut: int
    """Cut off by the load generator's own wish, at the end."""
    failed: dict[str, int]
    """By error code."""
    silent: int
    """Those of them that failed before any text."""
    wrong: int
    """Responses with another text than expected."""
    lost: int
    """Characters; ``surplus`` too."""
    surplus: int
    difference: str | None
    """The first one."""
    client_cpu_us: float
    """The load generator's own CPU time per token, and the share of the time that it was busy:
    near 1 it measures itself."""
    client_busy: float
    cpu_us: float | None = None
    """The server's CPU time per token, in microseconds; this and the rest only where it is known
    which processes those are."""
    cpu_ms: float | None = None
    """The same per response, in milliseconds."""
    reads_per_token: float | None = None
    writes_per_token: float | None = None
    source_cpu_us: float | None = None
    """The token source's CPU time per token, if its process is known."""
    others_busy: float | None = None
    """How many cores were kept busy by processes that are none of these: noise."""
    peak_mb: float | None = None
    """The most memory that they have ever had resident (``VmHWM``), in 10^6 bytes."""

    @property
    def flawless(self) -> bool:
        """Nothing failed and every text was right."""
        return not (self.failed or self.wrong or self.lost or self.surplus)

    def json(self) -> dict[str, Any]:
        return asdict(self)


class Tally:
    """Adds up the responses of a run as they end."""

    def __init__(self) -> None:
        self.window = Window()
        self.begun = 0.0
        """When the run began."""
        self.completed = 0
        self.cut = 0
        self.ended = 0
        self.records: list[Record] = []
        """Of the measured responses that have ended, or will not be read on."""
        self.failed: Counter[str] = Counter()
        self.silent = 0
        self.wrong = 0
        self.lost = 0
        self.surplus = 0
        self.difference: str | None = None

    def add(self, answer: Answer) -> None:
        """A response has ended, or will not be read on."""
        self.ended += answer.ended is not None
        if answer.ended is None:
            self.cut += 1
        elif answer.error is not None:
            self.failed[answer.error] += 1
            self.silent += answer.first is None
        elif not answer.wrong:
            self.completed += 1
        if answer.wrong:
            self.wrong += 1
            self.difference = self.difference or answer.difference
            lost, surplus = answer.differences()
            self.lost += lost
            self.surplus += surplus
        if answer.measured:
            self.records.append(Record.of(answer, self.begun))

    def so_far(self, now: float, tokens: int) -> Sofar:
        """What to tell while the run goes on; ``tokens`` have come."""
        seconds = now - self.begun
        ttft = sorted(_present(record.ttft_ms for record in self.records[-1000:]))
        return Sofar(
            seconds=seconds,
            ended=self.ended,
            tokens_per_s=tokens / seconds if seconds else 0.0,
            ttft_ms=percentile(ttft, 0.5) if ttft else float("nan"),
            mistakes=self.failed.total() + self.wrong,
        )

    def result(
        self,
        mode: str,
        streams: int,
        moments: Moments,
        *,
        limits: Limits | None = None,
        checked: bool = True,
        peak: int | None = None,
    ) -> Result:
        """What the run found. ``peak``: the server's memory, in bytes."""
        begun, before, after, over = moments
        seconds = after.at - before.at
        tokens, requests = after.tokens - before.tokens, after.ended - before.ended
        per_token, per_response = 1 / (tokens or 1), 1 / (self.ended + self.cut or 1)
        client = after.client - before.client
        usage, source = _between(before.usage, after.usage), _between(before.source, after.source)
        whole = _between(begun.usage, over.usage)
        others = None
        if usage and source and before.machine is not None and after.machine is not None:
            machine = after.machine - before.machine
            others = max(0.0, machine - client - usage.cpu - source.cpu) / seconds
        good = None if limits is None else met(self.records, limits)
        polls = sum(record.polls for record in self.records)
        traffic = over.traffic
        return Result(
            mode=mode,
            streams=streams,
            window_s=seconds,
            tokens=tokens,
            tokens_per_s=tokens / seconds,
            requests_per_s=requests / seconds,
            ttft_ms=spread(_present(record.ttft_ms for record in self.records)),
            itl_ms=spread(self.window.gaps, 1e3),
            tpot_ms=spread(_present(record.tpot_ms for record in self.records)),
            e2e_ms=spread(_present(record.e2e_ms for record in self.records)),
            gap_ms=spread(_present(record.gap_ms for record in self.records)),
            polls=polls / len(self.records) if polls else None,
            goodput_per_s=None if good is None else good / seconds,
            goodput_share=None if good is None else good / (len(self.records) or 1),
            http_requests=traffic.requests * per_response,
            wire_bytes=(traffic.sent + traffic.received) * per_response,
            peak_connections=traffic.peak,
            checked=checked,
            completed=self.completed,
            cut=self.cut,
            failed=dict(self.failed),
            silent=self.silent,
            wrong=self.wrong,
            lost=self.lost,
            surplus=self.surplus,
            difference=self.difference,
            client_cpu_us=client * per_token * 1e6,
            client_busy=client / seconds,
            cpu_us=None if usage is None else usage.cpu * per_token * 1e6,
            cpu_ms=None if whole is None else whole.cpu * per_response * 1e3,
            reads_per_token=None if usage is None else usage.reads * per_token,
            writes_per_token=None if usage is None else usage.writes * per_token,
            source_cpu_us=None if source is None else source.cpu * per_token * 1e6,
            others_busy=others,
            peak_mb=None if peak is None else peak / 1e6,
        )


def _between(before: Usage | None, after: Usage | None) -> Usage | None:
    return None if before is None or after is None else after.since(before)


def _present(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]
