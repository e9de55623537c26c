"""The answers' bodies in ``/openapi.json``."""

from hub.api.completions import REASONS
from hub.api.requests import Json
from hub.errors import TABLE
from hub.server.openapi_bodies import array, choice, maybe, one_of, record, ref

_STRING: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number", "minimum": 0}
_FLAG: Json = {"type": "boolean"}
_OBJECT: Json = {"type": "object"}
_NULL: Json = {"type": "null"}


def _closed(*required: str, **properties: Json) -> Json:
    """An object with exactly these fields; those named first are always there, or all if none."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required or properties),
        "additionalProperties": False,
    }


ERROR: Json = _closed(
    error=_closed(
        message=_STRING,
        type={"enum": sorted({row.type for row in TABLE.values()})},
        param=maybe("string", description="The field or header at fault."),
        code={"enum": sorted(TABLE)},
    )
)

INFILL_ERROR: Json = _closed(
    error=_closed(
        code={"type": "integer", "description": "The HTTP status."}, message=_STRING, type=_STRING
    )
)

_RESPONSES_USAGE: Json = _closed(
    input_tokens=_COUNT,
    input_tokens_details=_closed(cached_tokens=_COUNT, cache_write_tokens=_COUNT),
    output_tokens=_COUNT,
    output_tokens_details=_closed(reasoning_tokens=_COUNT),
    total_tokens=_COUNT,
)

_USAGE: Json = _closed(
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    total_tokens=_COUNT,
    prompt_tokens_details=_closed(cached_tokens=_COUNT),
    completion_tokens_details=_closed(reasoning_tokens=_COUNT),
)

_LEDGER: Json = record(
    ("class", "attempts", "ledger_ms"),
    **{"class": _STRING},
    upstream=maybe("string"),
    batch_size=maybe("integer"),
    reason=maybe("string"),
    attempts=_COUNT,
    ledger_ms={"type": "object", "additionalProperties": {"type": "number"}},
)

_OUTPUT: Json = one_of(
    record(
        ("type", "id", "status", "role", "content"),
        type={"const": "message"},
        id=_STRING,
        status=_STRING,
        role={"const": "assistant"},
        content={"type": "array", "items": record(("type",), type=_STRING)},
    ),
    record(
        ("type", "id", "status", "call_id", "name", "arguments"),
        type={"const": "function_call"},
        id=_STRING,
        status=_STRING,
        call_id=_STRING,
        name=_STRING,
        arguments=_STRING,
    ),
    record(("type", "id"), type={"const": "reasoning"}, id=_STRING),
)

_RESPONSE: Json = record(
    (
        *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details"),
        *("model", "output", "usage", "background", "instructions", "max_output_tokens"),
        *("max_tool_calls", "parallel_tool_calls", "previous_response_id", "prompt_cache_key"),
        *("reasoning", "safety_identifier", "service_tier", "store", "temperature", "text"),
        *("presence_penalty", "frequency_penalty", "tool_choice", "tools", "top_logprobs"),
        *("top_p", "truncation", "metadata", "user"),
    ),
    id=_STRING,
    object={"const": "response"},
    created_at=_COUNT,
    completed_at=maybe("integer"),
    status={
        "enum": ["queued", "in_progress", "completed", "failed", "cancelled", "incomplete"]
    },
    error=one_of(_NULL, _closed(code={"enum": sorted(TABLE)}, message=_STRING)),
    incomplete_details=one_of(_NULL, _closed(reason=_STRING)),
    model=_STRING,
    output={"type": "array", "items": ref("OutputItem")},
    usage=one_of(_NULL, ref("ResponseUsage")),
    background=_FLAG,
    store=_FLAG,
    tools={"type": "array", "items": _OBJECT},
    metadata=_OBJECT,
    hub=ref("Ledger"),
)  # fmt: skip

_COMPACTION: Json = _closed(
    id=_STRING,
    object={"const": "response.compaction"},
    created_at=_COUNT,
    output={"type": "array", "items": record(("type", "id"), type=_STRING, id=_STRING)},
    usage=ref("ResponseUsage"),
)

_ITEMS: Json = _closed(
    object={"const": "list"},
    data={"type": "array", "items": record(("id", "type"), id=_STRING, type=_STRING)},
    first_id=maybe("string"),
    last_id=maybe("string"),
    has_more=_FLAG,
)

_CHAT: Json = _closed(
    *("id", "object", "created", "model", "choices"),
    id=_STRING,
    object={"const": "chat.completion"},
    created=_COUNT,
    model=_STRING,
    choices=array(
        _closed(
            index={"const": 0},
            message=record(
                ("role", "content"),
                role={"const": "assistant"},
                content=maybe("string"),
                refusal=maybe("string"),
                reasoning_content=_STRING,
                tool_calls={"type": "array", "items": _OBJECT},
            ),
            logprobs=maybe("object"),
            finish_reason=choice(*REASONS, "tool_calls"),
        )
    ),
    usage=ref("Usage"),
)

_COMPLETION: Json = _closed(
    *("id", "object", "created", "model", "choices"),
    id=_STRING,
    object={"const": "text_completion"},
    created=_COUNT,
    model=_STRING,
    choices=array(
        _closed(index=_COUNT, text=_STRING, logprobs=_NULL, finish_reason={"enum": list(REASONS)})
    ),
    usage=ref("Usage"),
)

_FILLED: Json = {
    **record(
        index=_COUNT,
        content=_STRING,
        stop=_FLAG,
        stop_type={"enum": ["limit", "eos"]},
        model=_STRING,
        tokens_predicted=_COUNT,
        tokens_evaluated=_COUNT,
        tokens_cached=_COUNT,
        truncated=_FLAG,
        timings={"type": "object", "additionalProperties": _NUMBER},
    ),
    "description": (
        "Only what `response_fields` names, if it does, by its path. Empty for who was superseded."
    ),
}

_MODEL: Json = _closed(id=_STRING, object={"const": "model"}, created=_COUNT, owned_by=_STRING)

_HEALTH: Json = record(
    ("status", "version", "responses", "bounds", "dispatcher", "store", "webhooks", "loop"),
    status={"const": "ok"},
    version=_STRING,
    ready=_FLAG,
    responses=_OBJECT,
    bounds=_OBJECT,
    dispatcher=_OBJECT,
    completions=_OBJECT,
    store=_OBJECT,
    webhooks=_OBJECT,
    loop=_OBJECT,
)

SCHEMAS: Json = {
    "Error": ERROR,
    "InfillError": INFILL_ERROR,
    # Who gets no further than the door hears of it in hub's own shape.
    "InfillFailure": one_of(ref("InfillError"), ref("Error")),
    "ResponseUsage": _RESPONSES_USAGE,
    "Usage": _USAGE,
    "Ledger": _LEDGER,
    "OutputItem": _OUTPUT,
    "Response": _RESPONSE,
    "DeletedResponse": _closed(id=_STRING, object={"const": "response"}, deleted={"const": True}),
    "InputItems": _ITEMS,
    "InputTokens": _closed(object={"const": "response.input_tokens"}, input_tokens=_COUNT),
    "Compaction": _COMPACTION,
    "ChatCompletion": _CHAT,
    "Completion": _COMPLETION,
    "Filled": one_of(_FILLED, {"type": "array", "items": _FILLED}),
    "Model": _MODEL,
    "Models": _closed(object={"const": "list"}, data={"type": "array", "items": ref("Model")}),
    "Health": _HEALTH,
    "Ready": _closed(status={"const": "ok"}, ready={"const": True}),
    "Ticket": _closed(
        ticket=_STRING, expires_in={**_COUNT, "description": "Seconds."}, subprotocol=_STRING
    ),
    "Settings": _closed(
        batch_size={"type": "integer", "minimum": 1}, flush_interval_ms=_NUMBER, changeable=_FLAG
    ),
}
