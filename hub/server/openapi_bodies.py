"""The requests' bodies in ``/openapi.json``: all fields that hub reads, with the parsers' bounds.

Other fields are ignored, but where the description says that they are passed on. ``null`` counts as
absent. Rules that lie between fields are in words only.
"""

from hub.api.chat import PASSED_ON
from hub.api.chat import ROLES as CHAT_ROLES
from hub.api.completions import MAX_MEMBERS, MAX_N, MAX_SEED
from hub.api.items import ROLES
from hub.api.requests import SAMPLING, Json
from hub.api.responses import EFFORTS, TOOL_MODES
from hub.server.lab import MAX_BATCH, MAX_INTERVAL_MS

MAX_INTEGER = 2**64 - 1
"""The largest that is read as an integer; what is beyond is a number."""


def maybe(kind: str, **more: object) -> Json:
    """A value of a type that may as well be absent."""
    return {"type": [kind, "null"], **more}


def choice(*words: str) -> Json:
    """One of these words, if it is there."""
    return {"enum": [*words, None]}


def integer(low: int, high: int = MAX_INTEGER, **more: object) -> Json:
    """An integer between bounds, if it is there."""
    return maybe("integer", minimum=low, maximum=high, **more)


def array(items: Json, **more: object) -> Json:
    """An array, if it is there."""
    return maybe("array", items=items, **more)


def record(required: tuple[str, ...] = (), **properties: Json) -> Json:
    """An object with these fields, among others."""
    described: Json = {"type": "object", "properties": properties}
    return {**described, "required": list(required)} if required else described


def one_of(*schemas: Json) -> Json:
    """Any of these."""
    return {"anyOf": list(schemas)}


def ref(name: str) -> Json:
    """A schema of ``components``."""
    return {"$ref": f"#/components/schemas/{name}"}


def const(word: str) -> Json:
    """This word only."""
    return {"const": word}


_STRING: Json = {"type": "string"}
_TEXT: Json = maybe("string")
_FLAG: Json = maybe("boolean")
_NULL: Json = {"type": "null"}
_OBJECT: Json = {"type": "object"}
_SAMPLING: Json = {name: maybe("number", minimum=low, maximum=high) for name, low, high in SAMPLING}
_STOP: Json = one_of(_TEXT, array(_STRING))
_SERVICE_TIER: Json = {"description": "`flex`: of the background class. Others mean nothing."}
_PASSED_ON: Json = {
    name: {"description": "Passed on to the model server as it is."} for name in PASSED_ON
}
_EARLY_STOP: Json = {
    "single_line": maybe("boolean", description="End at the first line end."),
    "n_indent": integer(0, description="End before a line indented by fewer characters."),
    "t_max_predict_ms": integer(-1, description="After so long, end at the next line end."),
}
_SEED: Json = integer(-MAX_SEED - 1, MAX_SEED)
_STREAMED: Json = {
    "stream": _FLAG,
    "stream_options": one_of(_NULL, record(include_usage=_FLAG)),
    "service_tier": _SERVICE_TIER,
}

# Items of the Responses API.

_PART: Json = one_of(
    record(("type", "text"), type={"enum": ["input_text", "output_text", "text"]}, text=_STRING),
    record(("type", "refusal"), type=const("refusal"), refusal=_STRING),
    record(("type", "image_url"), type=const("input_image"), image_url=_STRING, detail=_TEXT),
)
_CONTENT: Json = one_of(_STRING, {"type": "array", "items": ref("ContentPart")})
_ITEM: Json = one_of(
    record(("role", "content"), type=choice("message"), role={"enum": list(ROLES)},
           content=_CONTENT),
    record(("type", "call_id", "name", "arguments"), type=const("function_call"),
           call_id=_STRING, name=_STRING, arguments=_STRING),
    record(("type", "call_id", "output"), type=const("function_call_output"),
           call_id={**_STRING, "minLength": 1, "description": "Of a call before it in the chain."},
           output=_CONTENT),
    record(("type",), type=const("reasoning")),
    record(("type", "encrypted_content"), type=const("compaction"),
           encrypted_content={**_STRING, "description": "As a compaction has answered it."}),
)  # fmt: skip
_INPUT: Json = one_of(_TEXT, {"type": "array", "items": ref("InputItem")})

_FUNCTION: Json = record(
    ("type", "name"),
    type=const("function"),
    name={**_STRING, "minLength": 1},
    description=_TEXT,
    parameters=maybe("object"),
    strict=_FLAG,
)
_CHOSEN: Json = record(
    ("type", "name"),
    type=const("function"),
    name={**_STRING, "description": "Of one of `tools`."},
)
_FORMAT: Json = one_of(
    _NULL,
    record(("type",), type={"enum": ["text", "json_object"]}),
    record(("type", "name", "schema"), type=const("json_schema"),
           name={**_STRING, "minLength": 1}, schema=_OBJECT, strict=_FLAG, description=_TEXT),
)  # fmt: skip
_METADATA: Json = maybe(
    "object",
    maxProperties=16,
    propertyNames={"maxLength": 64},
    additionalProperties={**_STRING, "maxLength": 512},
)

