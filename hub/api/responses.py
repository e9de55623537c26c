"""The Responses dialect: a create request's JSON into a ``Request``, and the response object.

Sources: Open Responses 2026-04-24 for the shapes and what is required; OpenAI's reference for the
limits (metadata, top_logprobs). Fields that hub does not know are ignored: the SDKs add some every
month. Fields that it knows and cannot honour are refused, by name.
"""

from typing import Any

from hub.api.items import parse_input
from hub.api.requests import (
    Fields,
    Generation,
    Json,
    Request,
    Usage,
    check_depth,
    json_type,
    sampling,
)
from hub.errors import HubError

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
TOOL_MODES = ("auto", "none", "required")

_UNSUPPORTED = ("conversation", "prompt", "context_management")


def parse_create(body: Any) -> Request:
    """Check the body of a create and say what was asked. Raises ``HubError``."""
    if not isinstance(body, dict):
        raise HubError("invalid_type", f"The body must be an object, not {json_type(body)}.")
    check_depth(body)
    fields = Fields(body)
    for name in _UNSUPPORTED:
        if fields.raw(name) is not None:
            raise HubError("unsupported_parameter", f"'{name}' is not supported.", param=name)
    background, store = fields.flag("background", False), fields.flag("store", True)
    if background and not store:
        raise fields.wrong_value("background", "needs 'store' to be true")

    tools = _tools(fields)
    tool_choice, chat_choice, offered = _tool_choice(fields, tools)
    text, response_format = _text_format(fields)
    reasoning = _reasoning(fields)
    parallel = fields.flag("parallel_tool_calls", True)
    top_logprobs = fields.integer("top_logprobs", 0, 20)
    wants_logprobs = "message.output_text.logprobs" in (fields.array("include") or [])
    max_tokens = fields.integer("max_output_tokens", 1)

    extra = sampling(fields)
    if reasoning["effort"] is not None:
        extra["reasoning_effort"] = reasoning["effort"]
    if "verbosity" in text:
        extra["verbosity"] = text["verbosity"]
    if offered and fields.raw("parallel_tool_calls") is not None:
        extra["parallel_tool_calls"] = parallel

    instructions, parent = fields.text("instructions"), fields.text("previous_response_id")
    model = fields.text("model") or ""
    return Request(
        model=model,
        generation=Generation(
            model=model,
            messages=(),
            tools=[_chat_tool(tool) for tool in offered],
            tool_choice=chat_choice if offered else None,
            response_format=response_format,
            max_tokens=max_tokens,
            top_logprobs=(top_logprobs or 0) if wants_logprobs or top_logprobs else None,
            extra=extra,
        ),
        items=parse_input(fields.raw("input")),
        instructions=instructions,
        previous_response_id=parent,
        body=body,
        asked_by="max_output_tokens",
        stream=fields.flag("stream", False),
        background=background,
        store=store,
        flex=fields.raw("service_tier") == "flex",
        generate=fields.flag("generate", True),
        echo={
            "background": background,
            "instructions": instructions,
            "max_output_tokens": max_tokens,
            "max_tool_calls": fields.integer("max_tool_calls", 1),
            "parallel_tool_calls": parallel,
            "previous_response_id": parent,
            "prompt_cache_key": fields.text("prompt_cache_key"),
            "prompt_cache_retention": fields.text("prompt_cache_retention"),
            "reasoning": reasoning,
            "safety_identifier": fields.text("safety_identifier"),
            "service_tier": "flex" if fields.raw("service_tier") == "flex" else "default",
            "store": store,
            "temperature": extra.get("temperature", 1.0),
            "presence_penalty": extra.get("presence_penalty", 0.0),
            "frequency_penalty": extra.get("frequency_penalty", 0.0),
            "text": text,
            "tool_choice": tool_choice,
            "tools": tools,
            "top_logprobs": top_logprobs or 0,
            "top_p": extra.get("top_p", 1.0),
            "truncation": fields.choice("truncation", ("auto", "disabled")) or "disabled",
            "metadata": _metadata(fields),
            "user": fields.text("user"),
        },
    )


def response_object(
    request: Request,
    *,
    id: str,
    model: str,
    status: str,
    created_at: int,
    completed_at: int | None = None,
    output: list[Json],
    usage: Usage | None = None,
    error: HubError | None = None,
    incomplete: str | None = None,
    told: Json | None = None,
) -> Json:
    """The response object with every key that Open Responses requires. ``told`` is hub's own."""
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "completed_at": completed_at if status == "completed" else None,
        "status": status,
        "error": {"code": error.code, "message": error.message} if error else None,
        "incomplete_details": {"reason": incomplete} if incomplete else None,
        "model": model,
        "output": output,
        "usage": usage.responses() if usage else None,
        **request.echo,
        **({} if told is None else {"hub": told}),
    }


