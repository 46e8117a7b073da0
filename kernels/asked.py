"""What a forward pass may be asked for besides logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from pavane.kernels.batch import Batch, Float32


class Asked(NamedTuple):
    """Tensors to fill, None where nothing is asked: `states`, float32 [scores.count, hidden_size], with the final
    hidden states of the rows of `Batch.scores`, before the norm; `shares`, float32 [pairs], with the share of its row's
    attention that each pair has, mean over heads and layers."""

    states: torch.Tensor | None
    shares: torch.Tensor | None

    @classmethod
    def by(cls, batch: Batch, hidden_size: int) -> Asked:
        """What `batch` asks for."""
        return cls(
            None if batch.scores is None else torch.empty(batch.scores.count, hidden_size),
            None if batch.watched is None else torch.zeros(batch.n_pairs),
        )


def by_row(batch: Batch, shares: torch.Tensor) -> Float32:
    """Of shares by pair those of the rows watched, row after row."""
    assert batch.watched is not None
    rows = batch.pair_rows[: batch.n_pairs]
    order = np.argsort(rows, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=batch.n_rows))])
    wanted = [order[ends[row] : ends[row + 1]] for row in batch.watched.tolist()]
    found: Float32 = shares.numpy()[np.concatenate(wanted)]
    return found
