"""OpenTelemetry's GenAI metrics in Prometheus' spelling, noted once for each ended response.

hub is a server to its clients and a client to its model servers: ``gen_ai_server_*`` is what its
clients see, the queue included, and ``gen_ai_client_*`` the upstream's leg of it, from when the
last attempt was sent. The difference is hub's own.

Names and buckets: OpenTelemetry's semantic conventions for GenAI (status: development). No label
has more values than somebody has configured: no tenant, no key, no text, and a model's name only
if a model server lists it.
"""

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Histogram

from hub.live import Live

DURATION = tuple(round(0.01 * 2**power, 2) for power in range(14))
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**power) for power in range(14))

PROVIDER = "hub"
OTHER = "other"
"""The label of every model that is not known."""
MAX_MODELS = 100
"""Models that get a label of their own: a server may list any number."""

_LABELS = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class Metrics:
    """``registry`` holds them. ``ended`` notes a response."""

    def __init__(self, knows: Callable[[str], bool]) -> None:
        """``knows`` tells whether some model server serves a model for sure."""
        self.registry = CollectorRegistry()
        self._knows = knows
        self._models: set[str] = set()
        self._first_token = self._histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the request to the first token, successful responses; the queue included.",
            FIRST_TOKEN,
        )
        self._per_token = self._histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Per token after the first, successful responses.",
            PER_TOKEN,
        )
        self._duration = self._histogram(
            "gen_ai_server_request_duration_seconds",
            "From the request to the response's end.",
            DURATION,
            "error_type",
        )
        self._upstream_duration = self._histogram(
            "gen_ai_client_operation_duration_seconds",
            "From when a request was sent to a model server to the response's end.",
            DURATION,
            "error_type",
        )
        self._upstream_first = self._histogram(
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "From when a request was sent to a model server to the first chunk with a token.",
            DURATION,
        )
        self._tokens = self._histogram(
            "gen_ai_client_token_usage",
            "Tokens of a response, as the model server has counted them.",
            TOKENS,
            "gen_ai_token_type",
        )

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *more: str) -> Histogram:
        return Histogram(name, help, (*_LABELS, *more), buckets=buckets, registry=self.registry)

    def ended(self, live: Live) -> None:
        """Note a response that has ended. One that no model was asked for, a warm-up, is none."""
        recorder, ledger = live.recorder, live.ledger
        if not recorder.request.generate:
            return
        labels = (_operation(live), PROVIDER, self._model(recorder.request.model, recorder.model))
        # What is not an error has no type; Prometheus takes an empty label for none.
        error = "" if recorder.error is None else recorder.error.code
        if recorder.status == "cancelled":
            error = "cancelled"
        _observe(self._duration.labels(*labels, error), ledger.between("received", "ended"))
        _observe(
            self._upstream_duration.labels(*labels, error), ledger.between("dispatched", "ended")
        )
        usage = recorder.reported_usage
        if usage is not None:
            self._tokens.labels(*labels, "input").observe(usage.input_tokens)
            self._tokens.labels(*labels, "output").observe(usage.output_tokens)
        if error:
            return
        _observe(self._first_token.labels(*labels), ledger.between("received", "first_token"))
        _observe(self._upstream_first.labels(*labels), ledger.between("dispatched", "first_token"))
        decoding = ledger.between("first_token", "last_token")
        if usage is not None and usage.output_tokens > 1 and decoding is not None:
            self._per_token.labels(*labels).observe(decoding / (usage.output_tokens - 1))

    def _model(self, asked: str, used: str) -> str:
        """The label for the model that was asked for, or is used where none was."""
        model = asked or used
        if model not in self._models:
            if not model or not self._knows(model) or len(self._models) >= MAX_MODELS:
                return OTHER
            self._models.add(model)
        return model


def _operation(live: Live) -> str:
    return "chat" if live.generation.prompt is None else "text_completion"


def _observe(histogram: Any, seconds: float | None) -> None:
    """What did not happen is not noted: it did not take 0 s."""
    if seconds is not None:
        histogram.observe(seconds)
