"""Items of the Responses API: checking what a client sent, and turning them into chat messages.

Sources: Open Responses 2026-04-24 (``ItemParam``) for the shapes; for the way to chat messages,
what the templates of local models accept: one system message at the front, one assistant message
per turn that holds its text and its tool calls, tool results right behind it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from hub.api.requests import Fields, Json, json_type
from hub.api.summary import content_summary
from hub.errors import HubError

ROLES = ("user", "assistant", "system", "developer")
_TEXTS = ("input_text", "output_text", "text")


def parse_input(value: Any) -> list[Json]:
    """The ``input`` of a create as checked items. A string is one user message."""
    if value is None:
        return []
    if isinstance(value, str):
        return [_message("user", [{"type": "input_text", "text": value}])]
    if not isinstance(value, list):
        raise HubError(
            "invalid_type",
            f"'input' must be a string or an array, but it is {json_type(value)}.",
            param="input",
        )
    return [_plain(item) or _item(item, f"input[{index}]") for index, item in enumerate(value)]


def _plain(item: Any) -> Json | None:
    """A good message of text, as ``_item`` would return it; ``None`` for everything else.

    Nearly all items are such, and are checked in a third of the time that ``_item`` takes: it
    prepares to say what is wrong, and where.
    """
    if not isinstance(item, dict) or item.get("role") not in ROLES:
        return None
    kind, content = item.get("type"), item.get("content")
    if kind is not None and kind != "message":
        return None
    if isinstance(content, str):
        return _said_plainly(item, content)
    if not isinstance(content, list):
        return None
    for part in content:
        if (
            not isinstance(part, dict)
            or part.get("type") not in _TEXTS
            or not isinstance(part.get("text"), str)
        ):
            return None
    return item if kind is not None else {**item, "type": "message"}


def _said_plainly(item: Json, text: str) -> Json:
    """A message whose content is a string, with a part instead."""
    kind = "output_text" if item["role"] == "assistant" else "input_text"
    return {**item, "type": "message", "content": [{"type": kind, "text": text}]}


def _message(role: str, content: list[Json]) -> Json:
    return {"type": "message", "role": role, "content": content}


def _item(item: Any, where: str) -> Json:
    if not isinstance(item, dict):
        raise HubError(
            "invalid_type",
            f"'{where}' must be an object, but it is {json_type(item)}.",
            param=where,
        )
    fields = Fields(item, f"{where}.")
    # The SDKs' "easy" message has no type.
    kind = fields.text("type") or ("message" if "role" in item else None)
    match kind:
        case "message":
            return _parse_message(item, fields)
        case "function_call":
            for name in ("call_id", "name", "arguments"):
                if fields.text(name) is None:
                    raise fields.missing(name)
            return item
        case "function_call_output":
            if not fields.text("call_id"):
                raise fields.missing("call_id")
            output = fields.raw("output")
            if isinstance(output, list):
                _parts(output, f"{where}.output")
            elif not isinstance(output, str):
                raise fields.wrong_type("output", "a string or an array")
            return item
        case "reasoning":
            return item
        case "compaction":
            content = fields.text("encrypted_content")
            if content is None:
                raise fields.missing("encrypted_content")
            try:
                content_summary(content)
            except ValueError as error:
                raise fields.wrong_value("encrypted_content", f"is {error}") from None
            return item
        case "item_reference":
            raise HubError(
                "invalid_value",
                f"'{where}' refers to an item that hub does not have; send the item itself.",
                param=where,
            )
        case None:
            raise fields.missing("type")
        case _:
            raise HubError(
                "unsupported_value",
                f"Items of type '{kind[:64]}' are not supported.",
                param=fields.param("type"),
            )


def _parse_message(item: Json, fields: Fields) -> Json:
    role = fields.choice("role", ROLES)
    if role is None:
        raise fields.missing("role")
    content = fields.raw("content")
    if isinstance(content, str):
        return _said_plainly(item, content)
    if not isinstance(content, list):
        raise fields.wrong_type("content", "a string or an array")
    _parts(content, fields.param("content"))
    return {**item, "type": "message"}


def _parts(parts: list[Any], where: str) -> None:
    for index, part in enumerate(parts):
        at = f"{where}[{index}]"
        if not isinstance(part, dict):
            raise HubError(
                "invalid_type", f"'{at}' must be an object, but it is {json_type(part)}.", param=at
            )
        fields = Fields(part, f"{at}.")
        match fields.text("type"):
            case "input_text" | "output_text" | "text":
                if fields.text("text") is None:
                    raise fields.missing("text")
            case "refusal":
                if fields.text("refusal") is None:
                    raise fields.missing("refusal")
            case "input_image":
                if fields.text("image_url") is None:
                    raise fields.missing("image_url")
                fields.text("detail")
            case None:
                raise fields.missing("type")
            case kind:
                raise HubError(
                    "unsupported_value",
                    f"Content of type '{kind[:64]}' is not supported.",
                    param=fields.param("type"),
                )


def check_call_ids(context: Sequence[Json], items: Sequence[Json]) -> None:
    """Refuse a tool's output for a call that is nowhere before it in the chain."""
    known: set[str] = {i["call_id"] for i in context if i.get("type") == "function_call"}
    for index, item in enumerate(items):
        if item["type"] == "function_call":
            known.add(item["call_id"])
        elif item["type"] == "function_call_output" and item["call_id"] not in known:
            raise HubError(
                "invalid_value",
                f"No tool call found for the output with call_id '{item['call_id'][:64]}'.",
                param=f"input[{index}].call_id",
            )


