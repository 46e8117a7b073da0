"""Expected errors as gRPC statuses: the one table from reasons to codes."""

from __future__ import annotations

import math

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.errors import Reason, RequestError

ERROR_METADATA = "pavane-error-bin"
DETAILS_METADATA = "grpc-status-details-bin"

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_ID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_PARENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_GROUP: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_PLACEMENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_SAMPLING: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_CONSTRAINT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INVALID_TOKENS: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.EMPTY_CONTENT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CYCLE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNKNOWN_WORKFLOW: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_MESSAGE: grpc.StatusCode.NOT_FOUND,
    Reason.ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.PARENT_FAILED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.PARENT_CANCELLED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.CONTEXT_TOO_LONG: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NEVER_FITS: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOTHING_ALLOWED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.BUDGET_EXHAUSTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_A_DECODE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.NOT_STARTED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
    Reason.WORKFLOW_CLOSED: grpc.StatusCode.CANCELLED,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TENANT_LIMIT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_STREAMS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.DEADLINE_HOPELESS: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.CANCELLED: grpc.StatusCode.CANCELLED,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.RUNNER_FAILED: grpc.StatusCode.INTERNAL,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}


def duration(seconds: float) -> Duration:
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=min(999_999_999, round((seconds - whole) * 1e9)))


def error_message(error: RequestError) -> pb.Error:
    message = pb.Error(reason=error.reason, text=error.text, ids=error.ids)
    if error.retry_after is not None:
        message.retry_after.CopyFrom(duration(error.retry_after))
    return message


def trailers(error: RequestError) -> tuple[tuple[str, bytes], ...]:
    """The error as pavane.v1.Error, and as google.rpc.Status with RetryInfo if coming again helps."""
    message = error_message(error)
    metadata = [(ERROR_METADATA, message.SerializeToString())]
    if error.retry_after is not None:
        retry = Any()
        retry.Pack(RetryInfo(retry_delay=duration(error.retry_after)))
        status = Status(code=CODES[error.reason].value[0], message=error.text, details=[retry])
        metadata.append((DETAILS_METADATA, status.SerializeToString()))
    return tuple(metadata)
