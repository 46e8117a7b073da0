"""How much one request may hold, counted before anything is made of it: what a message of 64 MB can list would keep
threads busy for minutes."""

from __future__ import annotations

from collections.abc import Sequence

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.graph import Limits


def check_submission(request: pb.SubmitRequest, limits: Limits) -> None:
    """RequestError if there is more of something than any workflow may have."""
    count = len(request.calls) + len(request.groups)
    if count > limits.max_unfinished:
        raise RequestError(
            Reason.TOO_LARGE,
            f"{count} calls and groups in one submission; the server holds at most {limits.max_unfinished} unfinished "
            "calls: send fewer at a time",
        )
    for call in request.calls:
        if len(call.parents) > limits.max_parents:
            raise _too_many(call.id, len(call.parents), "parents", limits)
    for group in request.groups:
        if len(group.members) > limits.max_parents:
            raise _too_many(group.id, len(group.members), "members", limits)


def check_ids(ids: Sequence[str], limits: Limits) -> None:
    """RequestError if there are more than a workflow has messages."""
    if len(ids) > limits.max_messages:
        raise RequestError(
            Reason.TOO_LARGE, f"{len(ids)} ids in one request; a workflow has at most {limits.max_messages} messages"
        )


def _too_many(id: str, count: int, what: str, limits: Limits) -> RequestError:
    name = id[:64]
    return RequestError(Reason.TOO_LARGE, f"{name!r} has {count} {what}, the limit is {limits.max_parents}", (name,))
