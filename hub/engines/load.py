"""What model servers say of themselves: ``Load`` out of ``/props`` and ``/metrics``. Pure.

- llama.cpp has ``/props`` (slots and the context of one) and, if it was started with ``--metrics``,
  ``/metrics``. Its cache is taken to be divided among the slots. With ``--kv-unified`` (which later
  versions imply if they are started without ``-np``) all share one of the size that ``/props``
  gives for each, so that this is too much by the number of slots; nothing there tells.
- vLLM has ``/metrics``. With data parallelism every engine has series of its own, but all of them
  repeat the number of blocks that the engines have together. ``kv_cache_size_tokens``, which later
  versions add, is of one engine, and right for models whose layers need different amounts.
- SGLang has ``/metrics`` if it was started with ``--enable-metrics``. If it schedules by priority,
  the series with a ``priority`` are parts of the one whose ``priority`` is empty.

Both functions are total: whatever cannot be read, or is absurd, has not been said. The metrics are
not read by prometheus_client's parser, which takes every sample apart and raises for a bad line:
this runs on the event loop every second, and of 200 KB a dozen lines are wanted.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

from hub.engines.base import Load

MAX_SLOTS = 65536
"""A server that claims more than this is not believed."""

MAX_COUNT = 1 << 40
"""Nor is more than this of anything else."""

MAX_LINE = 16384
"""Bytes of a line of metrics that is read."""

_RUNNING = "llamacpp:requests_processing", "vllm:num_requests_running", "sglang:num_running_reqs"
_WAITING = "llamacpp:requests_deferred", "vllm:num_requests_waiting", "sglang:num_queue_reqs"
# llama.cpp's former kv_cache_usage_ratio is left out: it counted what idle slots keep for later.
_KV_USED = "vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"
_KV_TOKENS = ("sglang:max_total_num_tokens",)
_CACHE_INFO = "vllm:cache_config_info"
_WANTED = frozenset([*_RUNNING, *_WAITING, *_KV_USED, *_KV_TOKENS, _CACHE_INFO])

_LINE = re.compile(rb"^(?:llamacpp|vllm|sglang):[^\n]{1,%d}$" % MAX_LINE, re.MULTILINE)
_NAME = rb"[a-zA-Z_][a-zA-Z0-9_]*"
_TEXT = rb'(?:[^"\\\n]|\\[^\n])*'
_LABELS = rb'\{(?:%b="%b"(?:,|(?=\})))*\}' % (_NAME, _TEXT)
# Name, labels, value, and perhaps a time stamp.
_SAMPLE = re.compile(rb"([a-z:_]+)(%b)?[ \t]+([-+.0-9eE]{1,64})([ \t]+-?[0-9]+)?\s*" % _LABELS)
_EACH_LABEL = re.compile(rb'(%b)="(%b)"' % (_NAME, _TEXT))


class _Sample(NamedTuple):
    """One line of metrics."""

    labels: Mapping[str, str]
    value: float


_Found = Mapping[str, Sequence[_Sample]]


def parse_props(body: bytes) -> Load:
    """What llama.cpp's ``/props`` says: ``slots`` and ``kv_tokens``."""
    try:
        props = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Load()
    slots = props.get("total_slots") if isinstance(props, dict) else None
    if type(slots) is not int or not 0 < slots <= MAX_SLOTS:
        return Load()
    settings = props.get("default_generation_settings")
    context = settings.get("n_ctx") if isinstance(settings, dict) else None
    if type(context) is not int or not 0 < context <= MAX_COUNT // slots:
        return Load(slots)
    return Load(slots, slots * context)


def parse_metrics(body: bytes) -> Load:
    """What the metrics of a model server, in Prometheus' text format, say: all but ``slots``.

    Counts of several series are summed; of how full caches are, the fullest counts.
    """
    found: dict[str, list[_Sample]] = {}
    for line in _LINE.findall(body):
        match = _SAMPLE.fullmatch(line)
        name = match[1].decode() if match else ""
        if match is None or name not in _WANTED:
            continue
        labels = {
            label.decode(): value.decode(errors="replace")
            for label, value in _EACH_LABEL.findall(match[2] or b"")
        }
        if not labels.get("priority"):
            found.setdefault(name, []).append(_Sample(labels, _number(match[3])))
    return Load(
        kv_tokens=_cache_size(found.get(_CACHE_INFO, ())) or _total(found, _KV_TOKENS) or None,
        running=_total(found, _RUNNING),
        waiting=_total(found, _WAITING),
        kv_used=_fullest(found, _KV_USED),
    )


def _number(text: bytes) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0  # is ignored as any other absurd value


def _total(found: _Found, names: Iterable[str]) -> int | None:
    """The sum of the first of these metrics that is there."""
    for name in names:
        # No NaN passes the comparisons.
        counts = [
            int(one.value)
            for one in found.get(name, ())
            if 0 <= one.value <= MAX_COUNT and one.value.is_integer()
        ]
        if counts:
            return _believable(sum(counts))
    return None


def _fullest(found: _Found, names: Iterable[str]) -> float | None:
    shares = [one.value for name in names for one in found.get(name, ()) if 0 <= one.value <= 1]
    return max(shares, default=None)


def _cache_size(samples: Sequence[_Sample]) -> int | None:
    """The tokens that the caches of vLLM's engines hold together."""
    sizes = [_size(one.labels.get("kv_cache_size_tokens")) for one in samples]
    if any(sizes):
        return _believable(sum(sizes))
    pools = [
        _size(one.labels.get("block_size")) * _size(one.labels.get("num_gpu_blocks"))
        for one in samples
    ]
    return _believable(max(pools, default=0))


def _size(text: str | None) -> int:
    """A number in a label; 0 if it is none, as before vLLM has measured (``None``)."""
    return int(text) if text and re.fullmatch("[0-9]{1,15}", text) else 0


def _believable(count: int) -> int | None:
    return count if count <= MAX_COUNT else None
