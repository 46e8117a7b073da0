"""`Copies` as Triton kernels: a KV pool has more words than torch's gathers count in 32 bits."""

from __future__ import annotations

import torch

from pavane.kernels.gpu.fused.carry import carry_kernel, checksum_kernel
from pavane.kernels.gpu.fused.jit import power_of_two

SUMMED_AT_ONCE = 2048  # 64-bit words of a page


class TritonCopies:
    """See Copies."""

    def __init__(self, summed_at_once: int = SUMMED_AT_ONCE) -> None:
        self._summed_at_once = summed_at_once

    def gather(self, part: torch.Tensor, slots: torch.Tensor, staged: torch.Tensor) -> None:
        _carry(part, slots, staged, out=True)

    def scatter(self, part: torch.Tensor, slots: torch.Tensor, staged: torch.Tensor) -> None:
        _carry(part, slots, staged, out=False)

    def checksums(self, pages: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        sums = torch.empty(len(pages), dtype=torch.int64, device=pages.device)
        words = pages.view(torch.int64)
        checksum_kernel[(len(pages),)](
            words, weights, sums, words.shape[1], BLOCK=self._summed_at_once, num_warps=8
        )  # fmt: skip
        return sums


def _carry(part: torch.Tensor, slots: torch.Tensor, staged: torch.Tensor, *, out: bool) -> None:
    tokens, layers, words = staged.shape
    block = power_of_two(words)
    carry_kernel[(tokens, layers)](
        part, part.stride(0), slots, staged, staged.stride(0),
        WORDS=words, BLOCK=block, OUT=out, num_warps=max(1, min(8, block // 128)),
    )  # fmt: skip
