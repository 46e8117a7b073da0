"""Records as lines of JSON and back, every field checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from typing import Any

from pavane.bench.workflows.records import (
    Diverged,
    Judged,
    Record,
    RecordedCall,
    Recording,
    Run,
    Setup,
    TimedCall,
    Trouble,
)

KINDS: Mapping[str, type[Record]] = {
    "setup": Setup,
    "recording": Recording,
    "run": Run,
    "trouble": Trouble,
    "judged": Judged,
    "diverged": Diverged,
}


class BadRecord(ValueError):  # noqa: N818
    """A line that is no record; the text names the field."""


def as_line(record: Record) -> str:
    """One line of JSON, without its end."""
    kind = next(name for name, kind in KINDS.items() if isinstance(record, kind))
    return json.dumps({"kind": kind, **asdict(record)}, separators=(",", ":"))


def from_line(line: str) -> Record:
    """The record of a line. Raises BadRecord."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(value, dict) or value.get("kind") not in KINDS:
        found = value.get("kind") if isinstance(value, dict) else value
        raise BadRecord(f"the field 'kind' must be one of {', '.join(KINDS)}, not {found!r}")
    record: Record = _read(KINDS[value.pop("kind")], value)
    return record


_JSON: Mapping[str, type | tuple[type, ...]] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "tuple": list,
    "Mapping": dict,
}
_NESTED: Mapping[str, type[RecordedCall | TimedCall]] = {
    "tuple[RecordedCall, ...]": RecordedCall,
    "tuple[TimedCall, ...]": TimedCall,
}


def _read(kind: type[Any], value: dict[str, Any]) -> Any:
    known = {item.name: item for item in fields(kind)}
    if unknown := value.keys() - known:
        raise BadRecord(f"{kind.__name__}: unknown field {min(unknown)!r}")
    made = {}
    for name, item in known.items():
        if name in value:
            made[name] = _value(kind.__name__, name, str(item.type), value[name])
        elif item.default is MISSING and item.default_factory is MISSING:
            raise BadRecord(f"{kind.__name__}: the field {name!r} is missing")
    return kind(**made)


def _value(kind: str, name: str, declared: str, value: object) -> object:
    wanted = _JSON[declared.partition("[")[0]]
    if not isinstance(value, wanted) or (isinstance(value, bool) and declared != "bool"):
        raise BadRecord(f"{kind}: the field {name!r} must be {declared}, not {value!r:.60}")
    if not isinstance(value, list):
        return value
    nested = _NESTED.get(declared)
    if nested is None:
        return tuple(value)
    if wrong := [each for each in value if not isinstance(each, dict)]:
        raise BadRecord(f"{kind}: the field {name!r} holds {wrong[0]!r:.60}, which is no object")
    return tuple(_read(nested, each) for each in value)
