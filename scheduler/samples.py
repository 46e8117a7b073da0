"""Between calls and the Batch contract's samples: what is asked of each, and what it gave."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from pavane.kernels.batch import NO_MASK, NO_TOKEN, Float32, Int32, Samples, StepResult, UInt32
from pavane.scheduler.edits import Edits
from pavane.scheduler.spec import Top
from pavane.scheduler.text import ConstraintState, TextRules

if TYPE_CHECKING:
    from pavane.scheduler.calls import Call
    from pavane.scheduler.plan import Sample

_NO_IDS: Int32 = np.zeros(0, dtype=np.int32)
_NO_VALUES: Float32 = np.zeros(0, dtype=np.float32)
_NO_MASKS: UInt32 = np.zeros((0, 0), dtype=np.uint32)


# What one sample gave: a token, or NO_TOKEN if there was none to take, its log-probability, and the likeliest tokens.
Taken: TypeAlias = tuple[int, float, Top]


class Settings(NamedTuple):
    """What the samples of a call have in common."""

    edited: bool  # its logits are changed before a token is chosen
    packed: bytes  # temperature, top_p, min_p as float32; top_k, top_logprobs as int32


_edited = itemgetter(0)
_PACKED = Struct("=fffii")
_FIELDS = _PACKED.size // 4


def make_samples(samples: Sequence[Sample], text: TextRules) -> Samples:
    """The arrays of a step's samples. Begins to compute the masks of those that are constrained."""
    n = len(samples)
    settings = [sample.call.settings or _settings(sample.call) for sample in samples]
    fixed = np.frombuffer(b"".join([packed for _, packed in settings]), dtype=np.float32).reshape(n, _FIELDS).T.copy()
    edits: list[Edits | None] = []
    if any(map(_edited, settings)):
        edits = [_edits(s.call) if edited and s.forced == NO_TOKEN else None
                 for s, (edited, _) in zip(samples, settings, strict=True)]  # fmt: skip
    seen = [edit.seen if edit is not None else _NO_IDS for edit in edits]
    bias = [
        edit.bias(s.index) if edit is not None else (_NO_IDS, _NO_VALUES)
        for s, edit in zip(samples, edits, strict=True)
    ] if edits else []  # fmt: skip
    repetition = np.ones(n, dtype=np.float32)
    mask_rows = np.full(n, NO_MASK, dtype=np.int32)
    states: list[ConstraintState] = []
    for i, edit in enumerate(edits):
        if edit is not None:
            repetition[i] = edit.repetition
            if edit.constraint is not None:
                mask_rows[i] = len(states)
                states.append(edit.constraint)
    masks, masks_ready = text.masks(states) if states else (_NO_MASKS, None)
    return Samples(
        count=n,
        rows=np.frombuffer(array("i", [s.item.first_row + s.depth - s.item.lo for s in samples]), dtype=np.int32),
        forced=np.frombuffer(array("i", [s.forced for s in samples]), dtype=np.int32),
        temperature=fixed[0],
        top_p=fixed[1],
        top_k=fixed[3].view(np.int32),
        min_p=fixed[2],
        seeds=np.frombuffer(array("Q", [s.call.seed for s in samples]), dtype=np.uint64),
        counters=np.frombuffer(array("q", [s.index for s in samples]), dtype=np.int64),
        repetition=repetition,
        seen_indptr=_indptr(n, seen),
        seen_ids=np.concatenate(seen) if seen else _NO_IDS,
        bias_indptr=_indptr(n, [ids for ids, _ in bias]),
        bias_ids=np.concatenate([ids for ids, _ in bias]) if bias else _NO_IDS,
        bias_values=np.concatenate([values for _, values in bias]) if bias else _NO_VALUES,
        mask_rows=mask_rows,
        masks=masks,
        masks_ready=masks_ready,
        top_logprobs=fixed[4].view(np.int32),
    )


def _settings(call: Call) -> Settings:
    decode = call.spec.decode
    assert decode is not None
    top_logprobs = decode.logprobs if decode.logprobs > 1 else 0
    packed = _PACKED.pack(decode.temperature, decode.top_p, decode.min_p, decode.top_k, top_logprobs)
    call.settings = Settings(decode.edits, packed)
    return call.settings


def taken_tokens(samples: Sequence[Sample], result: StepResult) -> list[Taken]:
    """What the step gave for each of its samples."""
    tokens, logprobs = result.tokens.tolist(), result.logprobs.tolist()
    if result.top_tokens is None or result.top_logprobs is None:
        return list(zip(tokens, logprobs, [Top()] * len(tokens), strict=True))
    taken: list[Taken] = []
    for i, sample in enumerate(samples):
        decode = sample.call.spec.decode
        wanted = decode.logprobs if decode is not None and decode.logprobs > 1 else 0
        ids = result.top_tokens[i, :wanted]
        there = ids != NO_TOKEN
        top = Top(tuple(ids[there].tolist()), tuple(result.top_logprobs[i, :wanted][there].tolist()))
        taken.append((tokens[i], logprobs[i], top))
    return taken


def _edits(call: Call) -> Edits:
    if call.edits is None:
        decode = call.spec.decode
        assert decode is not None
        sources = {parent.id: parent.tokens for parent in call.parents}
        visible = [sources[use.id] for use in call.uses] + [call.tokens]
        call.edits = Edits(decode, (np.frombuffer(tokens, dtype=np.int32) for tokens in visible))
    return call.edits


def _indptr(n: int, arrays: Sequence[Int32]) -> Int32:
    """[n + 1]; zeros for no arrays at all."""
    if not arrays:
        return np.zeros(n + 1, dtype=np.int32)
    return np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
