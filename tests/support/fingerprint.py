"""A runner without a model that still notices every wrong key: a token's fingerprint stands for its K and V.

The fingerprint of a token is a hash of the token and of the set of (fingerprint, distance) of all keys that it sees, as
K and V of a transformer with RoPE depend on just these. `FingerprintRunner` computes it from the batches of the
scheduler, `FingerprintOracle` from the calls alone; sampled tokens are a function of the fingerprint, so whatever
reads a slot that holds something else, or at another distance, is told apart at the latest by its tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pavane.kernels.batch import Batch, StepResult
from pavane.scheduler.spec import CallSpec
from support.harness import FakeRunner
from support.tiers import FakeTier, Slots

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]
MASK = (1 << 64) - 1
EMPTY: UInt64 = np.zeros(0, dtype=np.uint64)
NOWHERE: Int64 = np.zeros(0, dtype=np.int64)


def seen(keys: UInt64, distances: Int64) -> int:
    """The keys seen, as one number that does not depend on their order."""
    h = keys * np.uint64(0x9E3779B97F4A7C15) ^ distances.astype(np.int64).view(np.uint64) * np.uint64(
        0xC2B2AE3D27D4EB4F
    )
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    return int(h.sum(dtype=np.uint64))


def fingerprint(token: int, what: int) -> int:
    h = (token * 0x94D049BB133111EB + what + 0x632BE59BD9B4E019) & MASK
    h ^= h >> 31
    h = h * 0xD6E8FEB86659FD93 & MASK
    return h ^ h >> 27


def sampled(fp: int, seed: int, counter: int, vocab: int) -> int:
    return 3 + fingerprint(seed, fp + counter) % (vocab - 3)


class FingerprintRunner(FakeRunner):
    """`fail_next` makes the step fail after it has written garbage. KV in a tier below is fingerprints too."""

    def __init__(self, slots: int, vocab: int = 97) -> None:
        super().__init__(slots, vocab)
        self.keys: UInt64 = np.zeros(slots, dtype=np.uint64)
        self.at: Int64 = np.zeros(slots, dtype=np.int64)
        self.known = np.zeros(slots, dtype=bool)
        self.last: list[int] = []  # samples of the step before
        self.tier: FakeTier | None = None

    def add_tier(self, seed: int, *, faulty: bool) -> None:
        self.tier = FakeTier(Slots(self.keys, self.at, self.known), seed, faulty=faulty)

    def execute(self, batch: Batch) -> StepResult:
        n = batch.n_rows
        if self.tier is not None:
            self.tier.begin(batch.moves)
        else:
            assert batch.moves is None
        try:
            super().execute(batch)
        except RuntimeError:
            self.keys[batch.slots[:n]] ^= np.uint64(0x5555)
            self.known[batch.slots[:n]] = False
            raise
        views: list[list[tuple[Int64, int]]] = [[] for _ in range(n)]
        for s in range(batch.n_segments):
            extents = batch.extents[batch.extent_indptr[s] : batch.extent_indptr[s + 1]].tolist()
            slots = np.concatenate([np.arange(start, start + length, dtype=np.int64) for start, length in extents])
            begin, end = int(batch.row_indptr[s]), int(batch.row_indptr[s + 1])
            own = int(batch.own[s])
            assert own in (0, end - begin)
            for i in range(begin, end):
                upto = len(slots) - own + (i - begin) + 1 if own else len(slots)
                views[int(batch.pair_rows[i])].append((slots[:upto], int(batch.pair_deltas[i])))
        inputs = batch.tokens[:n].tolist()
        for row in np.flatnonzero(batch.previous[:n] >= 0).tolist():
            # Of a step that failed there are none; then all the calls have ended.
            before = int(batch.previous[row])
            inputs[row] = self.last[before] if before < len(self.last) else 0
        self.known[batch.slots[:n]] = False
        self.at[batch.slots[:n]] = batch.positions[:n]
        for row in range(n):
            slot, position = int(batch.slots[row]), int(batch.positions[row])
            what = 0
            for slots, delta in views[row]:
                others = slots[slots != slot]
                assert self.known[others].all(), "a row reads slots that nobody has written"
                what += seen(self.keys[others], position - delta - self.at[others])
            self.keys[slot] = fingerprint(inputs[row], what & MASK)
            self.known[slot] = True
        samples = batch.samples
        tokens = [
            int(forced)
            if forced >= 0
            else sampled(int(self.keys[batch.slots[row]]), int(seed), int(counter), self.vocab)
            for row, forced, seed, counter in zip(
                samples.rows.tolist(), samples.forced, samples.seeds, samples.counters, strict=True
            )
        ]
        self.last = tokens
        moved = self.tier.report(wait=not n) if self.tier is not None else None
        return StepResult(np.array(tokens, dtype=np.int32), np.zeros(len(tokens), dtype=np.float32), 0.0, moved=moved)


@dataclass(frozen=True)
class Told:
    tokens: list[int]
    keys: UInt64
    start: int


class FingerprintOracle:
    """What every message has to be, from the calls alone. Calls may be asked for in any order."""

    def __init__(self, calls: dict[str, CallSpec], bos_id: int | None, vocab: int = 97) -> None:
        self._calls = calls
        self._vocab = vocab
        self._told: dict[str, Told] = {}
        self._bos = bos_id is not None
        self._begin: tuple[UInt64, Int64] = (EMPTY, NOWHERE)
        if bos_id is not None:
            self._begin = (
                np.array([fingerprint(bos_id, 0)], dtype=np.uint64),
                np.array([-1], dtype=np.int64),
            )

    def __getitem__(self, message_id: str) -> Told:
        stack = [message_id]
        while stack:
            spec = self._calls[stack[-1]]
            names = [p.id for p in spec.parents] + ([spec.copy_of] if spec.copy_of is not None else [])
            missing = [name for name in names if name not in self._told]
            if missing:
                stack.extend(missing)
            else:
                self._told.setdefault(stack.pop(), self._tell(spec))
        return self._told[message_id]

    def _tell(self, spec: CallSpec) -> Told:
        keys, at = self._begin
        packed = bool(spec.parents) and all(edge.exact for edge in spec.parents)
        cursor = furthest = 0
        for edge in spec.parents:
            parent = self._told[edge.id]
            if packed or (edge.offset is None and not edge.as_encoded):
                begin = cursor
            else:
                begin = edge.offset if edge.offset is not None else parent.start
            mine = self._encode(parent.tokens, begin, keys, at) if edge.exact else parent.keys
            keys = np.concatenate([keys, mine])
            at = np.concatenate([at, np.arange(begin, begin + len(mine), dtype=np.int64)])
            cursor = begin + len(mine)
            furthest = max(furthest, cursor)
        start = furthest if spec.start is None or packed else spec.start
        tokens = self._told[spec.copy_of].tokens if spec.copy_of is not None else list(spec.tokens)
        own = self._encode(tokens, start, keys, at)
        decode = spec.decode
        if decode is None:
            return Told(list(tokens), own, start)
        out = list(tokens)
        limit = len(decode.forced) or decode.max_tokens
        assert limit is not None, "the oracle does not know how much fits"
        for i in range(limit):
            token = decode.forced[i] if decode.forced else sampled(int(own[-1]), decode.seed, i, self._vocab)
            if not decode.forced and token in decode.end_ids | decode.stop_ids:
                break
            out.append(token)
            own = self._more([token], start, keys, at, own)
        out.extend(decode.trailer)
        own = self._more(decode.trailer, start, keys, at, own)
        return Told(out, own, start)

    def _encode(self, tokens: Sequence[int], start: int, keys: UInt64, at: Int64) -> UInt64:
        return self._more(tokens, start, keys, at, EMPTY)

    def _more(self, tokens: Sequence[int], start: int, keys: UInt64, at: Int64, own: UInt64) -> UInt64:
        for token in tokens:
            position = start + len(own)
            before = np.arange(start, position, dtype=np.int64)
            what = seen(keys, position - at) + seen(own, position - before)
            own = np.append(own, np.array([fingerprint(token, what & MASK)], dtype=np.uint64))
        return own
