"""Responses that no hub knows."""

from hub.api.recorder import Recorder
from hub.api.requests import Request
from hub.dispatch.terms import Terms
from hub.live import Live


def live_of(request: Request, terms: Terms) -> Live:
    """A response to a request, which nothing writes."""
    recorder = Recorder(request, id="resp_1", model=request.model or "sim", now=0)
    recorder.created()
    live = Live(recorder, (), tenant="", now=lambda: 0.0)
    live.terms = terms
    return live
