"""Chat formats that a file describes (`--chat-format FILE`).

The file is a JSON object:

    name       what the server calls the format; default: the file's name
    bos        true if BOS stands before everything; default: as the model's template has it
    strip      true if white space around texts is removed; default: false
    control    the control tokens in the strings below; all else in these is ordinary text
    end        the control tokens that end an answer; at least one
    roles      by name; "assistant" must be one of them. Each is an object:
        begin      what stands before a text
        end        what stands after it
        lead       what stands between begin and a text, but not in an empty generation header; default: nothing
        named      instead of begin where the speaker has a name, with {name} for it; default: names are refused

For example, ChatML:

    {"control": ["<|im_start|>", "<|im_end|>"], "end": ["<|im_end|>"],
     "roles": {"user": {"begin": "<|im_start|>user\\n", "end": "<|im_end|>\\n"},
               "assistant": {"begin": "<|im_start|>assistant\\n", "end": "<|im_end|>\\n"}}}
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pavane.models.errors import ModelError
from pavane.server.text.chat_layout import Form, Layout

_FIELDS = {"name": str, "bos": bool, "strip": bool, "control": list, "end": list, "roles": dict}
_JSON_NAMES: dict[type, str] = {str: "string", bool: "boolean", list: "list", dict: "JSON object"}
_FORM_FIELDS = {"begin": str, "end": str, "lead": str, "named": str}


def layout_from_file(path: Path) -> Layout:
    """Read and check a file.

    Raises:
        ModelError: it cannot be read, or a field is missing, unknown or inconsistent; the text names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # an escape may be half a surrogate pair
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"--chat-format {path} cannot be read: {error}") from error
    fields = _checked(path, "", value, _FIELDS, required=("control", "end", "roles"))
    control = _strings(path, "control", fields["control"])
    ends = _strings(path, "end", fields["end"])
    forms = {role: _form(path, role, form) for role, form in fields["roles"].items()}
    if "assistant" not in forms:
        raise ModelError(f"{path}: roles has no 'assistant'; add it")
    if not ends or not set(ends) <= set(control):
        raise ModelError(f"{path}: end = {list(ends)} must name at least one token, all of them in control")
    written = "".join(form.begin + form.lead + form.named + form.end for form in forms.values())
    for token in control:
        if token not in written:
            raise ModelError(f"{path}: control has {token!r}, which no role writes; remove it")
    if not forms["assistant"].begin:
        raise ModelError(f"{path}: roles.assistant.begin is empty; an answer needs a header to begin with")
    return Layout(
        name=fields.get("name", path.stem),
        forms=forms,
        control=control,
        ends=ends,
        strips=fields.get("strip", False),
        bos=fields.get("bos"),
    )


def _form(path: Path, role: str, value: Any) -> Form:
    fields = _checked(path, f"roles.{role}", value, _FORM_FIELDS, required=("begin", "end"))
    form = Form(**fields)
    if "named" in fields and form.named.count("{name}") != 1:
        raise ModelError(f"{path}: roles.{role}.named = {form.named!r} must contain {{name}} once")
    return form


def _checked(
    path: Path, where: str, value: Any, types: Mapping[str, type], required: tuple[str, ...]
) -> dict[str, Any]:
    prefix = f"{where}." if where else ""
    if not isinstance(value, dict):
        raise ModelError(f"{path}: {where or 'the file'} must be a JSON object")
    for key, item in value.items():
        if key not in types:
            raise ModelError(f"{path}: there is no field {prefix}{key}; use {', '.join(types)}")
        if not isinstance(item, types[key]):
            raise ModelError(f"{path}: {prefix}{key} = {item!r} must be a {_JSON_NAMES[types[key]]}")
    for key in required:
        if key not in value:
            raise ModelError(f"{path}: {prefix}{key} is missing")
    return value


def _strings(path: Path, key: str, value: list[Any]) -> tuple[str, ...]:
    if not all(isinstance(item, str) and item for item in value):
        raise ModelError(f"{path}: {key} = {value!r} must be a list of strings that are not empty")
    return tuple(value)
