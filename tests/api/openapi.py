"""The schemas of Open Responses 2026-04-24, to check what hub sends against."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator

_SPEC = json.loads((Path(__file__).parent.parent / "data" / "openapi.json").read_text())
_SCHEMAS = _SPEC["components"]["schemas"]

# Two places where the document contradicts itself: a schema that is echoed may only be null, and
# an effort that is described may not be used (OpenAI has since added another).
_SCHEMAS["JsonSchemaResponseFormat"]["properties"]["schema"] = {"type": ["object", "null"]}
_SCHEMAS["ReasoningEffortEnum"]["enum"] += ["minimal", "max"]

EVENTS: dict[str, str] = {
    schema["properties"]["type"]["enum"][0]: name
    for name, schema in _SCHEMAS.items()
    if name.endswith("StreamingEvent")
}
"""An event's type -> the name of its schema."""

REQUIRED_OF_RESPONSE = frozenset(_SCHEMAS["ResponseResource"]["required"])


@cache
def _validator(name: str) -> Validator:
    return Draft202012Validator(
        {"$ref": f"#/components/schemas/{name}", "components": _SPEC["components"]}
    )


def check_response(response: Any) -> None:
    """Raise if it is no response object."""
    _validator("ResponseResource").validate(response)


def check_compaction(resource: Any) -> None:
    """Raise if it is no answer to a compaction."""
    _validator("CompactResource").validate(resource)


def check_event(event: Any) -> None:
    """Raise if it is no event of the protocol."""
    _validator(EVENTS[event["type"]]).validate(event)