CREATE: Json = record(
    model=_TEXT,
    input=_INPUT,
    instructions=_TEXT,
    previous_response_id=_TEXT,
    stream=_FLAG,
    background=maybe("boolean", description="Needs `store`."),
    store=_FLAG,
    generate=maybe("boolean", description="False for a warm-up: complete at once, say nothing."),
    tools=array(ref("FunctionTool")),
    tool_choice=one_of(
        {"enum": [*TOOL_MODES, None]},
        _CHOSEN,
        record(("type",), type=const("allowed_tools"), mode=choice(*TOOL_MODES),
               tools=array(_CHOSEN)),
    ),
    parallel_tool_calls=_FLAG,
    max_tool_calls=integer(1),
    text=one_of(
        _NULL, record(format=_FORMAT, verbosity=choice("low", "medium", "high"))
    ),
    reasoning=one_of(
        _NULL, record(effort=choice(*EFFORTS), summary=choice("auto", "concise", "detailed"))
    ),
    max_output_tokens=integer(1),
    top_logprobs=integer(0, 20),
    include=array({"description": "`message.output_text.logprobs` is the one that counts."}),
    **_SAMPLING,
    truncation=choice("auto", "disabled"),
    metadata=_METADATA,
    user=_TEXT,
    safety_identifier=_TEXT,
    prompt_cache_key=_TEXT,
    prompt_cache_retention=_TEXT,
    service_tier=_SERVICE_TIER,
)  # fmt: skip

COMPACT: Json = record(
    ("model",),
    model={**_STRING, "minLength": 1},
    input=_INPUT,
    previous_response_id=_TEXT,
    instructions=_TEXT,
    prompt_cache_key=_TEXT,
)

_CHAT_MESSAGE: Json = record(
    ("role",), role={"enum": list(CHAT_ROLES)}, content=one_of(_TEXT, array(_OBJECT))
)

CHAT: Json = record(
    ("messages",),
    model=_TEXT,
    messages={"type": "array", "minItems": 1, "items": ref("ChatMessage")},
    n=integer(1, 1),
    tools=array(_OBJECT),
    tool_choice=one_of(_TEXT, _OBJECT),
    response_format=maybe("object"),
    max_completion_tokens=integer(1),
    max_tokens=integer(1),
    stop=_STOP,
    logprobs=_FLAG,
    top_logprobs=integer(0, 20),
    **_SAMPLING,
    **_STREAMED,
    **_PASSED_ON,
)

COMPLETION: Json = record(
    ("prompt",),
    model=_TEXT,
    prompt=one_of(
        _STRING, {"type": "array", "items": _STRING, "minItems": 1, "maxItems": MAX_MEMBERS}
    ),
    suffix=maybe("string", description="What is behind the gap to be filled in. One prompt only."),
    n=integer(1, MAX_N, description=f"At most {MAX_MEMBERS} completions in all."),
    max_tokens=integer(0),
    stop=_STOP,
    echo={"enum": [False, None]},
    logprobs=_NULL,
    best_of=integer(1, 1),
    **_SAMPLING,
    **_STREAMED,
    **{**_PASSED_ON, "seed": _SEED},
    **_EARLY_STOP,
)

FIM: Json = record(
    ("prompt",),
    model=_TEXT,
    prompt=_STRING,
    suffix=_TEXT,
    max_tokens=integer(0),
    stop=_STOP,
    random_seed=_SEED,
    **_SAMPLING,
    **_STREAMED,
    **{**_PASSED_ON, "min_tokens": integer(0)},
    **_EARLY_STOP,
)

INFILL: Json = {
    **record(
        ("input_prefix", "input_suffix"),
        model=_TEXT,
        input_prefix=_STRING,
        input_suffix=_STRING,
        prompt=maybe("string", description="The line of the cursor, up to it."),
        input_extra=array(record(("text",), text=_STRING, filename=_TEXT)),
        n_predict=integer(-2),
        max_tokens=integer(-2),
        n_cmpl=integer(1, MAX_N),
        n=integer(1, MAX_N),
        seed=_SEED,
        stop=_STOP,
        stream=_FLAG,
        response_fields=array(_STRING, description="Paths such as `timings/prompt_ms`."),
        samplers={"description": "An empty array asks for no answer: it is a warm-up."},
        **_SAMPLING,
        **_EARLY_STOP,
    ),
    "description": "Other fields are passed on to the model server, but for `id_slot`.",
}

SETTINGS: Json = {
    "type": "object",
    "properties": {
        "batch_size": {"type": "integer", "minimum": 1, "maximum": MAX_BATCH},
        "flush_interval_ms": {"type": "number", "minimum": 0, "maximum": MAX_INTERVAL_MS},
    },
    "additionalProperties": False,
}

SCHEMAS: Json = {
    "CreateResponse": CREATE,
    "CompactResponse": COMPACT,
    "CreateChatCompletion": CHAT,
    "CreateCompletion": COMPLETION,
    "CreateFimCompletion": FIM,
    "CreateInfill": INFILL,
    "ChangeSettings": SETTINGS,
    "InputItem": _ITEM,
    "ContentPart": _PART,
    "FunctionTool": _FUNCTION,
    "ChatMessage": _CHAT_MESSAGE,
}
