"""``GET /metrics``: what the histograms hold, and what every part says of itself when it is asked.

Beside the histograms (``hub.metrics``) nothing is counted for this: each part has its
``statistics()``, and a scrape walks them. Labels are classes, upstreams, and reasons from hub's own
lists: no tenant, no key, no text.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hub.completer import CompleterStatistics
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.observed import WAITS
from hub.dispatch.observed import Statistics as Dispatched
from hub.dispatch.upstream import UpstreamStatistics
from hub.hub import Hub
from hub.metrics import Metrics
from hub.server import courier, guard, pulse
from hub.server.http import admin

METRICS = web.AppKey("metrics", Metrics)

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
STATES = ("closed", "half_open", "open", "leaving")

Connections = tuple[int, int, int]
"""Open WebSockets, lanes that run a response, and requests that wait for a lane."""


async def metrics(request: web.Request) -> web.StreamResponse:
    """Answer a scrape."""
    admin(request)
    body = generate_latest(request.app[METRICS].registry)
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def metrics_of(
    hub: Hub,
    beat: Callable[[], pulse.Statistics],
    connections: Callable[[], Connections],
    webhooks: Callable[[], courier.Statistics],
    completions: Callable[[], CompleterStatistics],
    entrance: Callable[[], guard.Statistics],
    nodes: Callable[[], int],
) -> Metrics:
    """The metrics of a hub that is served: it notes its responses there from now on."""
    found = Metrics(lambda model: _knows(hub.dispatcher, model))
    found.registry.register(_Walk(hub, beat, connections, webhooks, completions, entrance, nodes))
    hub.on_ended.append(found.ended)
    return found


class _Walk(Collector):
    """What the parts of a hub say of themselves, asked at every scrape."""

    def __init__(
        self,
        hub: Hub,
        beat: Callable[[], pulse.Statistics],
        connections: Callable[[], Connections],
        webhooks: Callable[[], courier.Statistics],
        completions: Callable[[], CompleterStatistics],
        entrance: Callable[[], guard.Statistics],
        nodes: Callable[[], int],
    ) -> None:
        self._hub = hub
        self._beat = beat
        self._connections = connections
        self._webhooks = webhooks
        self._completions = completions
        self._entrance = entrance
        self._nodes = nodes

    def collect(self) -> Iterator[Metric]:
        dispatched = self._hub.dispatcher.statistics()
        yield from _queue(dispatched)
        yield from _upstreams(dispatched.upstreams)
        yield _gauge("hub_nodes", "Nodes that share the store, this one included.", self._nodes())
        yield from _responses(self._hub)
        yield from _store(self._hub)
        yield from _loop(self._beat())
        yield from _front(*self._connections())
        yield from _posted(self._webhooks())
        yield from _completed(self._completions())
        yield from _entered(self._entrance())


def _queue(said: Dispatched) -> Iterator[Metric]:
    classes = said.classes
    yield _gauge("hub_queue_requests", "Requests that wait.", _each(classes, "queued"), "class")
    yield _gauge(
        "hub_queue_tenants",
        "Tenants with something waiting.",
        _each(classes, "tenants"),
        "class",
    )
    yield _gauge(
        "hub_queue_fairness_spread_tokens",
        "How far apart the waiting tenants' service is, in weighted tokens.",
        _each(classes, "fairness_spread"),
        "class",
    )
    waits = HistogramMetricFamily(
        "hub_queue_wait_seconds", "What the dispatched have waited.", labels=["class"]
    )
    for label, one in classes.items():
        waits.add_metric([label], _cumulative(WAITS, one.waits), one.wait_seconds)
    yield waits
    yield _counter("hub_batches", "Batches by why they left.", said.dispatched, "reason")
    sizes = {int(size): count for size, count in said.batches.items()}
    counts = [0] * (len(BATCHES) + 1)
    for size, count in sizes.items():
        counts[sum(size > bound for bound in BATCHES)] += count
    batches = HistogramMetricFamily("hub_batch_size", "Requests that left together.")
    total = sum(size * count for size, count in sizes.items())
    batches.add_metric([], _cumulative(BATCHES, counts), total)
    yield batches
    yield _counter("hub_arrays", "Batches that were sent as one request.", said.arrays)
    yield _counter("hub_shed", "Requests refused, or given up waiting.", said.shed, "reason")
    yield _counter("hub_cancelled", "Requests cancelled.", said.cancelled, "stage")
    yield _counter("hub_retried", "Requests sent again elsewhere.", said.retried, "error_type")


def _upstreams(said: Mapping[str, UpstreamStatistics]) -> Iterator[Metric]:
    for name, help, field in (
        ("hub_upstream_requests", "Requests that have a place there.", "in_flight"),
        ("hub_upstream_window_requests", "The most that this node gives it.", "window"),
        ("hub_upstream_tokens", "Tokens that its requests may come to hold.", "tokens"),
    ):
        yield _gauge(name, help, _each(said, field), "upstream")
    state = GaugeMetricFamily(
        "hub_upstream_state", "1 for the state of its breaker.", labels=["upstream", "state"]
    )
    for upstream, one in said.items():
        for label in STATES:
            state.add_metric([upstream, label], float(one.state == label))
    yield state
    for name, help, field, label in (
        ("hub_upstream_window_changes", "Changes of its window.", "window_changes", "reason"),
        ("hub_upstream_ended", "Requests by how they ended there.", "ended", "outcome"),
    ):
        counts = CounterMetricFamily(name, help, labels=["upstream", label])
        for upstream, one in said.items():
            for why, count in getattr(one, field).items():
                counts.add_metric([upstream, why], count)
        yield counts
    for name, help, field in (
        ("hub_upstream_breaker_opened", "How often its breaker has opened.", "opened"),
        ("hub_upstream_prefix_hits", "Requests whose beginning it had seen.", "prefix_hits"),
    ):
        yield _counter(name, help, _each(said, field), "upstream")


def _responses(hub: Hub) -> Iterator[Metric]:
    said, bounds = hub.statistics(), hub.bounds.statistics()
    yield _gauge("hub_responses_live", "Responses that have not ended.", said.live)
    yield _gauge("hub_responses_remembered", "Ended ones in memory.", said.remembered)
    yield _counter("hub_responses_accepted", "Responses accepted.", said.accepted)
    yield _counter("hub_responses", "Responses that ended.", said.by_status, "status")
    yield _gauge("hub_live_bytes", "What live responses' logs hold.", bounds.live_bytes)
    yield _gauge("hub_live_bytes_limit", "What they may hold.", bounds.max_live_bytes)
    yield _counter("hub_memory_refused", "Requests refused for want of memory.", bounds.refused)
    yield _counter("hub_responses_too_large", "Responses given up.", bounds.too_large)
    yield _counter("hub_slow_readers_closed", "Readers too far behind.", bounds.slow_readers)


def _store(hub: Hub) -> Iterator[Metric]:
    said = hub.store.statistics()
    yield _gauge("hub_store_records", "Responses in the store.", said.records)
    yield _gauge("hub_store_jobs", "Background work in the store.", said.jobs)
    yield _gauge("hub_store_bytes", "What the store holds.", said.bytes)
    yield _gauge("hub_store_waiting_calls", "Calls that wait for their commit.", said.waiting)
    yield _gauge("hub_store_lag_seconds", "How long the oldest has waited.", hub.store.lag)
    yield _gauge("hub_store_last_commit_seconds", "The last commit.", said.last_commit)
    yield _counter("hub_store_commits", "Commits.", said.commits)


def _loop(said: pulse.Statistics) -> Iterator[Metric]:
    late = HistogramMetricFamily("hub_loop_late_seconds", "How late the loop's timer was rung.")
    bounds = [bound / 1000 for bound in pulse.BUCKETS]
    # Without a sum: how late all rings were together says nothing.
    late.add_metric([], _cumulative(bounds, [*said.late.values()]), None)
    yield late
    yield _gauge("hub_loop_late_max_seconds", "The most so far.", said.late_max / 1000)
    yield _counter("hub_gc_collections", "Collections of garbage.", said.collections)
    yield _counter("hub_gc_pause_seconds", "All their pauses.", said.collecting / 1000)
    yield _gauge("hub_gc_pause_max_seconds", "The longest pause.", said.collection_max / 1000)


def _front(connections: int, lanes: int, waiting: int) -> Iterator[Metric]:
    yield _gauge("hub_connections", "WebSockets that are open.", connections)
    yield _gauge("hub_lanes_active", "Their lanes that run a response.", lanes)
    yield _gauge("hub_lanes_waiting_requests", "Requests that wait for a lane.", waiting)


def _posted(said: courier.Statistics) -> Iterator[Metric]:
    label = "endpoint"
    yield _gauge("hub_webhooks_due", "Webhooks that are due.", said.held, label)
    yield _counter("hub_webhook_tries", "Tries to deliver one.", said.tried, label)
    yield _counter("hub_webhook_failures", "Tries that failed.", said.failed, label)
    yield _counter("hub_webhooks_delivered", "Webhooks delivered.", said.delivered, label)
    yield _counter("hub_webhooks_given_up", "Webhooks given up.", said.given_up, label)


def _entered(said: guard.Statistics) -> Iterator[Metric]:
    door = said.door
    yield _gauge("hub_sockets", "Connections that are open, WebSockets included.", door.sockets)
    yield _gauge("hub_sockets_limit", "The most; 0: any number.", door.limit)
    yield _gauge("hub_sockets_half_open", "Those that still owe a request.", door.half_open)
    yield _gauge("hub_socket_addresses", "From how many addresses they come.", door.addresses)
    yield _counter("hub_connections_refused", "Too many of something.", door.refused, "reason")
    yield _counter("hub_requests_timed_out", "Too slow to arrive.", door.timed_out, "phase")
    yield _counter("hub_requests_refused", "Not let past the guard.", said.refused, "reason")


def _completed(said: CompleterStatistics) -> Iterator[Metric]:
    yield _gauge("hub_completions_running", "Completions that are predicted.", said.running)
    for name, help, value in (
        ("asked", "Requests of lanes on which somebody types.", said.asked),
        ("dispatched", "Predictions asked of a model server.", said.dispatched),
        ("reused", "Requests answered from what was predicted before.", said.reused),
        ("superseded", "Requests that a newer one made stale.", said.superseded),
        ("held", "Predictions that went on only to load their model.", said.held),
        ("wasted_tokens", "Tokens of predictions that were let go of.", said.wasted_tokens),
        ("accepted_characters", "What users took, as clients tell.", said.accepted_characters),
    ):
        yield _counter(f"hub_completions_{name}", help, value)
    yield _counter("hub_completions_ended", "Requests by why they ended.", said.ended, "reason")


# How families are made.

Values = Mapping[str, float] | float
"""One value, or one for each value of a label."""


def _gauge(name: str, help: str, values: Values, *label: str) -> Metric:
    family = GaugeMetricFamily(name, help, labels=label)
    for labels, value in _samples(values):
        family.add_metric(labels, value)
    return family


def _counter(name: str, help: str, values: Values, *label: str) -> Metric:
    """Its sample's name gets ``_total``."""
    family = CounterMetricFamily(name, help, labels=label)
    for labels, value in _samples(values):
        family.add_metric(labels, value)
    return family


def _samples(values: Values) -> Iterable[tuple[list[str], float]]:
    if isinstance(values, Mapping):
        return [([label], value) for label, value in values.items()]
    return [([], values)]


def _each(said: Mapping[str, object], field: str) -> dict[str, float]:
    return {label: getattr(one, field) for label, one in said.items()}


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """Counts per bucket, the last one for the rest, as Prometheus wants them."""
    edges = [*map(str, map(float, bounds)), "+Inf"]
    return [(edge, float(sum(counts[: place + 1]))) for place, edge in enumerate(edges)]


def _knows(dispatcher: Dispatcher, model: str) -> bool:
    return any(upstream.engine.serves(model) for upstream in dispatcher.upstreams)
