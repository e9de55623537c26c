"""What the responses of a run come to. Pure."""

from array import array
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from hub.bench.answer import Answer, Window
from hub.bench.stats import Spread, spread


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one run found. Times in milliseconds, as ``answer.py`` defines them.

    Right or wrong counts over the whole run. TTFT, TPOT and E2E are those of the responses that
    began in the measured window, and ITL the gaps that ended in it; tokens, requests and CPU time
    are those of the window.
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
        self.completed = 0
        self.cut = 0
        self.ended = 0
        self.measured = 0
        """Measured responses that have ended."""
        self.failed: Counter[str] = Counter()
        self.silent = 0
        self.wrong = 0
        self.lost = 0
        self.surplus = 0
        self.difference: str | None = None
        self._ttft = array("d")
        self._tpot = array("d")
        self._e2e = array("d")

    def add(self, answer: Answer) -> None:
        """A response has ended, or will not be read on."""
        self.ended += answer.ended is not None
        self.measured += answer.measured
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
            for samples, value in (
                (self._ttft, answer.ttft),
                (self._tpot, answer.tpot),
                (self._e2e, answer.e2e),
            ):
                if value is not None:
                    samples.append(value)

    def result(
        self,
        *,
        mode: str,
        streams: int,
        seconds: float,
        tokens: int,
        requests: int,
        client: float,
        usage: Usage | None,
        source: Usage | None,
        machine: float | None,
        peak: int | None,
    ) -> Result:
        """All but ``peak`` (bytes) are those of the window, which was so many ``seconds`` long:
        ``requests`` that ended, the CPU seconds of the load generator (``client``) and of the whole
        ``machine``, what the server and the ``source`` have used."""
        others = None
        if machine is not None and usage is not None and source is not None:
            others = max(0.0, machine - client - usage.cpu - source.cpu) / seconds
        return Result(
            mode=mode,
            streams=streams,
            window_s=seconds,
            tokens=tokens,
            tokens_per_s=tokens / seconds,
            requests_per_s=requests / seconds,
            ttft_ms=spread(self._ttft, 1e3),
            itl_ms=spread(self.window.gaps, 1e3),
            tpot_ms=spread(self._tpot, 1e3),
            e2e_ms=spread(self._e2e, 1e3),
            completed=self.completed,
            cut=self.cut,
            failed=dict(self.failed),
            silent=self.silent,
            wrong=self.wrong,
            lost=self.lost,
            surplus=self.surplus,
            difference=self.difference,
            client_cpu_us=client / (tokens or 1) * 1e6,
            client_busy=client / seconds,
            cpu_us=None if usage is None else usage.cpu / (tokens or 1) * 1e6,
            reads_per_token=None if usage is None else usage.reads / (tokens or 1),
            writes_per_token=None if usage is None else usage.writes / (tokens or 1),
            source_cpu_us=None if source is None else source.cpu / (tokens or 1) * 1e6,
            others_busy=others,
            peak_mb=None if peak is None else peak / 1e6,
        )
