"""A request and the chain before it, as the messages that an engine is asked to go on from.

A request that brings its messages, or a raw prompt, is left as it is.
"""

from collections.abc import Sequence
from dataclasses import replace

from hub.api.items import check_call_ids, to_messages
from hub.api.requests import Json, Request
from hub.errors import HubError


def with_messages(request: Request, context: Sequence[Json]) -> Request:
    """A request with its messages: of the chain before it, and its own."""
    if request.generation.messages or request.generation.prompt is not None:
        return request
    check_call_ids(context, request.items)
    if not request.items and not context and request.generate:
        raise HubError("missing_required_parameter", "'input' is required.", param="input")
    messages = to_messages([*context, *request.items], request.instructions)
    return replace(request, generation=replace(request.generation, messages=messages))


def completed(request: Request) -> Request:
    """A request with its messages if no chain is before it, else as it is.

    A parser's last step, so that the work is done where large requests are parsed. Raises
    ``HubError`` as ``with_messages`` does.
    """
    return request if request.previous_response_id is not None else with_messages(request, ())
