"""What a step's samples do to their logits before a token is chosen, as arrays of a device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pavane.kernels.batch import Int32, Int64, Samples
from pavane.kernels.edits import edited

_HIGHEST = torch.finfo(torch.float32).max


class Edits(NamedTuple):
    """Of `kernels.batch.Samples`, those samples that change anything; int32 but where another dtype is given."""

    rows: torch.Tensor  # [n]: of the logits, each once
    repetition: torch.Tensor  # float32 [n]
    seen_indptr: torch.Tensor  # [n + 1]
    seen_ids: torch.Tensor
    bias_indptr: torch.Tensor  # [n + 1]
    bias_ids: torch.Tensor
    bias_values: torch.Tensor  # float32
    mask_rows: torch.Tensor  # [n], or NO_MASK
    masks: torch.Tensor  # [masks, words]: the bits of uint32


def edits_of(samples: Samples, device: torch.device) -> Edits | None:
    """None if no sample changes its logits. Waits until the masks are ready, but not for the device."""
    rows = np.flatnonzero(edited(samples))
    if not len(rows):
        return None
    if samples.masks_ready is not None:
        samples.masks_ready()
    seen_indptr, seen = _parts(samples.seen_indptr, rows)
    bias_indptr, bias = _parts(samples.bias_indptr, rows)
    arrays = (
        rows.astype(np.int32), samples.repetition[rows], seen_indptr, samples.seen_ids[seen], bias_indptr,
        samples.bias_ids[bias], samples.bias_values[bias], samples.mask_rows[rows], samples.masks.view(np.int32),
    )  # fmt: skip
    return Edits(*(_there(array, device) for array in arrays))


def torch_edit(logits: torch.Tensor, edits: Edits) -> None:
    """Changes float32 `logits` [rows, vocabulary] in place; see `kernels.edits.edit`."""
    for indptr, ids, values in (
        (edits.seen_indptr, edits.seen_ids, None),
        (edits.bias_indptr, edits.bias_ids, edits.bias_values),
    ):
        which = torch.searchsorted(indptr[1:].contiguous(), torch.arange(len(ids), device=ids.device), right=True)
        row, penalty, old = edits.rows[which], edits.repetition[which], logits[edits.rows[which], ids]
        new = torch.where(old > 0, old / penalty, old * penalty) if values is None else old + values
        logits[row, ids] = new.clamp(max=_HIGHEST)
    if len(edits.masks):
        token = torch.arange(logits.shape[1], device=logits.device)
        words = edits.masks[edits.mask_rows.clamp(min=0)]
        known = token < 32 * words.shape[1]
        bits = (words[:, token.clamp(max=32 * words.shape[1] - 1) // 32] >> (token % 32)) & 1
        allowed = (edits.mask_rows < 0)[:, None] | (known & (bits == 1))
        logits[edits.rows] = torch.where(allowed, logits[edits.rows], -torch.inf)


def _there(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _parts(indptr: Int32, rows: Int64) -> tuple[Int32, Int64]:
    """The indptr of `rows` alone, and where their elements are."""
    starts, counts = indptr[rows].astype(np.int64), indptr[rows + 1] - indptr[rows]
    out: Int32 = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    within = np.arange(out[-1]) - np.repeat(out[:-1], counts)
    return out, np.repeat(starts, counts) + within
