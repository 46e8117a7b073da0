"""What every plan must be that goes to FlashInfer's kernels: they read what they are told, and check little of it."""

from __future__ import annotations

import torch


def check_indptr(name: str, indptr: torch.Tensor) -> None:
    assert indptr.dtype is torch.int32, f"{name} is {indptr.dtype}"
    assert indptr.dim() == 1, f"{name} has {indptr.dim()} dimensions"
    assert len(indptr) >= 2, f"{name} is of no piece: the kernels divide by their number"
    assert int(indptr[0]) == 0, f"{name} begins with {int(indptr[0])}"
    assert bool((indptr[1:] >= indptr[:-1]).all()), f"{name} goes back: {indptr.tolist()}"


def check_lengths(qo_indptr: torch.Tensor, kv_indptr: torch.Tensor, *, causal: bool, padded: bool) -> None:
    check_indptr("qo_indptr", qo_indptr)
    check_indptr("kv_indptr", kv_indptr)
    assert len(qo_indptr) == len(kv_indptr)
    rows, keys = qo_indptr.diff(), kv_indptr.diff()
    if padded:
        used = int((rows > 0).sum())
        assert bool((rows[:used] > 0).all()), "padding stands before pieces"
        assert bool((keys[used:] == 0).all()), "padding reads keys"
        rows, keys = rows[:used], keys[:used]
    assert bool((rows > 0).all()), "a piece that no row reads"
    assert bool((keys > 0).all()), "a piece without keys: its log-sum-exp is that of nothing"
    if causal:
        assert bool((keys >= rows).all()), "a causal piece has fewer keys than rows: its first rows see nothing"


def check_paged(
    qo_indptr: torch.Tensor, kv_indptr: torch.Tensor, indices: torch.Tensor, last_page_len: torch.Tensor,
    *, heads: int, kv_heads: int, page_size: int, causal: bool, padded: bool,
) -> None:  # fmt: skip
    check_lengths(qo_indptr, kv_indptr, causal=causal, padded=padded)
    assert heads % kv_heads == 0
    assert page_size == 1, f"a page holds {page_size} slots"
    assert indices.dtype is torch.int32, f"indices are {indices.dtype}"
    assert len(indices) >= int(kv_indptr[-1]), f"{len(indices)} indices for {int(kv_indptr[-1])} keys"
    assert last_page_len.dtype is torch.int32, f"last_page_len is {last_page_len.dtype}"
    assert last_page_len.shape == (len(qo_indptr) - 1,)
    assert bool((last_page_len == page_size).all())


def check_pages(indices: torch.Tensor, pages: int) -> None:
    assert bool(((indices >= 0) & (indices < pages)).all()), f"an index beyond the {pages} pages"
