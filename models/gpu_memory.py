"""How many slots the KV pool of a GPU gets: what a share of its memory leaves beside weights and the largest step."""

from __future__ import annotations

from typing import NamedTuple

from pavane.models.errors import ModelError


class Used(NamedTuple):
    """Bytes on the GPU when the largest step has run."""

    total: int  # of the GPU
    others: int  # by other processes, and by this one beside torch's own: CUDA's context, its libraries
    weights: int
    peak: int  # of torch at most, weights included


def pool_slots(used: Used, utilization: float, slot_bytes: int, reserve: int, least: int) -> int:
    """Slots of `slot_bytes` that fit `utilization` of the GPU, with `reserve` bytes left for captured graphs.

    Raises:
        ModelError: they are fewer than `least`; the text says what takes the memory and what to change.
    """
    room = int(used.total * utilization) - used.others - used.peak - reserve
    slots = room // slot_bytes
    if slots < least:
        step = used.peak - used.weights
        raise ModelError(
            f"--gpu-memory-utilization {utilization:g} of {used.total / 1e9:.1f} GB leaves {max(0, room) / 1e9:.2f} GB "
            f"for KV, and {least} slots need {least * slot_bytes / 1e9:.2f} GB: weights take {used.weights / 1e9:.1f} "
            f"GB, the largest step {step / 1e9:.1f} GB, others {used.others / 1e9:.1f} GB; choose a smaller model, a "
            "smaller --max-num-batched-tokens or a larger --gpu-memory-utilization"
        )
    return slots
