"""What a benchmark of workflows writes down: one JSON object a line, in the order in which it happened.

    setup      once, first: what all runs of the file have in common
    recording  once a case: the graph and the tokens that every run of the case repeats
    run        one repetition of one arm, complete
    trouble    an arm that could not go on, in words

A case is a workflow with its sizes and its problem. Times are in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

VERSION = 1
MODES = ("exact", "reuse", "as-encoded")  # arms that are Pavane's; others are peers


class BadRecord(ValueError):  # noqa: N818
    """A line that is no record; the text names the field."""


@dataclass(frozen=True)
class RecordedCall:
    """A message of the recorded run. A prefill has all its tokens in `header`; a decode is header, content, trailer."""

    id: str
    parents: tuple[str, ...]
    header: tuple[int, ...]
    content: tuple[int, ...]
    trailer: tuple[int, ...]
    decode: bool

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.header, *self.content, *self.trailer)


@dataclass(frozen=True)
class TimedCall:
    """A call of a run: `ready` after the run's start its parents were complete; `queued`, `first_token` and `total`
    count from there. Tokens by the receipt's rule; a peer has only `visible` and `generated`."""

    id: str
    parents: tuple[str, ...]
    decode: bool
    ready: float
    queued: float
    first_token: float
    total: float
    visible: int
    generated: int
    in_place: int = 0
    repositioned: int = 0
    encoded: int = 0
    trailer: int = 0
    reencoded: int = 0

    @property
    def step(self) -> float:
        """Mean time of the steps after the one with the first token."""
        return (self.total - self.first_token) / max(1, self.generated)


@dataclass(frozen=True)
class Record:
    """A line."""


@dataclass(frozen=True)
class Setup(Record):
    model: str
    model_bytes: int
    threads: int
    serve: tuple[str, ...]
    problems: str  # where they come from, with a digest
    seed: int
    cores: int
    cpu: str
    pavane: str
    version: int = VERSION


@dataclass(frozen=True)
class Recording(Record):
    case: str
    workflow: str
    sizes: Mapping[str, Any]
    problem: str
    kv_bytes_per_token: int
    calls: tuple[RecordedCall, ...]


@dataclass(frozen=True)
class Run(Record):
    """`tokens` sums the receipts by class; `predicted` is the closed formula's, {} where there is none. `kv_distinct`
    counts the keys that steps read, `kv_summed` what the same calls read one by one (-1: not known of a peer)."""

    case: str
    arm: str
    repetition: int
    wall: float
    calls: tuple[TimedCall, ...]
    tokens: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, int] = field(default_factory=dict)
    kv_distinct: int = -1
    kv_summed: int = -1

    @property
    def counted(self) -> bool:
        """Whether the tokens are those that the formula says."""
        return not self.predicted or dict(self.tokens) == dict(self.predicted)


@dataclass(frozen=True)
class Trouble(Record):
    case: str
    arm: str
    text: str


KINDS: Mapping[str, type[Record]] = {"setup": Setup, "recording": Recording, "run": Run, "trouble": Trouble}


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
