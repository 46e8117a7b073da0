"""Single fields of requests, checked: ids, times, attempts, retention, labels."""

from __future__ import annotations

import re

from google.protobuf.duration_pb2 import Duration

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import Retention

MAX_ATTEMPTS = 16
MAX_READERS = 100_000
LONGEST_S = 315_576_000_000.0  # 10,000 years: the bound of google.protobuf.Duration
MAX_LABELS, MAX_LABEL_CHARS = 16, 256
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
NAMESPACE = re.compile(r"[A-Za-z0-9._-]{0,64}")


def check_id(value: str, what: str) -> str:
    if not _ID.fullmatch(value):
        raise RequestError(
            Reason.INVALID_ID, f"{what} {value[:80]!r} is not valid: 1 to 64 of the characters A-Z a-z 0-9 . _ -"
        )
    return value


def check_namespace(value: str) -> str:
    if not NAMESPACE.fullmatch(value):
        raise RequestError(
            Reason.INVALID_ID,
            f"namespace {value[:80]!r} is not valid: at most 64 of the characters A-Z a-z 0-9 . _ -",
        )
    return value


def known(enum: type[pb.Fidelity] | type[pb.Layout], value: int, call_id: str, what: str) -> None:
    if value not in enum.values():
        raise _invalid(call_id, f"{what} {value} is unknown")


def seconds(value: Duration | None, what: str, call_id: str = "") -> float | None:
    """A duration that must be more than 0, if it is given, and one that protobuf can say."""
    if value is None:
        return None
    given = float(value.seconds + value.nanos / 1e9)
    if given <= 0:
        raise _invalid(call_id, f"{what} is {given:g} s; make it longer than 0, or leave it out")
    if given > LONGEST_S:
        raise _invalid(call_id, f"{what} is {given:g} s; use {LONGEST_S:g} s at most, or leave it out")
    return given


def attempts(call: pb.Call) -> int:
    if call.max_attempts > MAX_ATTEMPTS:
        raise _invalid(call.id, f"max_attempts is {call.max_attempts}; use 1 to {MAX_ATTEMPTS}, or leave it out")
    return call.max_attempts or 1


def retention(call: pb.Call) -> Retention:
    given = call.retention
    if given.readers > MAX_READERS:
        raise _invalid(call.id, f"retention.readers is {given.readers}; use at most {MAX_READERS}")
    ttl = seconds(given.ttl if given.HasField("ttl") else None, "retention.ttl", call.id)
    return Retention(pin=given.pin, ttl=ttl, readers=given.readers)


def labels(call: pb.Call) -> tuple[tuple[str, str], ...]:
    if len(call.labels) > MAX_LABELS:
        raise _invalid(call.id, f"{len(call.labels)} labels; at most {MAX_LABELS} are allowed")
    for name, value in call.labels.items():
        if not 1 <= len(name) <= MAX_LABEL_CHARS:
            raise _invalid(
                call.id, f"label {name[:80]!r} has a name of {len(name)} characters; use 1 to {MAX_LABEL_CHARS}"
            )
        if len(value) > MAX_LABEL_CHARS:
            raise _invalid(
                call.id, f"label {name[:80]!r} has a value of {len(value)} characters; use at most {MAX_LABEL_CHARS}"
            )
    return tuple(sorted(call.labels.items()))


def _invalid(call_id: str, text: str) -> RequestError:
    if not call_id:
        return RequestError(Reason.INVALID_REQUEST, text)
    return RequestError(Reason.INVALID_REQUEST, f"call {call_id!r}: {text}", (call_id,))
