"""RPC to domain and back. Whatever can be wrong with a single call is found here, before anything is accepted."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Sequence

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.preview import Plan
from pavane.scheduler.spec import (
    CallSpec,
    DecodeSpec,
    Failure,
    Finish,
    GroupSpec,
    Outcome,
    ParentSpec,
    Receipt,
    State,
    Top,
)
from pavane.server.fields import attempts, check_id, known, labels, retention, seconds
from pavane.server.sampling import SamplingReader
from pavane.server.status import duration
from pavane.server.text.chat_format import ChatFormat, Turn
from pavane.server.text.constraint import Constraints
from pavane.server.text.tokenizer import PIECE, Tokenizer

STATES = {
    State.BLOCKED: pb.STATE_BLOCKED,
    State.QUEUED: pb.STATE_QUEUED,
    State.RUNNING: pb.STATE_RUNNING,
    State.DONE: pb.STATE_DONE,
    State.FAILED: pb.STATE_FAILED,
    State.CANCELLED: pb.STATE_CANCELLED,
}
FINISHES = {
    Finish.END_OF_TURN: pb.FINISH_REASON_END_OF_TURN,
    Finish.STOP: pb.FINISH_REASON_STOP,
    Finish.LENGTH: pb.FINISH_REASON_LENGTH,
    Finish.CONSTRAINT: pb.FINISH_REASON_CONSTRAINT,
    Finish.FORCED: pb.FINISH_REASON_FORCED,
    Finish.SEALED: pb.FINISH_REASON_SEALED,
}
LONG_TEXT_BYTES = 16_384  # of a request


class Converter:
    """Makes CallSpecs of the messages of the wire; see `slow` for what belongs in a thread."""

    def __init__(self, tokenizer: Tokenizer, chat: ChatFormat, bos_id: int | None, constraints: Constraints) -> None:
        self._tokenizer = tokenizer
        self._chat = chat
        self._bos_id = bos_id
        self._sampling = SamplingReader(tokenizer, chat, constraints)

    @staticmethod
    def slow(request: pb.SubmitRequest) -> bool:
        """Whether there is much to tokenise, or a constraint that may have to be compiled."""
        return request.ByteSize() > LONG_TEXT_BYTES or any(
            call.decode.sampling.WhichOneof("constraint") for call in request.calls
        )

    def calls(self, request: pb.SubmitRequest) -> list[CallSpec]:
        return [self.call(call) for call in request.calls]

    def call(self, call: pb.Call) -> CallSpec:
        check_id(call.id, "call id")
        exact = call.fidelity == pb.FIDELITY_EXACT
        known(pb.Fidelity, call.fidelity, call.id, "fidelity")
        known(pb.Layout, call.layout, call.id, "layout")
        tokens: Sequence[int] = ()
        copy_of: str | None = None
        decode: DecodeSpec | None = None
        kind = call.WhichOneof("kind")
        if kind == "prefill":
            if call.prefill.WhichOneof("content") == "copy":
                copy_of = check_id(call.prefill.copy.of, f"call {call.id!r}: the copied message's id")
            else:
                tokens = self._ids(self.content(call.prefill, call.id), call.id)
        elif kind == "decode":
            tokens, decode = self._decode(call)
        else:
            raise RequestError(
                Reason.INVALID_REQUEST, f"call {call.id!r} is neither a prefill nor a decode; set one", (call.id,)
            )
        return CallSpec(
            id=call.id,
            digest=_digest(call),
            tokens=tokens,
            copy_of=copy_of,
            decode=decode,
            parents=tuple(self._parent(call, ref, exact) for ref in call.parents),
            exact=exact,
            start=call.start if call.HasField("start") else None,
            timeout=seconds(call.timeout if call.HasField("timeout") else None, "timeout", call.id),
            max_attempts=attempts(call),
            retention=retention(call),
            labels=labels(call),
        )

    def content(self, prefill: pb.Prefill, call_id: str) -> Sequence[int]:
        """The tokens of what is given. Raises RequestError."""
        kind = prefill.WhichOneof("content")
        if kind == "turns":
            if not prefill.turns.turns:
                raise RequestError(Reason.EMPTY_CONTENT, f"call {call_id!r} has no turns; give it one", (call_id,))
            return _worded(call_id, lambda: self._chat.turns([_turn(t) for t in prefill.turns.turns]))
        if kind == "text":
            return self._without_bos(self._tokenizer.encode_array(prefill.text, special=True))
        if kind == "tokens":
            return self._without_bos(prefill.tokens.ids)
        raise RequestError(
            Reason.EMPTY_CONTENT, f"call {call_id!r} has no content; set turns, text, tokens or copy", (call_id,)
        )

    def _ids(self, ids: Sequence[int], call_id: str) -> array[int]:
        """As the scheduler keeps them: it only copies them, however many there are."""
        try:
            return array("i", ids)
        except OverflowError:
            size = self._tokenizer.vocab_size
            wrong = next(i for i in ids if i >= size)
            raise RequestError(
                Reason.INVALID_TOKENS, f"call {call_id!r}: token id {wrong} is not in 0..{size - 1}", (call_id,)
            ) from None

    def _without_bos(self, ids: Sequence[int]) -> Sequence[int]:
        """Raw input that begins with BOS gets no second one: the server's stands before everything."""
        return ids[1:] if self._bos_id is not None and ids and ids[0] == self._bos_id else ids

    def _parent(self, call: pb.Call, ref: pb.ParentRef, exact: bool) -> ParentSpec:
        check_id(ref.id, f"call {call.id!r}: parent id")
        known(pb.Fidelity, ref.fidelity, call.id, "fidelity of a parent")
        placement = ref.WhichOneof("placement")
        as_encoded = ref.as_encoded if placement == "as_encoded" else False
        if placement is None:
            as_encoded = call.layout == pb.LAYOUT_AS_ENCODED
        return ParentSpec(
            id=ref.id,
            offset=ref.offset if placement == "offset" else None,
            as_encoded=as_encoded,
            exact=ref.fidelity == pb.FIDELITY_EXACT if ref.fidelity else exact,
            last_use=ref.last_use,
        )

    def _decode(self, call: pb.Call) -> tuple[Sequence[int], DecodeSpec]:
        header = call.decode.header
        if header.WhichOneof("start") == "tokens":
            tokens: Sequence[int] = self._without_bos(header.tokens.ids)
        elif header.WhichOneof("start") == "turn":
            turn = header.turn
            tokens = _worded(call.id, lambda: self._chat.header(turn.role, turn.name, turn.text))
        else:
            raise RequestError(
                Reason.EMPTY_CONTENT, f"call {call.id!r} has an empty header; give it a turn or tokens", (call.id,)
            )
        return self._ids(tokens, call.id), self._sampling.read(call)