def _tools(fields: Fields) -> list[Json]:
    tools: list[Json] = []
    for index, tool in enumerate(fields.objects("tools")):
        inner = Fields(tool, f"tools[{index}].")
        kind = inner.text("type")
        if kind is None:
            raise inner.missing("type")
        if kind != "function":
            raise HubError(
                "unsupported_value",
                f"Tools of type '{kind[:64]}' are not supported; hub passes function tools on.",
                param=inner.param("type"),
            )
        name = inner.text("name")
        if not name:
            raise inner.missing("name")
        tools.append(
            {
                "type": "function",
                "name": name,
                "description": inner.text("description"),
                "parameters": inner.object("parameters"),
                "strict": None if inner.raw("strict") is None else inner.flag("strict", True),
            }
        )
    return tools


def _chat_tool(tool: Json) -> Json:
    function = {"name": tool["name"]}
    for name in ("description", "parameters", "strict"):
        if tool[name] is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _tool_choice(fields: Fields, tools: list[Json]) -> tuple[Any, Any, list[Json]]:
    """What to echo, what to tell a chat server, and which tools to offer it."""
    choice = fields.raw("tool_choice")
    if choice is None:
        return "auto", None, tools
    if isinstance(choice, str):
        fields.choice("tool_choice", TOOL_MODES)
        return choice, choice, tools
    if not isinstance(choice, dict):
        raise fields.wrong_type("tool_choice", "a string or an object")
    inner = Fields(choice, "tool_choice.")
    names = {tool["name"] for tool in tools}
    match inner.choice("type", ("function", "allowed_tools")):
        case "function":
            name = _chosen_name(inner, names)
            echo: Json = {"type": "function", "name": name}
            return echo, {"type": "function", "function": {"name": name}}, tools
        case "allowed_tools":
            mode = inner.choice("mode", TOOL_MODES) or "auto"
            wanted = [
                _chosen_name(Fields(one, f"tool_choice.tools[{index}]."), names)
                for index, one in enumerate(inner.objects("tools"))
            ]
            allowed = set(wanted)
            echo = {
                "type": "allowed_tools",
                "mode": mode,
                "tools": [{"type": "function", "name": name} for name in wanted],
            }
            return echo, mode, [tool for tool in tools if tool["name"] in allowed]
        case _:
            raise inner.missing("type")


def _chosen_name(fields: Fields, names: set[str]) -> str:
    """The function that a choice names, which must be among the request's tools."""
    if fields.choice("type", ("function",)) is None:
        raise fields.missing("type")
    name = fields.text("name")
    if name is None:
        raise fields.missing("name")
    if name not in names:
        raise fields.wrong_value("name", "is not among 'tools'")
    return name


def _text_format(fields: Fields) -> tuple[Json, Json | None]:
    """The ``text`` to echo, and Chat Completions' ``response_format`` for it."""
    text = fields.object("text") or {}
    outer = Fields(text, "text.")
    given = outer.object("format")
    form = Fields(given or {}, "text.format.")
    echo: Json = {"format": {"type": "text"}}
    verbosity = outer.choice("verbosity", ("low", "medium", "high"))
    if verbosity:
        echo["verbosity"] = verbosity
    kind = form.choice("type", ("text", "json_object", "json_schema"))
    if given is not None and kind is None:
        raise form.missing("type")
    if kind == "json_object":
        echo["format"] = {"type": "json_object"}
        return echo, {"type": "json_object"}
    if kind == "json_schema":
        name, schema = form.text("name"), form.object("schema")
        if not name:
            raise form.missing("name")
        if schema is None:
            raise form.missing("schema")
        strict = form.flag("strict", False)
        description = form.text("description")
        inner: Json = {"name": name, "schema": schema, "strict": strict}
        if description is not None:
            inner["description"] = description
        echo["format"] = {"type": "json_schema", "description": description, **inner}
        return echo, {"type": "json_schema", "json_schema": inner}
    return echo, None


def _reasoning(fields: Fields) -> Json:
    given = Fields(fields.object("reasoning") or {}, "reasoning.")
    effort = given.choice("effort", EFFORTS)
    summary = given.choice("summary", ("auto", "concise", "detailed"))
    return {"effort": effort, "summary": summary}


def _metadata(fields: Fields) -> Json:
    metadata = fields.object("metadata") or {}
    if len(metadata) > 16:
        raise fields.wrong_value("metadata", "may have 16 pairs at most")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise HubError(
                "invalid_type",
                f"'metadata.{key[:64]}' must be a string, but it is {json_type(value)}.",
                param=f"metadata.{key[:64]}",
            )
        if len(key) > 64 or len(value) > 512:
            raise fields.wrong_value("metadata", "keys hold 64 characters, values 512, at most")
    return metadata
