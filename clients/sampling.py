"""How an answer is sampled, and where it ends: the options, checked, as the wire has them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from pavane.clients.checks import UINT32, UINT64, integer, number, string, token_ids
from pavane.protos.v1 import pavane_pb2 as pb

_CONSTRAINTS = ("json_schema", "regex", "grammar")


class SamplingOptions(TypedDict, total=False):
    """How to sample."""

    temperature: float | None  # default 1, 0 = greedy
    top_p: float | None
    top_k: int | None  # 0 = off
    min_p: float | None
    repetition_penalty: float | None  # of all tokens in sight, 1 = off
    presence_penalty: float | None  # of tokens generated so far
    frequency_penalty: float | None  # ... as many times as they were generated
    logit_bias: Mapping[int, float] | None  # by token, -100 to 100, or -inf to forbid it
    max_tokens: int | None  # default: as many as fit
    min_tokens: int | None  # before so many are generated, the answer does not end
    seed: int | None  # default: drawn by the server and reported
    stop: str | Sequence[str] | None  # the text ends before the first of them
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool
    logprobs: int | None  # 1 or True: of the tokens taken; n > 1: of the n likeliest as well
    json_schema: str | Mapping[str, Any] | None  # the text is JSON that the schema allows
    regex: str | None  # the whole text matches
    grammar: str | None  # in llguidance's variant of Lark


def derived_seed(seed: int, name: str) -> int:
    """A seed of its own for one message of a run: it depends on nothing but the two."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def sampling(options: SamplingOptions) -> pb.Sampling:
    """The wire's form. Raises ValueError or TypeError with what to change."""
    made = pb.Sampling(ignore_eos=bool(options.get("ignore_eos", False)))
    if (temperature := options.get("temperature")) is not None:
        made.temperature = number("temperature", temperature, 0.0, 100.0)
    if (top_p := options.get("top_p")) is not None:
        made.top_p = number("top_p", top_p, 0.0, 1.0)
    if (min_p := options.get("min_p")) is not None:
        made.min_p = number("min_p", min_p, 0.0, 1.0)
    if (top_k := options.get("top_k")) is not None:
        made.top_k = integer("top_k", top_k, UINT32)
    if (max_tokens := options.get("max_tokens")) is not None:
        made.max_tokens = integer("max_tokens", max_tokens, UINT32)
    if (seed := options.get("seed")) is not None:
        made.seed = integer("seed", seed, UINT64)
    stop = options.get("stop") or ()
    made.stop.extend(string("stop", s) for s in ([stop] if isinstance(stop, str) else stop))
    if stop_ids := options.get("stop_token_ids"):
        made.stop_token_ids.extend(token_ids("stop_token_ids", stop_ids))
    if (logprobs := options.get("logprobs")) is not None:
        made.logprobs = integer("logprobs", int(logprobs) if isinstance(logprobs, bool) else logprobs, UINT32)
    _edits(made, options)
    _constraint(made, options)
    return made


def _edits(made: pb.Sampling, options: SamplingOptions) -> None:
    if (repetition := options.get("repetition_penalty")) is not None:
        made.repetition_penalty = number("repetition_penalty", repetition, 0.0, 10.0)
    if (presence := options.get("presence_penalty")) is not None:
        made.presence_penalty = number("presence_penalty", presence, -2.0, 2.0)
    if (frequency := options.get("frequency_penalty")) is not None:
        made.frequency_penalty = number("frequency_penalty", frequency, -2.0, 2.0)
    if (least := options.get("min_tokens")) is not None:
        made.min_tokens = integer("min_tokens", least, UINT32)
    bias = options.get("logit_bias") or {}
    if not isinstance(bias, Mapping):
        raise TypeError(f"logit_bias must map token ids to numbers, not {bias!r}")
    for token, value in bias.items():
        key = integer("a token id in logit_bias", token, UINT32)
        made.logit_bias[key] = value if value == -math.inf else number(f"logit_bias[{token}]", value, -100.0, 100.0)


def _constraint(made: pb.Sampling, options: SamplingOptions) -> None:
    given = [name for name in _CONSTRAINTS if options.get(name) is not None]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} exclude each other: give one of {', '.join(_CONSTRAINTS)}")
    schema = options.get("json_schema")
    if isinstance(schema, Mapping):
        made.json_schema = json.dumps(schema)
    elif schema is not None:
        made.json_schema = string("json_schema", schema)
    if (regex := options.get("regex")) is not None:
        made.regex = string("regex", regex)
    if (grammar := options.get("grammar")) is not None:
        made.grammar = string("grammar", grammar)
