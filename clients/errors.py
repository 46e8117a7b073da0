"""What can go wrong, as seen from the client.

    PavaneError                 reason, text, ids
    ├── InvalidRequest          the request itself is wrong; sending it again will not help
    ├── NotFound                no such workflow or message (never made, released, closed or expired)
    ├── AlreadyExists           the id is taken by a call with other content
    ├── FailedPrecondition      can never run like this: too long for the model, a parent that failed, a closed budget
    ├── ResourceExhausted       no room now; `retry_after` says when to come again
    ├── PermissionDenied        this caller may not do that
    ├── DeadlineExceeded        the answer to a request took longer than its timeout, or calls were submitted that the
    │                           server does not expect to end in time
    ├── Unavailable             no server there, the connection is lost, or the server is draining
    ├── InternalError           a fault of the server, or a status that this client does not know
    ├── WorkflowClosed          the workflow or client was closed before the call had ended
    └── CallFailed              the call was accepted and failed later; `result` says how far it came
        └── CallCancelled       it was cancelled

Wrong arguments that the client can see by itself are plain ValueError or TypeError and never leave the process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from pavane.protos.v1 import pavane_pb2 as pb

if TYPE_CHECKING:
    from pavane.clients.results import Result

ERROR_METADATA = "pavane-error-bin"


class PavaneError(Exception):
    """Base of all. `reason` is a stable word for programs, `text` is for people, `ids` are the messages concerned."""

    def __init__(self, reason: str, text: str, ids: Iterable[str] = ()) -> None:
        self.reason = reason
        self.text = text
        self.ids = tuple(ids)
        super().__init__(reason, text, self.ids)

    def __str__(self) -> str:
        about = f"; ids: {', '.join(self.ids)}" if self.ids else ""
        return f"{self.text} [{self.reason}{about}]"


class InvalidRequest(PavaneError):  # noqa: N818
    """INVALID_ARGUMENT or OUT_OF_RANGE."""


class NotFound(PavaneError):  # noqa: N818
    """NOT_FOUND."""


class AlreadyExists(PavaneError):  # noqa: N818
    """ALREADY_EXISTS."""


class FailedPrecondition(PavaneError):  # noqa: N818
    """FAILED_PRECONDITION."""


class ResourceExhausted(PavaneError):  # noqa: N818
    """RESOURCE_EXHAUSTED. `retry_after` is in seconds, None if the server did not say."""

    def __init__(self, reason: str, text: str, ids: Iterable[str] = (), retry_after: float | None = None) -> None:
        super().__init__(reason, text, ids)
        self.retry_after = retry_after


class PermissionDenied(PavaneError):  # noqa: N818
    """PERMISSION_DENIED or UNAUTHENTICATED."""


class DeadlineExceeded(PavaneError):  # noqa: N818
    """DEADLINE_EXCEEDED. `refused`: the server says that calls cannot keep their deadline, so that it is of no use to
    send them again as they are."""

    def __init__(self, reason: str, text: str, ids: Iterable[str] = (), refused: bool = False) -> None:
        super().__init__(reason, text, ids)
        self.refused = refused


class Unavailable(PavaneError):  # noqa: N818
    """UNAVAILABLE, or a stream that was cut. `refused`: the two did not agree on TLS, and will not the next time."""

    def __init__(self, reason: str, text: str, ids: Iterable[str] = (), refused: bool = False) -> None:
        super().__init__(reason, text, ids)
        self.refused = refused


class InternalError(PavaneError):
    """INTERNAL, UNKNOWN, DATA_LOSS, UNIMPLEMENTED and whatever else a server may say."""


class WorkflowClosed(PavaneError):  # noqa: N818
    """Raised by handles that had not ended, and by calls made afterwards."""


class CallFailed(PavaneError):  # noqa: N818
    """A call that was accepted and then failed. `result` holds the text and tokens up to there."""

    def __init__(self, reason: str, text: str, ids: Iterable[str], result: Result) -> None:
        super().__init__(reason, text, ids)
        self.result = result


class CallCancelled(CallFailed):
    """A call that was cancelled. Its partial message stays readable and is no parent."""


_BY_STATUS: dict[grpc.StatusCode, type[PavaneError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    # A server that stops cuts its streams with CANCELLED; our own cancellations arrive as asyncio.CancelledError.
    grpc.StatusCode.CANCELLED: Unavailable,
}


# In gRPC's words; what is to be changed.
_NO_TLS = {
    "CERTIFICATE_VERIFY_FAILED": "nobody who is trusted here has signed the server's certificate; name who has (ca)",
    "Hostname Verification": "the server's certificate is for another name; ask for the server by a name it has",
    "WRONG_VERSION_NUMBER": "the server does not encrypt there; connect without TLS",
}


def seconds(duration: Duration) -> float:
    """A protobuf Duration in seconds."""
    return duration.seconds + duration.nanos / 1e9


def from_rpc_error(error: grpc.aio.AioRpcError) -> PavaneError:
    """The exception for a failed RPC: its class from the status, its words from the pavane.v1.Error in the trailer."""
    kind = _BY_STATUS.get(error.code(), InternalError)
    detail = _detail(error)
    reason = (detail.reason if detail else "") or error.code().name
    text = (detail.text if detail else "") or error.details() or error.code().name
    ids = tuple(detail.ids) if detail else ()
    if kind is ResourceExhausted:
        later = seconds(detail.retry_after) if detail and detail.HasField("retry_after") else None
        return ResourceExhausted(reason, text, ids, later)
    if kind is DeadlineExceeded:
        return DeadlineExceeded(reason, text, ids, refused=detail is not None)
    if kind is Unavailable and detail is None:
        for words, advice in _NO_TLS.items():
            if words in text:
                return Unavailable(reason, f"{advice} ({text})", refused=True)
    return kind(reason, text, ids)


def _detail(error: grpc.aio.AioRpcError) -> pb.Error | None:
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA and isinstance(value, bytes):
            try:
                return pb.Error.FromString(value)
            except DecodeError:
                return None
    return None
