"""What can go wrong with a request, as one exception type and one list of reasons.

RequestError            expected: the request cannot be done; says why and what to change
NeverFitsError (cache)  becomes the failure of a call
anything else           a defect of the server
"""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Stable names, sent to clients; docs/errors.md explains each, server/status.py maps them to gRPC codes."""

    INVALID_REQUEST = "INVALID_REQUEST"
    INVALID_ID = "INVALID_ID"
    INVALID_PARENT = "INVALID_PARENT"
    INVALID_GROUP = "INVALID_GROUP"
    INVALID_PLACEMENT = "INVALID_PLACEMENT"
    INVALID_SAMPLING = "INVALID_SAMPLING"
    INVALID_CONSTRAINT = "INVALID_CONSTRAINT"
    INVALID_TOKENS = "INVALID_TOKENS"
    EMPTY_CONTENT = "EMPTY_CONTENT"
    CYCLE = "CYCLE"
    TOO_LARGE = "TOO_LARGE"
    UNKNOWN_WORKFLOW = "UNKNOWN_WORKFLOW"
    UNKNOWN_MESSAGE = "UNKNOWN_MESSAGE"
    ID_REUSED = "ID_REUSED"
    PARENT_FAILED = "PARENT_FAILED"
    PARENT_CANCELLED = "PARENT_CANCELLED"
    CONTEXT_TOO_LONG = "CONTEXT_TOO_LONG"
    NEVER_FITS = "NEVER_FITS"
    NOTHING_ALLOWED = "NOTHING_ALLOWED"
    BUDGET_EXHAUSTED = "BUDGET_EXHAUSTED"
    UNSUPPORTED = "UNSUPPORTED"
    WORKFLOW_CLOSED = "WORKFLOW_CLOSED"
    QUEUE_FULL = "QUEUE_FULL"
    NOT_A_DECODE = "NOT_A_DECODE"
    NOT_STARTED = "NOT_STARTED"
    TENANT_LIMIT = "TENANT_LIMIT"
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    DEADLINE_HOPELESS = "DEADLINE_HOPELESS"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    DRAINING = "DRAINING"
    RUNNER_FAILED = "RUNNER_FAILED"
    INTERNAL = "INTERNAL"


class RequestError(Exception):
    """An expected error: `text` tells the user what to change, `ids` which messages it is about, `retry_after` (in
    seconds) when to come again, if that helps."""

    def __init__(self, reason: Reason, text: str, ids: tuple[str, ...] = (), retry_after: float | None = None) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.ids = ids
        self.retry_after = retry_after
