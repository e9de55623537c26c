"""Compaction: a long conversation in, a short one out that can be gone on from.

What comes back is the user's own messages and one item that holds a summary, which a model makes
of everything else.

Source: Open Responses 2026-04-24, ``POST /responses/compact``.
"""

from collections.abc import Sequence
from typing import Any

from hub.api.ids import new_id
from hub.api.requests import Json, Request, Usage
from hub.api.responses import parse_create
from hub.api.summary import summary_content
from hub.errors import HubError

ASK = (
    "Summarise the conversation so far for yourself, so that you can go on from the summary alone: "
    "what the user wants, what was decided, facts and names that matter, results of tools, "
    "what is still open. Write the summary only."
)


def parse_compact(body: Any) -> Request:
    """The body of a compaction as the request that makes its summary. Raises ``HubError``."""
    if isinstance(body, dict) and not body.get("model"):
        raise HubError("missing_required_parameter", "'model' is required.", param="model")
    fields = ("model", "input", "previous_response_id", "instructions", "prompt_cache_key")
    given = (
        {name: body[name] for name in fields if name in body} if isinstance(body, dict) else body
    )
    request = parse_create({**given, "store": False} if isinstance(given, dict) else given)
    ask = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": ASK}]}
    return Request(
        model=request.model,
        generation=request.generation,
        items=[*request.items, ask],
        instructions=request.instructions,
        previous_response_id=request.previous_response_id,
        echo=request.echo,
        store=False,
    )


def compacted(items: Sequence[Json], summary: str, usage: Usage | None, now: float) -> Json:
    """The answer: the user's messages among ``items``, and the summary of all of them."""
    kept = [
        {
            "id": item["id"] if isinstance(item.get("id"), str) else new_id("msg"),
            "type": "message",
            "status": "completed",
            "role": "user",
            "content": [_part(part) for part in item["content"]],
        }
        for item in items
        if item["type"] == "message" and item["role"] == "user"
    ]
    item = {
        "type": "compaction",
        "id": new_id("cmp"),
        "encrypted_content": summary_content(summary),
    }
    return {
        "id": new_id("resp"),
        "object": "response.compaction",
        "created_at": int(now),
        "output": [*kept, item],
        "usage": (usage or Usage()).responses(),
    }


def _part(part: Json) -> Json:
    """A user's part with all that the protocol requires of one in an answer."""
    if part["type"] == "input_image":
        detail = part.get("detail") or "auto"
        return {"type": "input_image", "image_url": part["image_url"], "detail": detail}
    return {"type": "input_text", "text": part["refusal" if part["type"] == "refusal" else "text"]}
