"""Tokens between a device's slots and staged pages: what is launched for it."""

from __future__ import annotations

from typing import Protocol

import torch


class Copies(Protocol):
    """`part` is int32 [layers, slots, words] with the last two dimensions contiguous, `staged` int32
    [tokens, layers, words] likewise; `slots` int64 [tokens], each once. One launch each, which never waits."""

    def gather(self, part: torch.Tensor, slots: torch.Tensor, staged: torch.Tensor) -> None:
        """staged[t] = part[:, slots[t]]; here a slot may be named more than once."""
        ...

    def scatter(self, part: torch.Tensor, slots: torch.Tensor, staged: torch.Tensor) -> None:
        """part[:, slots[t]] = staged[t]."""
        ...

    def checksums(self, pages: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """int64 [n] of int32 [n, page_words], contiguous; see `checksum_weights`."""
        ...


class TorchCopies:
    """The plain implementation, for any device."""

    def gather(self, part: torch.Tensor, slots: torch.Tensor, staged: torch.Tensor) -> None:
        torch.index_select(part.transpose(0, 1), 0, slots, out=staged)

    def scatter(self, part: torch.Tensor, slots: torch.Tensor, staged: torch.Tensor) -> None:
        part.transpose(0, 1).index_copy_(0, slots, staged)

    def checksums(self, pages: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return (pages.view(torch.int64) * weights).sum(dim=1)
