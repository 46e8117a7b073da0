"""From keyword arguments to a Call. What is wrong with the arguments is said here, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypedDict, TypeVar

from google.protobuf.duration_pb2 import Duration

from pavane.clients.edges import FIDELITIES, LAYOUTS, Edge, Fidelity, Layout, Parent
from pavane.protos.v1 import pavane_pb2 as pb

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UINT32 = 2**32 - 1
_UINT64 = 2**64 - 1
_ROLES = ("system", "user", "assistant")
_T = TypeVar("_T")


class CallOptions(TypedDict, total=False):
    """What prefill and decode have in common."""

    id: str | None  # [A-Za-z0-9._-]{1,64}, unique in the workflow; default: made up
    layout: Layout | None  # where parents stand that have no placement of their own; default packed
    start: int | None  # position of the message's first token; default: right after the furthest end of all parents
    fidelity: Fidelity | None  # of the edges that have none of their own; default reuse
    timeout: float | None  # seconds from acceptance, the wait for parents included; default: none


class PrefillOptions(CallOptions, total=False):
    """Content to encode. The three roles may be combined, all else stands alone."""

    system: str | None  # chat turns, in the order system, user, assistant
    user: str | None
    assistant: str | None
    turns: Sequence[tuple[str, str]] | None  # (role, text), any number, in the given order
    text: str | None  # raw, without chat format
    tokens: Sequence[int] | None
    copy: str | Parent | None  # the tokens of another message, encoded anew for other eyes


class DecodeOptions(CallOptions, total=False):
    """How to start an answer, sample it and end it."""

    role: str  # default "assistant"
    prefix: str  # forced beginning of the answer, part of its text
    header_tokens: Sequence[int] | None  # raw start instead of role and prefix; such a message has no trailer
    temperature: float | None  # default 1, 0 = greedy
    top_p: float | None
    top_k: int | None  # 0 = off
    min_p: float | None
    max_tokens: int | None  # default: as many as fit
    seed: int | None  # default: drawn by the server and reported
    stop: str | Sequence[str] | None  # the text ends before the first of them
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool
    logprobs: bool
    forced: Sequence[int] | None  # tokens to take instead of sampled ones
    one_pass: bool  # encode the forced tokens in one pass instead of step by step


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
        prefill.turns.turns.extend(pb.Turn(role=role, text=_text(role, text)) for role, text in turns)
    elif (text := options.get("text")) is not None:
        prefill.text = _text("text", text)
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
        decode.header.turn.role = _text("role", options.get("role", "assistant"))
        decode.header.turn.text = _text("prefix", options.get("prefix", ""))
    decode.sampling.CopyFrom(_sampling(options))
    forced = options.get("forced")
    if forced is not None:
        decode.forced.ids.extend(token_ids("forced", forced))
        decode.forced.one_pass = bool(options.get("one_pass", False))
    elif options.get("one_pass"):
        raise ValueError("one_pass is about forced tokens: give forced=[...] as well")
    return call


def check_id(what: str, value: str) -> str:
    """`value`, if it is a legal id. Raises ValueError otherwise."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{what} must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, not {value!r}")
    return value


def duration(value: float) -> Duration:
    """Seconds as a protobuf Duration."""
    nanos = round(_number("a duration in seconds", value, 0.0) * 1e9)
    return Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)


def token_ids(what: str, ids: Sequence[int]) -> list[int]:
    """`ids`, if it is a non-empty sequence of token ids. Raises ValueError otherwise."""
    if isinstance(ids, str | bytes) or not isinstance(ids, Sequence) or not ids:
        raise ValueError(f"{what} must be a non-empty list of token ids, not {ids!r}")
    return [_integer(f"a token id in {what}", i, _UINT32) for i in ids]


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
        call.layout = _choice("layout", layout, LAYOUTS)
    if (fidelity := options.get("fidelity")) is not None:
        call.fidelity = _choice("fidelity", fidelity, FIDELITIES)
    if (start := options.get("start")) is not None:
        call.start = _integer("start", start, 2**31 - 1)
    if (timeout := options.get("timeout")) is not None:
        call.timeout.CopyFrom(duration(timeout))
    return call


def _sampling(options: DecodeOptions) -> pb.Sampling:
    sampling = pb.Sampling(ignore_eos=bool(options.get("ignore_eos", False)))
    if (temperature := options.get("temperature")) is not None:
        sampling.temperature = _number("temperature", temperature, 0.0)
    if (top_p := options.get("top_p")) is not None:
        sampling.top_p = _number("top_p", top_p, 0.0, 1.0)
    if (min_p := options.get("min_p")) is not None:
        sampling.min_p = _number("min_p", min_p, 0.0, 1.0)
    if (top_k := options.get("top_k")) is not None:
        sampling.top_k = _integer("top_k", top_k, _UINT32)
    if (max_tokens := options.get("max_tokens")) is not None:
        sampling.max_tokens = _integer("max_tokens", max_tokens, _UINT32)
    if (seed := options.get("seed")) is not None:
        sampling.seed = _integer("seed", seed, _UINT64)
    stop = options.get("stop") or ()
    sampling.stop.extend(_text("stop", s) for s in ([stop] if isinstance(stop, str) else stop))
    if stop_ids := options.get("stop_token_ids"):
        sampling.stop_token_ids.extend(token_ids("stop_token_ids", stop_ids))
    if options.get("logprobs"):
        sampling.logprobs = 1
    return sampling


def _known(verb: str, options: CallOptions, names: frozenset[str]) -> None:
    for name in options:
        if name not in names:
            raise TypeError(f"{verb} has no option {name!r}; it knows {', '.join(sorted(names))}")


def _turns(turns: Sequence[tuple[str, str]] | None) -> list[tuple[str, str]]:
    pairs = list(turns or ())
    if not pairs or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"turns must be a non-empty list of (role, text) pairs, not {turns!r}")
    return [(_text("a turn's role", role), text) for role, text in pairs]


def _choice(what: str, value: str, choices: dict[str, _T]) -> _T:
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}")
    return choices[value]


def _text(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a string, not {type(value).__name__}")
    return value


def _integer(what: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} must be an integer, not {value!r}")
    if not 0 <= value <= most:
        raise ValueError(f"{what} must be from 0 to {most}, not {value}")
    return value


def _number(what: str, value: object, least: float, most: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{what} must be a number, not {value!r}")
    if not least <= value <= most or value == float("inf"):
        raise ValueError(f"{what} must be from {least:g} to {most:g}, not {value!r}")
    return float(value)
