"""The request that is being answered: what log lines and traces know it by."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, NamedTuple

REQUEST_ID_METADATA = "x-request-id"
TRACEPARENT_METADATA, TRACESTATE_METADATA = "traceparent", "tracestate"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
# W3C Trace Context, section 3.2: version, trace id, parent id, flags; later versions may add to the end.
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE_LENGTH = 512
_SAMPLED = 1

Metadata = Iterable[tuple[str, str | bytes]]


class TraceParent(NamedTuple):
    """The caller's span. Ids are lower-case hexadecimal, as they are sent."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""  # of other vendors, handed on


@dataclass(slots=True)
class Request:
    """`id` is the caller's, or drawn here; `method` is /package.Service/Name. `namespace`, `workflow` and `call` are
    known from when the request is let in and read."""

    id: str
    method: str
    parent: TraceParent | None = None
    began: float = field(default_factory=monotonic)
    read: bool = False
    namespace: str = ""
    workflow: str = ""
    call: str = ""

    @classmethod
    def of(cls, method: str, metadata: Metadata) -> Request:
        sent = {name: value for name, value in metadata if name in _READ and isinstance(value, str)}
        id = sent.get(REQUEST_ID_METADATA, "")
        parent = trace_parent(sent.get(TRACEPARENT_METADATA, ""), sent.get(TRACESTATE_METADATA, ""))
        return cls(id if _REQUEST_ID.fullmatch(id) else os.urandom(8).hex(), method, parent)

    def has(self, namespace: str, message: Any) -> None:
        """It is let in, and this is what it says."""
        self.read = True
        self.namespace = namespace
        submit = getattr(message, "submit", message)  # Run and Plan have a submission within
        self.workflow = getattr(submit, "workflow_id", "")
        self.call = getattr(message, "id", "")

    @property
    def fields(self) -> dict[str, object]:
        """For the log; only what is known."""
        found: dict[str, object] = {"request_id": self.id, "method": self.method}
        if self.parent is not None:
            found |= {"trace_id": self.parent.trace_id, "span_id": self.parent.span_id}
        for name, value in (("tenant", self.namespace), ("workflow", self.workflow), ("call", self.call)):
            if value:
                found[name] = value
        return found


_READ = frozenset((REQUEST_ID_METADATA, TRACEPARENT_METADATA, TRACESTATE_METADATA))
_CURRENT: ContextVar[Request | None] = ContextVar("request", default=None)


def current() -> Request | None:
    """The request that this task answers; None outside of one."""
    return _CURRENT.get()


def answer(request: Request) -> None:
    """What follows in this task is done for `request`."""
    _CURRENT.set(request)


def trace_parent(header: str, state: str = "") -> TraceParent | None:
    """None if it is not one: a broken header begins a new trace, as the specification says."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None or (match[1] == "00" and match[5]):
        return None
    return TraceParent(match[2], match[3], bool(int(match[4], 16) & _SAMPLED), state[:_TRACESTATE_LENGTH])