def to_messages(items: Iterable[Json], instructions: str | None = None) -> list[Json]:
    """Chat messages for a chain of checked items, ``instructions`` first."""
    system: list[str] = [instructions] if instructions else []
    messages: list[Json] = []
    for item in items:
        match item["type"]:
            case "message":
                role = item["role"]
                if role in ("system", "developer") and not messages:
                    # Many templates take one system message, at the front only.
                    system.append(_text(item["content"]))
                elif role in ("system", "developer"):
                    messages.append({"role": "system", "content": _text(item["content"])})
                elif role == "assistant":
                    _assistant(messages)["content"].append(_text(item["content"]))
                else:
                    messages.append({"role": "user", "content": _content(item["content"])})
            case "function_call":
                call = {"name": item["name"], "arguments": item["arguments"]}
                _assistant(messages).setdefault("tool_calls", []).append(
                    {"id": item["call_id"], "type": "function", "function": call}
                )
            case "function_call_output":
                output = item["output"]
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": item["call_id"],
                        "content": output if isinstance(output, str) else _content(output),
                    }
                )
            case "compaction":
                summary = content_summary(item["encrypted_content"])
                system.append(f"Summary of the conversation before this:\n{summary}")
            # Raw reasoning of earlier turns is not shown to a model again: the templates of
            # reasoning models strip it themselves.
    for message in messages:
        if message["role"] == "assistant":
            # Joined once: a turn may have thousands of texts.
            texts = message["content"]
            message["content"] = "\n\n".join(texts) if texts else None
    if system:
        messages.insert(0, {"role": "system", "content": "\n\n".join(system)})
    return messages


def _assistant(messages: list[Json]) -> Json:
    """The assistant's message of the current turn, begun if need be; its content is still a list
    of texts."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": []})
    return messages[-1]


def _text(parts: Sequence[Json]) -> str:
    return _said(parts[0]) if len(parts) == 1 else "".join([_said(part) for part in parts])


def _said(part: Json) -> str:
    """The text of a part; an image has none. Only the field that its type names was checked."""
    if part["type"] == "input_image":
        return ""
    said: str = part["refusal" if part["type"] == "refusal" else "text"]
    return said


def _content(parts: Sequence[Json]) -> str | list[Json]:
    """A plain string where there is only text: every model server takes that."""
    if "input_image" not in [part["type"] for part in parts]:
        return _text(parts)
    content: list[Json] = []
    for part in parts:
        if part["type"] == "input_image":
            image = {"url": part["image_url"]}
            if part.get("detail"):
                image["detail"] = part["detail"]
            content.append({"type": "image_url", "image_url": image})
        else:
            content.append({"type": "text", "text": _said(part)})
    return content
