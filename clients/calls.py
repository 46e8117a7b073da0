"""From keyword arguments to a Call. What is wrong with the arguments is said here, before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from pavane.clients.checks import (
    MAX_ATTEMPTS,
    MAX_READERS,
    UINT64,
    check_id,
    choice,
    duration,
    integer,
    labels,
    string,
    token_ids,
)
from pavane.clients.edges import FIDELITIES, LAYOUTS, Edge, Fidelity, Layout, Parent
from pavane.clients.sampling import SamplingOptions, derived_seed, sampling
from pavane.protos.v1 import pavane_pb2 as pb

_ROLES = ("system", "user", "assistant")


class CallOptions(TypedDict, total=False):
    """What prefill and decode have in common."""

    id: str | None  # [A-Za-z0-9._-]{1,64}, unique in the workflow; default: made up
    layout: Layout | None  # where parents stand that have no placement of their own; default packed
    start: int | None  # position of the message's first token; default: right after the furthest end of all parents
    fidelity: Fidelity | None  # of the edges that have none of their own; default reuse
    timeout: float | None  # seconds from acceptance, the wait for parents included; default: none
    max_attempts: int | None  # how often it may begin again if it fails by itself, up to 16; default 1
    pin: bool  # its encoding is the last to be evicted
    ttl: float | None  # seconds after its end in which it can be named; default: as long as the workflow
    readers: int | None  # so many calls will read it that are not submitted yet
    labels: Mapping[str, str] | None  # for people: come back with the message, and in the server's log


class PrefillOptions(CallOptions, total=False):
    """Content to encode. The three roles may be combined, all else stands alone."""

    system: str | None  # chat turns, in the order system, user, assistant
    user: str | None
    assistant: str | None
    turns: Sequence[tuple[str, str]] | None  # (role, text), any number, in the given order
    text: str | None  # raw, without chat format
    tokens: Sequence[int] | None
    copy: str | Parent | None  # the tokens of another message, encoded anew for other eyes


class DecodeOptions(CallOptions, SamplingOptions, total=False):
    """How to start an answer, sample it and end it."""

    role: str  # default "assistant"
    prefix: str  # forced beginning of the answer, part of its text
    header_tokens: Sequence[int] | None  # raw start instead of role and prefix; such a message has no trailer
    forced: Sequence[int] | None  # tokens to take instead of sampled ones
    one_pass: bool  # encode the forced tokens in one pass instead of step by step
    attention_mass: bool  # the receipt says where the attention of the generated tokens went


PREFILL_OPTIONS = frozenset(PrefillOptions.__annotations__)
DECODE_OPTIONS = frozenset(DecodeOptions.__annotations__)


def prefill_call(message_id: str, parents: Sequence[Edge], options: PrefillOptions) -> pb.Call:
    """The call for a prefill. Raises ValueError or TypeError with what to change."""
    _known("prefill", options, PREFILL_OPTIONS)
    call = _call(message_id, parents, options)
    call.prefill.CopyFrom(content(options))
    return call


def content(options: PrefillOptions) -> pb.Prefill:
    """The content alone, from exactly one of: keyword turns, turns, text, tokens, copy."""
    spoken = [(role, text) for role in _ROLES if (text := options.get(role)) is not None]
    given = ["/".join(role for role, _ in spoken)] if spoken else []
    given += [key for key in ("turns", "text", "tokens", "copy") if options.get(key) is not None]
    if len(given) != 1:
        what = " and ".join(given) or "nothing"
        raise ValueError(f"a prefill takes system/user/assistant, or one of turns, text, tokens, copy; got {what}")
    prefill = pb.Prefill()
    if spoken or options.get("turns") is not None:
        turns = spoken or _turns(options["turns"])
        prefill.turns.turns.extend(pb.Turn(role=role, text=string(role, text)) for role, text in turns)
    elif (text := options.get("text")) is not None:
        prefill.text = string("text", text)
    elif (tokens := options.get("tokens")) is not None:
        prefill.tokens.ids.extend(token_ids("tokens", tokens))
    elif (copy := options.get("copy")) is not None:
        prefill.copy.of = copy if isinstance(copy, str) else copy.edge().id
    return prefill


def decode_call(message_id: str, parents: Sequence[Edge], options: DecodeOptions) -> pb.Call:
    """The call for a decode. Raises ValueError or TypeError with what to change."""
    _known("decode", options, DECODE_OPTIONS)
    call = _call(message_id, parents, options)
    decode = call.decode
    header = options.get("header_tokens")
    if header is not None:
        if options.get("role") or options.get("prefix"):
            raise ValueError("header_tokens replace role and prefix: give one or the other")
        decode.header.tokens.ids.extend(token_ids("header_tokens", header))
    else:
        decode.header.turn.role = string("role", options.get("role", "assistant"))
        decode.header.turn.text = string("prefix", options.get("prefix", ""))
    decode.sampling.CopyFrom(sampling(options))
    forced = options.get("forced")
    if forced is not None:
        decode.forced.ids.extend(token_ids("forced", forced))
        decode.forced.one_pass = bool(options.get("one_pass", False))
    elif options.get("one_pass"):
        raise ValueError("one_pass is about forced tokens: give forced=[...] as well")
    decode.attention_mass = bool(options.get("attention_mass", False))
    return call


def samples(n: int, options: DecodeOptions) -> list[DecodeOptions]:
    """The options of `n` samples of one call: see `Workflow.decode_n`."""
    if integer("n", n, 10_000) == 0:
        raise ValueError("n is 0; ask for at least one sample")
    made: list[DecodeOptions] = []
    for i in range(n):
        one: DecodeOptions = {**options}
        if (message_id := options.get("id")) is not None:
            one["id"] = f"{message_id}-{i}"
        if (seed := options.get("seed")) is not None:
            one["seed"] = derived_seed(integer("seed", seed, UINT64), str(i))
        made.append(one)
    return made


def _call(message_id: str, parents: Sequence[Edge], options: CallOptions) -> pb.Call:
    call = pb.Call(id=check_id("a message id", message_id))
    seen: set[str] = set()
    for parent in parents:
        check_id("a parent's id", parent.id)
        if parent.id in seen:
            raise ValueError(f"parent {parent.id!r} is listed twice; each parent counts once")
        seen.add(parent.id)
        call.parents.append(parent.to_proto())
    if (layout := options.get("layout")) is not None:
        call.layout = choice("layout", layout, LAYOUTS)
    if (fidelity := options.get("fidelity")) is not None:
        call.fidelity = choice("fidelity", fidelity, FIDELITIES)
    if (start := options.get("start")) is not None:
        call.start = integer("start", start, 2**31 - 1)
    if (timeout := options.get("timeout")) is not None:
        call.timeout.CopyFrom(duration("timeout", timeout))
    if (attempts := options.get("max_attempts")) is not None:
        call.max_attempts = integer("max_attempts", attempts, MAX_ATTEMPTS, least=1)
    if options.get("pin"):
        call.retention.pin = True
    if (ttl := options.get("ttl")) is not None:
        call.retention.ttl.CopyFrom(duration("ttl", ttl))
    if (readers := options.get("readers")) is not None:
        call.retention.readers = integer("readers", readers, MAX_READERS)
    if (named := options.get("labels")) is not None:
        call.labels.update(labels(named))
    return call


def _known(verb: str, options: CallOptions, names: frozenset[str]) -> None:
    for name in options:
        if name not in names:
            raise TypeError(f"{verb} has no option {name!r}; it knows {', '.join(sorted(names))}")


def _turns(turns: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    pairs = list(turns or ())
    if not pairs or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"turns must be a non-empty list of (role, text) pairs, not {turns!r}")
    return [(string("a turn's role", role), text) for role, text in pairs]
