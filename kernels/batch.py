"""The Batch contract: one step as arrays, made by the scheduler, executed by a runner on any backend.

Numpy only: the scheduler imports this module and no torch. Every array may be longer than its count says; what lies
beyond is padding and must be ignored, so that a batch can be padded to the capacities of a captured graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
UInt64 = npt.NDArray[np.uint64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

NO_TOKEN = -1
NO_MASK = -1
NO_REFERENCE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """What to do with the logits of some rows; all arrays [count] but where another shape is given.

    Sample i may change its logits before it chooses, in this order: those of the ids
    seen_ids[seen_indptr[i]:seen_indptr[i+1]] (each once) are divided by the repetition penalty if positive, multiplied
    by it if negative; bias_values are added to those of bias_ids, both [bias_indptr[i]:bias_indptr[i+1]] (each id once;
    -inf forbids it); tokens whose bit is 0 in its row of masks are forbidden. A forced token ignores all of this.
    """

    count: int
    rows: Int32  # row of the batch whose logits are used
    forced: Int32  # token to take, or NO_TOKEN to sample one
    temperature: Float32  # 0 = greedy
    top_p: Float32  # 1 = off
    top_k: Int32  # 0 = off
    min_p: Float32  # 0 = off
    seeds: UInt64
    counters: Int64  # index of the token in its message's content: with the seed it decides the noise
    repetition: Float32  # > 0; 1 = off
    seen_indptr: Int32  # [count + 1]
    seen_ids: Int32
    bias_indptr: Int32  # [count + 1]
    bias_ids: Int32
    bias_values: Float32
    mask_rows: Int32  # row of masks, or NO_MASK
    masks: UInt32  # [masks, ceil(vocabulary / 32)]; token t is allowed if bit t % 32 of word t // 32 is set
    masks_ready: Callable[[], None] | None  # called once before masks are read: waits until they are filled; may raise
    top_logprobs: Int32  # how many of the likeliest tokens to report; 0 = none


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Rows whose distribution is judged by the token that is known to follow; all arrays [count] but where another
    shape is given, and none of them padded.

    Score i may be compared with a reference: another distribution for the same place, given by the final hidden state
    that its row had in an earlier step, so that nobody keeps logits and the two need not run together.
    """

    count: int
    rows: Int32  # row of the batch whose logits are used
    tokens: Int32  # the token that follows
    keep: Bool  # report the row's final hidden state
    references: Int32  # row of `states`, or NO_REFERENCE
    states: Float32  # [references, hidden_size], as steps before have reported them


class MoveOut(NamedTuple):
    """KV to keep in the tier below the slots."""

    key: bytes  # stands for the content
    extents: Int32  # [n, 2]: start, length; the slots of its tokens, in order


class MoveIn(NamedTuple):
    """KV to fetch from there."""

    ticket: int  # by which the report names it
    key: bytes
    first: int  # token of the entry that the first slot gets
    extents: Int32  # [n, 2]


