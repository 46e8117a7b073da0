"""Score, from the wire and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.scoring import Score
from pavane.scheduler.spec import Outcome, State
from pavane.server.convert import receipt_message
from pavane.server.fields import check_id, known


def score_call(request: pb.ScoreRequest, limit: int, outcome: Callable[[str], Outcome]) -> pb.Call:
    """The call whose forced tokens, encoded in one pass, are what is to be scored. `limit`: positions of the model;
    `outcome` gives a message of the workflow. Raises RequestError."""
    count = max(len(request.ids), len(request.call.decode.forced.ids))
    if count > limit:  # before anything is copied
        name = request.call.id[:64]
        raise RequestError(
            Reason.CONTEXT_TOO_LONG, f"call {name!r} has {count} tokens to score; the model's limit is {limit}", (name,)
        )
    call = pb.Call()
    call.CopyFrom(request.call)
    check_id(call.id, "call id")
    known(pb.Fidelity, request.against, call.id, "against")
    if call.WhichOneof("kind") == "prefill":
        raise _invalid(call, "is a prefill; only decodes are scored, so give its tokens as ids behind a header")
    if request.ids and call.decode.forced.ids and list(request.ids) != list(call.decode.forced.ids):
        raise _invalid(call, "has other forced tokens than ids; leave one of the two out")
    if request.ids:
        call.decode.forced.ids[:] = request.ids
    elif not call.decode.forced.ids:
        call.decode.forced.ids[:] = _content(call, outcome)
    call.decode.forced.one_pass = True
    call.decode.ClearField("sampling")
    return call


def score_message(score: Score) -> pb.ScoreResponse:
    """Raises the RequestError that the score failed with."""
    if score.failure is not None:
        raise RequestError(Reason(score.failure.reason), score.failure.text, score.failure.ids)
    return pb.ScoreResponse(
        logprobs=score.logprobs,
        against_logprobs=score.against_logprobs,
        kl=score.kl,
        top1_agreement=score.top1_agreement,
        kl_by_parent=dict(score.kl_by_parent),
        tokens=score.tokens,
        top_tokens=score.top_tokens,
        against_top_tokens=score.against_top_tokens,
        receipt=receipt_message(score.receipt),
    )


def _content(call: pb.Call, outcome: Callable[[str], Outcome]) -> Sequence[int]:
    """Of the message that has the call's id."""
    try:
        message = outcome(call.id)
    except RequestError as error:
        raise RequestError(
            error.reason, f"call {call.id!r} has no ids to score, and {error.text}; send ids", (call.id,)
        ) from None
    if not message.decode:
        raise RequestError(
            Reason.NOT_A_DECODE,
            f"call {call.id!r} has no ids to score, and its message is a prefill; send ids",
            (call.id,),
        )
    if message.state is not State.DONE:
        raise _invalid(call, f"has no ids to score, and its message is {message.state.value}; wait for it, or send ids")
    begin, end = message.content
    if begin == end:
        raise _invalid(call, "has no ids to score, and its message has no content")
    return message.tokens[begin:end]


def _invalid(call: pb.Call, text: str) -> RequestError:
    return RequestError(Reason.INVALID_REQUEST, f"call {call.id!r} {text}", (call.id,))
