"""Frozen values that the client hands out, made from the wire's messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pavane.clients.errors import CallCancelled, CallFailed, seconds
from pavane.protos.v1 import pavane_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor


TopLogprobs = tuple[tuple[int, float], ...]  # the likeliest tokens in one place with their log-probabilities, in order


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer as it comes: new text, new tokens and, if asked for, their log-probabilities, and the
    likeliest tokens in the place of each. What came with another `attempt` is void.

    The forced beginning of an answer (`prefix`) is no part of its deltas.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[TopLogprobs, ...] = ()
    attempt: int = 1


@dataclass(frozen=True, slots=True)
class ParentUse:
    """How one parent was used. Positions are in tokens, 0 is the first after BOS."""

    id: str
    placed_at: int
    encoded_at: int
    fidelity: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a call, or a whole workflow, cost: tokens by where they came from, and durations in seconds.

    `attention_mass`, if asked for: the share of attention that the generated tokens gave to each parent, to "(own)"
    tokens and to "(bos)" if there is one; they sum to 1.
    """

    reused_in_place: int
    repositioned: int
    encoded: int
    generated: int
    trailer: int
    reencoded: int
    blocked: float
    queued: float
    first_token: float
    total: float
    parents: tuple[ParentUse, ...]
    preemptions: int
    placement_ignored: bool
    attention_mass: Mapping[str, float] = field(default_factory=dict)

    @property
    def visible(self) -> int:
        """Tokens in sight of the first generated one."""
        return self.reused_in_place + self.repositioned + self.encoded


@dataclass(frozen=True, slots=True)
class Result:
    """A message as far as it has come.

    `state` is "blocked", "queued", "running", "done", "failed" or "cancelled"; `finish` is "end_of_turn", "stop",
    "length", "constraint", "forced", "sealed" or "". `text` is the content without header and trailer, with the forced
    beginning if there was one; `tokens` are all tokens and `content` those that were sampled or forced, which
    `logprobs` and `top_logprobs` belong to. All of it is of the last of `attempts`.
    """

    id: str
    state: str
    text: str
    tokens: tuple[int, ...]
    content: tuple[int, ...]
    logprobs: tuple[float, ...]
    start: int
    finish: str
    seed: int
    receipt: Receipt
    error: str
    top_logprobs: tuple[TopLogprobs, ...] = ()
    attempts: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server serves. `bos_token_id` is set only if every context begins with one; `kv_cache_dtype` and
    `quantization` are the server's flags: fp8, or auto."""

    model: str
    version: str
    max_model_len: int
    vocab_size: int
    token_slots: int
    bos_token_id: int | None
    trailer_ids: tuple[int, ...]
    end_token_ids: tuple[int, ...]
    chat_format: str
    chat_format_report: str
    kv_cache_dtype: str = ""  # of servers that do not say
    quantization: str = ""


def enum_name(enum: EnumDescriptor, prefix: str, number: int) -> str:
    """STATE_DONE is "done"; unspecified is ""."""
    # A newer server may know values that these stubs do not.
    known = enum.values_by_number.get(number)
    name = known.name.removeprefix(prefix).lower() if known else str(number)
    return "" if name == "unspecified" else name


def receipt(message: pb.Receipt) -> Receipt:
    """The typed form of a receipt."""
    return Receipt(
        reused_in_place=message.reused_in_place,
        repositioned=message.repositioned,
        encoded=message.encoded,
        generated=message.generated,
        trailer=message.trailer,
        reencoded=message.reencoded,
        blocked=seconds(message.blocked),
        queued=seconds(message.queued),
        first_token=seconds(message.first_token),
        total=seconds(message.total),
        parents=tuple(
            ParentUse(
                p.id, p.placed_at, p.encoded_at, enum_name(pb.Fidelity.DESCRIPTOR, "FIDELITY_", p.fidelity), p.tokens
            )
            for p in message.parents
        ),
        preemptions=message.preemptions,
        placement_ignored=message.placement_ignored,
        attention_mass=dict(message.attention_mass),
    )


def top_logprobs(places: Iterable[pb.TopLogprobs]) -> tuple[TopLogprobs, ...]:
    """One entry for each place."""
    return tuple(tuple(zip(place.tokens, place.logprobs, strict=True)) for place in places)


def result(message: pb.Message) -> Result:
    """The typed form of a message."""
    tokens = tuple(message.tokens)
    return Result(
        id=message.id,
        state=enum_name(pb.State.DESCRIPTOR, "STATE_", message.state),
        text=message.text,
        tokens=tokens,
        content=tokens[message.content_begin : message.content_end],
        logprobs=tuple(message.logprobs),
        start=message.start,
        finish=enum_name(pb.FinishReason.DESCRIPTOR, "FINISH_REASON_", message.finish),
        seed=message.seed,
        receipt=receipt(message.receipt),
        error=message.error.text,
        top_logprobs=top_logprobs(message.top_logprobs),
        attempts=message.attempts,
        labels=dict(message.labels),
    )


def call_error(message: pb.Message) -> CallFailed:
    """The exception for a message that failed or was cancelled."""
    kind = CallCancelled if message.state == pb.STATE_CANCELLED else CallFailed
    state = enum_name(pb.State.DESCRIPTOR, "STATE_", message.state)
    text = message.error.text or f"message {message.id!r} {'was cancelled' if state == 'cancelled' else 'failed'}"
    return kind(message.error.reason or state.upper(), text, message.error.ids or (message.id,), result(message))


def server_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """The typed form of GetServerInfo's answer."""
    return ServerInfo(
        model=message.model,
        version=message.version,
        max_model_len=message.max_model_len,
        vocab_size=message.vocab_size,
        token_slots=message.token_slots,
        bos_token_id=message.bos_token_id if message.HasField("bos_token_id") else None,
        trailer_ids=tuple(message.trailer_ids),
        end_token_ids=tuple(message.end_token_ids),
        chat_format=message.chat_format,
        chat_format_report=message.chat_format_report,
        kv_cache_dtype=message.kv_cache_dtype,
        quantization=message.quantization,
    )
