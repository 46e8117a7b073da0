"""The Triton kernels that carry KV against the plain ones: the same bits, and none beside them."""

from importlib import import_module

import pytest
import torch
from support.interpreted import DEVICE

from pavane.kernels.gpu.copies import Copies, TorchCopies
from pavane.kernels.pages import checksum_weights

pytest.importorskip("triton")
TritonCopies = import_module("pavane.kernels.gpu.copies_triton").TritonCopies


def bits(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**31), 2**31, shape, generator=generator, dtype=torch.int32).to(DEVICE)


@pytest.mark.parametrize(("layers", "words", "tokens"), [(1, 8, 1), (3, 24, 7), (2, 512, 5)])
def test_tokens_go_there_and_back(layers: int, words: int, tokens: int) -> None:
    """K and V lie side by side in the staging, and each has a slot at its end that belongs to nobody."""
    pool = bits(2, layers, 20, words, seed=words)
    slots = torch.randperm(19, generator=torch.Generator().manual_seed(1))[:tokens].to(DEVICE)
    went, came = [], []
    for copies in (TorchCopies(), TritonCopies()):
        staged, stored = torch.zeros_like(bits(9, 2 * layers * words, seed=0)), bits(2, layers, 20, words, seed=5)
        for number in range(2):
            at = staged[1 : tokens + 1, number * layers * words :][:, : layers * words].view(tokens, layers, words)
            copies.gather(pool[number, :, :-1], slots, at)
            copies.scatter(stored[number, :, :-1], slots, at)
        went.append(staged)
        came.append(stored)
    assert torch.equal(*went)
    assert torch.equal(*came)
    assert torch.equal(came[1][:, :, slots], pool[:, :, slots])
    assert not went[1][0].any()


@pytest.mark.parametrize("page_words", [2, 60, 64, 300])
def test_checksums_are_those_of_a_cpu(page_words: int) -> None:
    pages, weights = bits(5, page_words, seed=2), checksum_weights(page_words)
    expected = [
        sum(a * b for a, b in zip(page.tolist(), weights.tolist(), strict=True))
        for page in pages.cpu().view(torch.int64)
    ]
    made: list[Copies] = [TorchCopies(), TritonCopies(32)]
    for copies in made:
        sums = copies.checksums(pages, weights.to(DEVICE))
        assert sums.tolist() == [(each + 2**63) % 2**64 - 2**63 for each in expected]
