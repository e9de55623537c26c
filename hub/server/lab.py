"""The laboratory's settings: what the page at ``/lab`` reads, and changes where it may.

They are those of the dispatcher, for everybody who uses this hub; so changing them takes a server
that was started with ``--lab``. Completions keep their own: they never wait for company.
"""

from dataclasses import replace
from typing import Any

from aiohttp import web

from hub.api.requests import Json
from hub.dispatch.dispatcher import Dispatcher
from hub.dispatch.terms import Class
from hub.errors import HubError
from hub.server.http import HUB, admin, json_response, read

ALLOWED = web.AppKey("lab", bool)
"""Whether the settings may be changed."""

MAX_BATCH = 1024
MAX_INTERVAL_MS = 10_000
"""Nobody is made to wait longer by an experiment."""

_CHANGED = (Class.CHAT, Class.BACKGROUND)


async def get_settings(request: web.Request) -> web.StreamResponse:
    """``GET /lab/settings``: what holds for chat, and whether it can be changed."""
    admin(request)
    return json_response(_settings(request))


async def change_settings(request: web.Request) -> web.StreamResponse:
    """``POST /lab/settings``: changes what is named, for chat and background; the rest stays."""
    admin(request)
    if not request.app[ALLOWED]:
        raise HubError(
            "lab_not_allowed", "The settings cannot be changed: hub was started without --lab."
        )
    changes = await read(request, _changes)
    dispatcher = request.app[HUB].dispatcher
    rules = dict(dispatcher.rules)
    for rank in _CHANGED:
        rules[rank] = replace(rules[rank], **changes)
    dispatcher.configure(rules)
    return json_response(_settings(request))


def _settings(request: web.Request) -> Json:
    dispatcher: Dispatcher = request.app[HUB].dispatcher
    rules = dispatcher.rules[Class.CHAT]
    return {
        "batch_size": rules.batch_size,
        "flush_interval_ms": round(rules.flush_interval * 1000, 6),
        "changeable": request.app[ALLOWED],
    }


def _changes(body: Any) -> dict[str, Any]:
    """The rules that a body changes, as ``Rules`` has them. Raises ``HubError``."""
    if not isinstance(body, dict):
        raise HubError("invalid_type", "The body must be an object.")
    changes: dict[str, Any] = {}
    for name, value in body.items():
        if name == "batch_size":
            changes[name] = int(_number(name, value, 1, MAX_BATCH, whole=True))
        elif name == "flush_interval_ms":
            changes["flush_interval"] = _number(name, value, 0, MAX_INTERVAL_MS) / 1000
        else:
            raise HubError(
                "unsupported_parameter", f"There is no setting '{name[:64]}'.", param=name[:64]
            )
    return changes


def _number(name: str, value: Any, least: int, most: int, *, whole: bool = False) -> float:
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise HubError("invalid_type", f"'{name}' must be {kind}.", param=name)
    if not least <= value <= most:
        raise HubError(
            "invalid_value", f"'{name}' must be {kind} from {least} to {most}.", param=name
        )
    return value