def group_spec(group: pb.Group) -> GroupSpec:
    check_id(group.id, "group id")
    for member in group.members:
        check_id(member, f"group {group.id!r}: member id")
    return GroupSpec(group.id, _digest(group), tuple(group.members), group.need, group.cancel_rest)


def outcome_message(
    outcome: Outcome,
    tokenizer: Tokenizer,
    *,
    brief: bool = False,
    into: pb.Message | None = None,
    pause: Callable[[], None] = lambda: None,
) -> pb.Message:
    """`brief` leaves tokens and log-probabilities out. `into` is filled and returned, if given: to put a long message
    into another one is to copy it. `pause` is called after every few hundred microseconds of work."""
    begin, end = outcome.content
    if outcome.decode:
        text = outcome.beginning + tokenizer.decode(outcome.tokens[begin:end], pause=pause)
    else:
        text = tokenizer.decode(outcome.tokens, special=True, pause=pause)
    message = pb.Message() if into is None else into
    message.text = text
    message.MergeFrom(_brief_message(outcome))
    if not brief:
        for at in range(0, len(outcome.tokens), PIECE):
            message.tokens.extend(list(outcome.tokens[at : at + PIECE]))  # of an array it would take twice as long
            pause()
        message.logprobs.extend(outcome.logprobs)
        message.top_logprobs.extend(top_messages(outcome.top))
    return message


def _brief_message(outcome: Outcome) -> pb.Message:
    """All that does not grow with the message."""
    begin, end = outcome.content
    message = pb.Message(
        id=outcome.id,
        state=STATES[outcome.state],
        start=outcome.start,
        finish=FINISHES[outcome.finish] if outcome.finish is not None else pb.FINISH_REASON_UNSPECIFIED,
        seed=outcome.seed,
        receipt=receipt_message(outcome.receipt),
        content_begin=begin,
        content_end=end,
        attempts=outcome.attempts,
        labels=dict(outcome.labels),
    )
    if outcome.failure is not None:
        message.error.CopyFrom(failure_message(outcome.failure))
    return message


def failure_message(failure: Failure) -> pb.Error:
    return pb.Error(reason=failure.reason, text=failure.text, ids=failure.ids)


def plan_message(plan: Plan, tokenizer: Tokenizer, slot_bytes: int) -> pb.PlanResponse:
    """`slot_bytes`: K and V of one token in all layers."""
    planned = [outcome_message(outcome, tokenizer, brief=True) for outcome in plan.calls]
    for message in planned:
        message.ClearField("text")
    return pb.PlanResponse(
        planned=planned,
        total=receipt_message(plan.total),
        peak_slots=plan.peak_slots,
        kv_bytes_read=plan.slots_read * slot_bytes,
        critical_path=plan.critical_path,
        assumed_winners=[pb.AssumedWinners(group_id=name, winners=winners) for name, winners in plan.winners.items()],
    )


def top_messages(places: Iterable[Top]) -> list[pb.TopLogprobs]:
    return [pb.TopLogprobs(tokens=top.tokens, logprobs=top.logprobs) for top in places]


def receipt_message(receipt: Receipt) -> pb.Receipt:
    return pb.Receipt(
        reused_in_place=receipt.in_place,
        repositioned=receipt.repositioned,
        encoded=receipt.encoded,
        generated=receipt.generated,
        trailer=receipt.trailer,
        reencoded=receipt.reencoded,
        blocked=duration(receipt.blocked_s),
        queued=duration(receipt.queued_s),
        first_token=duration(receipt.first_token_s),
        total=duration(receipt.total_s),
        preemptions=receipt.preemptions,
        placement_ignored=receipt.placement_ignored,
        attention_mass=dict(receipt.attention_mass),
        parents=[
            pb.ParentUse(
                id=use.id,
                placed_at=use.placed_at,
                encoded_at=use.encoded_at,
                fidelity=pb.FIDELITY_EXACT if use.exact else pb.FIDELITY_REUSE,
                tokens=use.tokens,
            )
            for use in receipt.parents
        ],
    )


def _digest(message: pb.Call | pb.Group) -> bytes:
    return hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest()


def _turn(turn: pb.Turn) -> Turn:
    return Turn(turn.role, turn.name, turn.text)


def _worded(call_id: str, encode: Callable[[], list[int]]) -> list[int]:
    """What the chat format refuses is the request's fault."""
    try:
        return encode()
    except ValueError as error:
        raise RequestError(Reason.INVALID_REQUEST, f"call {call_id!r}: {error}", (call_id,)) from None
