"""What a run's samples come to. Pure. Times are in seconds here, in milliseconds in reports."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """How samples are spread: their number, mean, percentiles and maximum; ``nan`` without any."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


NOTHING = Spread(0, *[float("nan")] * 5)


def spread(samples: Iterable[float], scale: float = 1.0) -> Spread:
    """The spread of samples, each multiplied by ``scale``."""
    ordered = sorted(samples)
    if not ordered:
        return NOTHING
    p50, p90, p99 = (percentile(ordered, share) * scale for share in (0.5, 0.9, 0.99))
    mean = sum(ordered) / len(ordered)
    return Spread(len(ordered), mean * scale, p50, p90, p99, ordered[-1] * scale)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the samples lie; they are given in order.

    Between two samples it is interpolated: numpy's "linear", which vLLM's and AIPerf's reports use.
    """
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    # Not a sum of two products: rounding must not take it out of the samples' range.
    value = ordered[low] + (ordered[high] - ordered[low]) * (at - low)
    return min(max(value, ordered[low]), ordered[high])


def middle(spreads: Sequence[Spread]) -> Spread:
    """The median of several runs, figure by figure; runs without samples do not count."""
    counted = [one for one in spreads if one.count]
    if not counted:
        return NOTHING
    return Spread(
        round(median(one.count for one in counted)),
        *(median(getattr(one, name) for one in counted) for name in SHOWN),
    )


SHOWN = ("mean", "p50", "p90", "p99", "max")
