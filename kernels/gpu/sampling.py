"""Samples on a device: all are chosen there, and those that report the likeliest tokens besides on the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.batch import Int64, Samples
from pavane.kernels.gpu.edits import edits_of
from pavane.kernels.gpu.ops import Ops, Wishes
from pavane.kernels.gpu.pieces import ranges
from pavane.kernels.sampling import Sampled, sample

_FIELDS = ("forced", "temperature", "top_p", "top_k", "min_p", "seeds", "counters")
_DTYPES = {"temperature": torch.float32, "top_p": torch.float32, "min_p": torch.float32} | dict.fromkeys(
    ("seeds", "counters"), torch.int64
)


def sample_arrays(samples: Samples) -> dict[str, npt.NDArray[Any]]:
    """What is uploaded for samples."""
    n = samples.count
    return {"sample_rows": samples.rows[:n]} | {name: getattr(samples, name)[:n] for name in _FIELDS}


def wishes_of(there: dict[str, torch.Tensor]) -> Wishes:
    """Of `sample_arrays`, uploaded."""
    return Wishes(*(there[name].view(_DTYPES.get(name, torch.int32)) for name in _FIELDS))


class Chosen(NamedTuple):
    """Still on the device."""

    tokens: torch.Tensor  # int32 [samples]
    logprobs: torch.Tensor  # float32 [samples]
    logits: torch.Tensor  # float32 [kept rows, vocabulary], of `by_hand`
    by_hand: Int64  # samples that the CPU has to choose


def choose(ops: Ops, logits: torch.Tensor, samples: Samples, wishes: Wishes) -> Chosen:
    """For logits float32 [samples.count, vocabulary] on the device."""
    by_hand = np.flatnonzero(samples.top_logprobs[: samples.count] > 0)
    tokens, logprobs = ops.sample(logits, wishes, edits_of(samples, logits.device))
    kept = logits[torch.from_numpy(by_hand).to(logits.device)] if len(by_hand) else logits[:0]
    return Chosen(tokens, logprobs, kept, by_hand)


def finish(chosen: Chosen, samples: Samples, tokens: torch.Tensor, logprobs: torch.Tensor) -> Sampled:
    """`tokens` and `logprobs` are those of `chosen` on the CPU; the rows of `chosen.by_hand` are chosen now, and their
    tokens written back to the device as well, where the next step may take them from."""
    out_tokens, out_logprobs = tokens.numpy().copy(), logprobs.numpy().copy()
    if not len(chosen.by_hand):
        return Sampled(out_tokens, out_logprobs, None, None)
    rows = chosen.by_hand
    part = sample(chosen.logits.cpu(), select(samples, rows))
    out_tokens[rows], out_logprobs[rows] = part.tokens, part.logprobs
    chosen.tokens.copy_(torch.from_numpy(out_tokens))
    if part.top_tokens is None or part.top_logprobs is None:
        return Sampled(out_tokens, out_logprobs, None, None)
    top_tokens = np.full((samples.count, part.top_tokens.shape[1]), -1, dtype=np.int32)
    top_logprobs = np.full(top_tokens.shape, -np.inf, dtype=np.float32)
    top_tokens[rows], top_logprobs[rows] = part.top_tokens, part.top_logprobs
    return Sampled(out_tokens, out_logprobs, top_tokens, top_logprobs)


def select(samples: Samples, rows: Int64) -> Samples:
    """Only the samples `rows`."""
    seen_indptr, seen = _part(samples.seen_indptr, rows)
    bias_indptr, bias = _part(samples.bias_indptr, rows)
    plain = (*_FIELDS, "rows", "repetition", "mask_rows", "top_logprobs")
    return replace(
        samples,
        count=len(rows),
        masks_ready=None,  # they have been waited for
        **{name: getattr(samples, name)[rows] for name in plain},
        seen_indptr=seen_indptr,
        seen_ids=samples.seen_ids[seen],
        bias_indptr=bias_indptr,
        bias_ids=samples.bias_ids[bias],
        bias_values=samples.bias_values[bias],
    )


def _part(indptr: npt.NDArray[np.int32], rows: Int64) -> tuple[npt.NDArray[np.int32], Int64]:
    """Their indptr, and where their elements are."""
    counts = (indptr[rows + 1] - indptr[rows]).astype(np.int64)
    out: npt.NDArray[np.int32] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return out, ranges(indptr[rows].astype(np.int64), counts)