@dataclass(frozen=True, slots=True, eq=False)
class Moves:
    """What goes between the slots and a tier below them: first entries are dropped, then KV goes out, then the step may
    write to the slots that this has freed. What comes in is under way while the step runs, and may be for longer: no
    row reads or writes its slots before a report says that it has arrived."""

    drops: tuple[bytes, ...] = ()
    out: tuple[MoveOut, ...] = ()
    back: tuple[MoveIn, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class MoveReport:
    """What came of moves, of this step and of earlier ones; seconds are those that moving took."""

    arrived: tuple[int, ...]  # tickets
    failed: tuple[int, ...]  # tickets: what was written is of no use, nor is the entry
    lost: tuple[bytes, ...]  # keys of what could not be kept
    out_tokens: int
    out_s: float
    in_tokens: int
    in_s: float
    stalls: int = 0  # how often a step waited, on its device, for KV that steps before had sent out


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One step.

    Row r encodes one token: it reads `tokens[r]`, or the token that sample `previous[r]` of the step before produced if
    `previous[r]` >= 0; K (rotated at `positions[r]`) and V are written to slot `slots[r]` before any attention of the
    same layer reads.

    Segment s is the keys in the slots of extents[extent_indptr[s]:extent_indptr[s+1]] ((start, length) each, in order),
    read by the pairs row_indptr[s]:row_indptr[s+1]. Pair j is a query of row pair_rows[j], rotated at
    positions[pair_rows[j]] - pair_deltas[j]. If own[s] > 0, the segment is causal: its last own[s] keys are those of
    its own[s] rows, each of which sees the keys up to its own; else every row sees all keys. A row's attention is the
    merge of its pairs by their log-sum-exp. Every row has at least one pair. A segment without pairs is padding, and
    may have no extents.

    A batch without rows is there for its `moves`, and until one of those that are under way has come to an end.
    """

    n_rows: int
    tokens: Int32
    previous: Int32
    positions: Int32
    slots: Int32
    n_segments: int
    extents: Int32  # [extents, 2]
    extent_indptr: Int32  # [segments + 1]
    row_indptr: Int32  # [segments + 1]
    pair_rows: Int32
    pair_deltas: Int32
    own: Int32  # [segments]
    samples: Samples
    moves: Moves | None = None
    scores: Scores | None = None
    watched: Int32 | None = None  # rows of which it is asked where their attention goes

    @classmethod
    def only(cls, moves: Moves) -> Batch:
        """Without rows."""
        none, no_values = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
        begin = np.zeros(1, dtype=np.int32)
        samples = Samples(
            count=0, rows=none, forced=none, temperature=no_values, top_p=no_values, top_k=none, min_p=no_values,
            seeds=np.zeros(0, dtype=np.uint64), counters=np.zeros(0, dtype=np.int64), repetition=no_values,
            seen_indptr=begin, seen_ids=none, bias_indptr=begin, bias_ids=none, bias_values=no_values, mask_rows=none,
            masks=np.zeros((0, 0), dtype=np.uint32), masks_ready=None, top_logprobs=none,
        )  # fmt: skip
        return cls(
            n_rows=0, tokens=none, previous=none, positions=none, slots=none, n_segments=0,
            extents=np.zeros((0, 2), dtype=np.int32), extent_indptr=begin, row_indptr=begin, pair_rows=none,
            pair_deltas=none, own=none, samples=samples, moves=moves,
        )  # fmt: skip

    @property
    def follows(self) -> bool:
        """Whether a sample of the step before is an input of this one."""
        return bool((self.previous[: self.n_rows] >= 0).any())

    @property
    def n_pairs(self) -> int:
        return int(self.row_indptr[self.n_segments])

    def kv_tokens(self) -> tuple[int, int]:
        """Keys read: each segment's once, and summed over the rows that read it (the traffic without sharing)."""
        ends = np.concatenate([[0], np.cumsum(self.extents[:, 1], dtype=np.int64)])
        lengths = np.diff(ends[self.extent_indptr[: self.n_segments + 1]])
        rows = np.diff(self.row_indptr[: self.n_segments + 1])
        return int(lengths.sum()), int((lengths * rows).sum())

    @property
    def one_row_each(self) -> bool:
        """Of each call one row: each has one causal segment, which has all its rows."""
        return int(np.count_nonzero(self.own[: self.n_segments])) == self.n_rows

    def kv_tokens_by_call(self) -> int:
        """Keys read if each call reads its segments for itself, all its rows at once."""
        if self.one_row_each:
            return self.kv_tokens()[1]
        calls = np.flatnonzero(self.own[: self.n_segments])
        begin, pairs = self.row_indptr, self.n_pairs
        call_of_row = np.empty(self.n_rows, dtype=np.int64)
        for call in calls:
            call_of_row[self.pair_rows[begin[call] : begin[call + 1]]] = call
        segment = np.repeat(np.arange(self.n_segments), np.diff(begin[: self.n_segments + 1]))
        readers = np.unique(segment * self.n_segments + call_of_row[self.pair_rows[:pairs]])
        ends = np.concatenate([[0], np.cumsum(self.extents[:, 1], dtype=np.int64)])
        lengths = np.diff(ends[self.extent_indptr[: self.n_segments + 1]])
        return int(lengths[readers // self.n_segments].sum())


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What came of `Scores`, each [count]: the log-probability of the token that follows, the likeliest token (the
    lowest id of equals), and KL(reference || own) over the whole vocabulary in nats. What has no reference has a `kl`
    of NaN, and logits that are no numbers give NaN throughout. `states` [kept, hidden_size]: those to be kept, before
    the final norm."""

    logprobs: Float32
    top_tokens: Int32
    kl: Float32
    states: Float32


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """What a step gave, per sample: the token taken and its log-probability under the model's own distribution (the
    softmax of its logits as they came, whatever the sample does to them before it chooses).

    A sample that has no token to take gets NO_TOKEN, and the others are as if it were not there. Its log-probability
    is -inf if every token was forbidden, NaN if the logits were not numbers.
    """

    tokens: Int32  # [samples]
    logprobs: Float32  # [samples]
    forward_s: float  # seconds of the forward pass up to the logits, without sampling
    top_tokens: Int32 | None = None  # [samples, most asked for], likeliest first, then NO_TOKEN; None if nobody asked
    top_logprobs: Float32 | None = None  # of top_tokens; -inf for NO_TOKEN
    moved: MoveReport | None = None  # None if there is nothing to report
    scored: Scored | None = None  # None if the batch has no scores
    # Row after row of `Batch.watched`, for each of its pairs in their order: the share of the row's attention that the
    # pair has in the merge, exp(lse of the pair - lse of the row), mean over heads and layers.
    shares: Float32 | None = None

    def only(self, kept: list[int]) -> StepResult:
        """Of the samples `kept`."""
        return StepResult(
            self.tokens[kept],
            self.logprobs[kept],
            self.forward_s,
            None if self.top_tokens is None else self.top_tokens[kept],
            None if self.top_logprobs is None else self.top_logprobs[kept],
            self.moved,
            self.scored,
            self.shares,
        )


class RunnerLostError(RuntimeError):
    """What computes the steps is lost, as a GPU after an error of its own: no step can run any more in this process."""


class Runner(Protocol):
    """Executes steps in order, in one thread. A raised exception means that nothing of the step can be relied on; after
    RunnerLostError nothing at all."""

    def execute(self, batch: Batch) -> StepResult: ...


@runtime_checkable
class Launcher(Runner, Protocol):
    """A runner with a device that works beside the host: a step may be launched while the ones before still run, and
    its inputs may be samples of the one right before it. One thread launches, step after step; another calls what that
    returned, in the same order, and each once. Both raise what `execute` does; a step on top of one whose launch has
    raised must not be launched."""

    def launch(self, batch: Batch) -> Callable[[], StepResult]:
        """Returns when all of the step is queued behind what runs; what it returns waits until that is done."""
        ...
