"""A request and the chain before it, as the messages that an engine is asked to go on from."""

from collections.abc import Sequence
from dataclasses import replace

from hub.api.items import check_call_ids, to_messages
from hub.api.requests import Json, Request
from hub.errors import HubError


def with_messages(request: Request, context: Sequence[Json]) -> Request:
    """A request with its messages: of the chain before it, and its own."""
    if request.generation.messages:
        return request
    check_call_ids(context, request.items)
    if not request.items and not context and request.generate:
        raise HubError("missing_required_parameter", "'input' is required.", param="input")
    messages = to_messages([*context, *request.items], request.instructions)
    return replace(request, generation=replace(request.generation, messages=messages))
