"""The sampling of a decode, from the wire: every value checked, with what to change."""

from __future__ import annotations

import math
import secrets
from typing import Any

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import DecodeSpec
from pavane.server.text.chat_format import ChatFormat
from pavane.server.text.constraint import Constraints
from pavane.server.text.tokenizer import Tokenizer

MAX_STOPS, MAX_STOP_CHARS = 16, 256
MAX_BIASES = 1024
MAX_LOGPROBS = 20


class SamplingReader:
    """Makes DecodeSpecs. May compile a constraint on the way, which belongs in a thread."""

    def __init__(self, tokenizer: Tokenizer, chat: ChatFormat, constraints: Constraints) -> None:
        self._vocab_size = tokenizer.vocab_size
        self._chat = chat
        self._constraints = constraints

    def read(self, call: pb.Call) -> DecodeSpec:
        """Raises RequestError for what is out of range or contradictory, and for what no text can be."""
        s, forced = call.decode.sampling, call.decode.forced
        raw = call.decode.header.WhichOneof("start") == "tokens"
        bad = _Checker(call.id)
        constraint = s.WhichOneof("constraint")
        if call.decode.HasField("forced"):
            bad.unless(bool(forced.ids), "forced has no ids; leave it out to sample")
            bad.unless(
                not s.stop and not s.stop_token_ids, "forced tokens are taken as they are; drop stop and stop_token_ids"
            )
            bad.unless(constraint is None, f"forced tokens are taken as they are; drop {constraint}")
        return DecodeSpec(
            seed=s.seed if s.HasField("seed") else secrets.randbits(64),
            stop=tuple(s.stop),
            stop_ids=frozenset(s.stop_token_ids),
            forced=tuple(forced.ids),
            one_pass=forced.one_pass,
            attention_mass=call.decode.attention_mass,
            beginning="" if raw else call.decode.header.turn.text,
            trailer=() if raw else self._chat.trailer,
            **self._choice(s, bad),
            **self._lengths(s, bad),
            constraint=None
            if constraint is None
            else self._constraints.get(constraint, getattr(s, constraint), call.id),
        )

    def _choice(self, s: pb.Sampling, bad: _Checker) -> dict[str, Any]:
        """How a token is chosen."""
        temperature = s.temperature if s.HasField("temperature") else 1.0
        top_p = s.top_p if s.HasField("top_p") else 1.0
        repetition = s.repetition_penalty if s.HasField("repetition_penalty") else 1.0
        bad.unless(0 <= temperature <= 100, f"temperature is {temperature:g}; use 0 (greedy) to 100")
        bad.unless(0 < top_p <= 1, f"top_p is {top_p:g}; use more than 0, up to 1 (off)")
        bad.unless(0 <= s.min_p <= 1, f"min_p is {s.min_p:g}; use 0 (off) to 1")
        bad.unless(s.top_k < 2**31, f"top_k is {s.top_k}; use 0 (off) or the number of tokens to keep")
        bad.unless(0 < repetition <= 10, f"repetition_penalty is {repetition:g}; use more than 0, up to 10, 1 is off")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(s, name)
            bad.unless(-2 <= value <= 2, f"{name} is {value:g}; use -2 to 2, 0 is off")
        bad.unless(
            len(s.logit_bias) <= MAX_BIASES, f"{len(s.logit_bias)} logit biases; at most {MAX_BIASES} are allowed"
        )
        for token, value in s.logit_bias.items():
            self._known(token, "logit_bias: token id", bad)
            bad.unless(
                -100 <= value <= 100 or value == -math.inf,
                f"logit_bias of token {token} is {value:g}; use -100 to 100, or -inf to forbid it",
            )
        bad.unless(
            s.logprobs <= MAX_LOGPROBS,
            f"logprobs is {s.logprobs}; use 1 for those of the generated tokens, up to {MAX_LOGPROBS} for as many of "
            "the likeliest as well",
        )
        return {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": s.top_k,
            "min_p": s.min_p,
            "repetition_penalty": repetition,
            "presence_penalty": s.presence_penalty,
            "frequency_penalty": s.frequency_penalty,
            "logit_bias": tuple(sorted(s.logit_bias.items())),
            "logprobs": s.logprobs,
        }

    def _lengths(self, s: pb.Sampling, bad: _Checker) -> dict[str, Any]:
        """Where the content ends."""
        limited = s.HasField("max_tokens")
        bad.unless(not limited or s.max_tokens > 0, "max_tokens is 0; use at least 1, or a prefill")
        bad.unless(
            not limited or s.min_tokens <= s.max_tokens,
            f"min_tokens is {s.min_tokens}, max_tokens only {s.max_tokens}; lower the one or raise the other",
        )
        bad.unless(s.min_tokens < 2**31, f"min_tokens is {s.min_tokens}; use less than {2**31}")
        bad.unless(len(s.stop) <= MAX_STOPS, f"{len(s.stop)} stop strings; at most {MAX_STOPS} are allowed")
        bad.unless(all(s.stop), "a stop string is empty; leave it out")
        bad.unless(
            all(len(stop) <= MAX_STOP_CHARS for stop in s.stop),
            f"a stop string is longer than {MAX_STOP_CHARS} characters",
        )
        for token in s.stop_token_ids:
            self._known(token, "stop token id", bad)
        both = sorted(set(s.stop_token_ids) & self._chat.end_ids) if s.ignore_eos else []
        bad.unless(not both, f"ignore_eos is set, but {both} are stop_token_ids; drop one of the two")
        return {
            "max_tokens": s.max_tokens if limited else None,
            "min_tokens": s.min_tokens,
            "end_ids": frozenset() if s.ignore_eos else self._chat.end_ids,
        }

    def _known(self, token: int, what: str, bad: _Checker) -> None:
        bad.unless(token < self._vocab_size, f"{what} {token} is not in 0..{self._vocab_size - 1}")


class _Checker:
    def __init__(self, call_id: str) -> None:
        self._call_id = call_id

    def unless(self, fine: bool, text: str) -> None:
        if not fine:
            raise RequestError(Reason.INVALID_SAMPLING, f"call {self._call_id!r}: {text}", (self._call_id,))
