"""What one decode does to its logits before a token is chosen, kept up to date token by token.

The penalties are vLLM's (vllm/model_executor/layers/utils.py, apply_penalties): repetition over all tokens that are
seen, presence and frequency over those that were generated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from pavane.kernels.batch import Float32, Int32
from pavane.scheduler.spec import DecodeSpec
from pavane.scheduler.text import ConstraintState


class Edits:
    """The state of one decode. `visible` are the tokens that it sees before its content, in any number of arrays."""

    def __init__(self, decode: DecodeSpec, visible: Iterable[Int32]) -> None:
        self.repetition = decode.repetition_penalty
        self.constraint: ConstraintState | None = None
        if decode.constraint is not None:
            self.constraint = decode.constraint.start(decode.end_ids)
        self._seen = _Seen(np.concatenate(list(visible))) if decode.repetition_penalty != 1 else None
        self._presence, self._frequency = decode.presence_penalty, decode.frequency_penalty
        self._given = dict(decode.logit_bias)
        self._counts: Counter[int] = Counter()  # of the content
        self._bias = _Table()
        for token, value in self._given.items():
            self._bias.put(token, value)
        self._min_tokens = decode.min_tokens
        late = sorted(decode.end_ids | decode.stop_ids) if decode.min_tokens else ()
        self._late = np.array([self._bias.put(token, self._given.get(token, 0.0)) for token in late], dtype=np.int64)

    def append(self, token: int) -> None:
        """One more token of the content. Costs the same however many there are."""
        if self.constraint is not None:
            self.constraint.advance(token)
        if self._seen is not None:
            self._seen.add(token)
        if self._presence or self._frequency:
            self._counts[token] += 1
            penalty = self._presence + self._frequency * self._counts[token]
            self._bias.put(token, self._given.get(token, 0.0) - penalty)

    @property
    def seen(self) -> Int32:
        """What the repetition penalty is for, each token once; to be read before the next token."""
        return self._seen.ids if self._seen is not None else _NONE

    def bias(self, generated: int) -> tuple[Int32, Float32]:
        """What is added to which logits for the token that follows `generated` others; to be read before it."""
        ids, values = self._bias.ids, self._bias.values
        if generated < self._min_tokens and len(self._late):
            values = values.copy()
            values[self._late] = -np.inf
        return ids, values


class _Seen:
    """Distinct tokens, in an array that grows by doubling."""

    def __init__(self, tokens: Int32) -> None:
        self._before = np.bincount(tokens) > 0  # by token; sorting, or a set, takes ten times as long
        self._after: set[int] = set()
        ids = np.flatnonzero(self._before).astype(np.int32)
        self._count = len(ids)
        self._ids: Int32 = np.concatenate([ids, np.zeros(16, dtype=np.int32)])

    def add(self, token: int) -> None:
        if token in self._after or (token < len(self._before) and self._before[token]):
            return
        self._after.add(token)
        if self._count == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
        self._ids[self._count] = token
        self._count += 1

    @property
    def ids(self) -> Int32:
        return self._ids[: self._count]


class _Table:
    """Values by token, as arrays that grow by doubling."""

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._ids: Int32 = np.zeros(16, dtype=np.int32)
        self._values: Float32 = np.zeros(16, dtype=np.float32)

    def put(self, token: int, value: float) -> int:
        """Returns the token's place in the arrays."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros(place + 16, dtype=np.int32)])
            self._values = np.concatenate([self._values, np.zeros(place + 16, dtype=np.float32)])
        self._ids[place] = token
        self._values[place] = value
        return place

    @property
    def ids(self) -> Int32:
        return self._ids[: len(self._place)]

    @property
    def values(self) -> Float32:
        return self._values[: len(self._place)]


_NONE: Int32 = np.zeros(0, dtype=np.int32)
