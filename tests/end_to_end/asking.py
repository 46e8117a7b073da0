"""Requests that are to be refused, and how each is told: name, request, code, reason, words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from end_to_end.served import PATIENCE, Wire, decode, prefill

from pavane.protos.v1 import pavane_pb2 as pb

INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
TAKEN, NEVER = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION
VOCABULARY = 49_152
Request = Callable[[Wire], Any]
Case = tuple[str, Request, grpc.StatusCode, str, tuple[str, ...]]
X = prefill("x", "?")
PARENT = pb.ParentRef


def submit(*calls: pb.Call) -> Request:
    return lambda wire: wire.submit(*calls)


def grouped(*calls: pb.Call, **fields: Any) -> Request:
    groups = [pb.Group(**{"id": "g", "members": ["good"], "need": 1, **fields})]
    return lambda wire: wire.submit(*calls, groups=groups)


def sampled(words: str, **options: Any) -> Case:
    name = " ".join(f"{key}={str(value)[:20]}" for key, value in options.items())
    return (name, submit(decode("x", **options)), INVALID, "INVALID_SAMPLING", ("'x'", words))


def constrained(words: str, **constraint: str) -> Case:
    ((kind, text),) = constraint.items()
    case = (submit(decode("x", **constraint)), INVALID, "INVALID_CONSTRAINT", ("'x'", f"its {kind}", words))
    return (f"{kind} {text[:20]}", *case)


def forced(words: str, ids: list[int], **options: Any) -> Case:
    call = decode("x", forced=pb.Forced(ids=ids), **options)
    return (f"forced {ids} {options}", submit(call), INVALID, "INVALID_SAMPLING", ("'x'", words))


def method(name: str, **fields: Any) -> Request:
    """An RPC about the test's workflow."""

    def send(wire: Wire) -> Any:
        request = getattr(pb, f"{name}Request")(**{"workflow_id": wire.id, **fields})
        call = getattr(wire.rpc, name)(request, timeout=PATIENCE)
        return call.read() if name in ("Watch", "Run") else call

    return send


def model(name: str, **fields: Any) -> Request:
    return lambda wire: getattr(wire.models, name)(getattr(pb, f"{name}Request")(**fields), timeout=PATIENCE)


def within(namespace: str) -> Request:
    def send(wire: Wire) -> Any:
        request = pb.OpenWorkflowRequest(workflow_id=wire.id)
        return wire.rpc.OpenWorkflow(request, metadata=(("pavane-namespace", namespace),), timeout=PATIENCE)

    return send


def header(**fields: Any) -> pb.Call:
    return pb.Call(id="x", decode=pb.Decode(header=pb.Header(**fields)))


def given(**fields: Any) -> pb.Call:
    return pb.Call(id="x", prefill=pb.Prefill(**fields))


def copy(id: str, of: str) -> pb.Call:
    return pb.Call(id=id, prefill=pb.Prefill(copy=pb.Copy(of=of)))
