"""Products and attention whose rows do not depend on the batch: against float64, and each row against itself."""

from importlib import import_module

import numpy as np
import pytest
import torch
from support.interpreted import DEVICE

from pavane.kernels.gpu.invariant.tiles import block_rows, most_tiles, tiles_of
from pavane.kernels.gpu.plan import Group, Kind
from pavane.kernels.gpu.upload import Staging
from pavane.kernels.gpu.wrappers import Attention, Captured
from tests.kernels.gpu.test_triton_ops import BF16, F32, empty, normal

pytest.importorskip("triton")
invariant_linear = import_module("pavane.kernels.gpu.invariant.linear").invariant_linear
TileLaunch = import_module("pavane.kernels.gpu.invariant.launch").TileLaunch
SLOTS = 90


def error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative to the size of all."""
    return float((got.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize(("dtype", "most"), [(BF16, 2.0**-9), (F32, 2.0**-22)])
@pytest.mark.parametrize(
    ("rows", "inner", "outer", "biased"), [(1, 80, 97, True), (67, 64, 40, False), (3, 130, 130, True)]
)
def test_a_product_is_that_of_float64(
    dtype: torch.dtype, most: float, rows: int, inner: int, outer: int, biased: bool
) -> None:
    """Rounded once to nearest, at most by half of the last bit; float32 also in its sums."""
    x, weight = normal(rows, inner, dtype=dtype), normal(outer, inner, dtype=dtype, seed=1)
    bias = normal(outer, dtype=dtype, seed=2) if biased else None
    got = invariant_linear(x, weight, bias)
    assert got.dtype is dtype
    assert error(got, x.double() @ weight.double().T + (0 if bias is None else bias.double())) < most


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_row_of_a_product_is_the_same_alone_and_anywhere(dtype: torch.dtype) -> None:
    x, weight = normal(70, 100, dtype=dtype), normal(45, 100, dtype=dtype, seed=1)
    whole = invariant_linear(x, weight)
    for rows in (slice(0, 1), slice(63, 64), slice(64, 70), slice(5, 69)):
        assert torch.equal(invariant_linear(x[rows].clone(), weight), whole[rows])


class Keys:
    """Keys and values in slots, and pieces of any rows and slots over them."""

    def __init__(self, heads: int, kv_heads: int, dim: int, dtype: torch.dtype) -> None:
        self.what = Attention(heads, kv_heads, dim, dtype, dtype, False)
        self.k, self.v = (normal(SLOTS, kv_heads, dim, dtype=dtype, seed=s) for s in (1, 2))

    def attend(
        self, q: torch.Tensor, pieces: list[tuple[int, list[int]]], *, causal: bool, captured: Captured | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(out, lse) of `pieces`: how many rows each has, which are the next ones of q, and its slots."""
        launch = TileLaunch(self.what, Staging(DEVICE), captured)
        if captured is not None:  # as `FlashInferAttention.fix` does first: every piece has one row more than it needs
            rows = [n for n, _ in pieces] + [1] * (captured.pieces - len(pieces))
            launch.plan(*grouped([(n + 1, [0]) for n in rows], causal=False))
        launch.plan(*grouped(pieces, causal=causal))
        out, lse = empty(*q.shape, dtype=q.dtype), empty(*q.shape[:2], dtype=F32)
        launch.run(q, self.k, self.v, out, lse)
        return out, lse

    def exact(self, q: torch.Tensor, slots: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of one row q [heads, dim], in float64: (out, log-sum-exp of base 2)."""
        group = self.what.heads // self.what.kv_heads
        k, v = (x[slots].double().repeat_interleave(group, dim=1) for x in (self.k, self.v))
        scores = torch.einsum("hd,mhd->hm", q.double(), k) * self.what.scale
        return torch.einsum("hm,mhd->hd", scores.softmax(dim=1), v), scores.logsumexp(dim=1) / np.log(2)


def grouped(pieces: list[tuple[int, list[int]]], *, causal: bool) -> tuple[Group, torch.Tensor]:
    rows, keys = ([0, *np.cumsum(n)] for n in zip(*((n, len(slots)) for n, slots in pieces), strict=True))
    group = Group(Kind(16, False, causal), 0, 0, np.array(rows, dtype=np.int32), np.array(keys, dtype=np.int32))
    slots = [slot for _, slots in pieces for slot in slots]
    return group, torch.tensor(slots, dtype=torch.int32, device=DEVICE)


def some_slots(count: int, seed: int) -> list[int]:
    return torch.randperm(SLOTS, generator=torch.Generator().manual_seed(seed))[:count].tolist()


@pytest.mark.parametrize(("dtype", "most"), [(BF16, 2.0**-7), (F32, 2.0**-20)])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "causal"), [(6, 2, 8, True), (4, 1, 64, False), (20, 1, 24, True)]
)
def test_pieces_attend_as_in_float64(
    dtype: torch.dtype, most: float, heads: int, kv_heads: int, dim: int, causal: bool
) -> None:
    keys = Keys(heads, kv_heads, dim, dtype)
    pieces = [(rows, some_slots(count, count)) for rows, count in ((1, 1), (7, 70), (2, 16), (11, 11))]
    q = normal(21, heads, dim, dtype=dtype)
    out, lse = keys.attend(q, pieces, causal=causal)
    places = [(slots, rows - 1 - i if causal else 0) for rows, slots in pieces for i in range(rows)]
    wanted = [keys.exact(q[row], slots[: len(slots) - later]) for row, (slots, later) in enumerate(places)]
    assert error(out, torch.stack([o for o, _ in wanted])) < most
    assert (lse.double() - torch.stack([one for _, one in wanted])).abs().max() < 2.0**-15


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_a_row_attends_the_same_alone_and_among_others(dtype: torch.dtype) -> None:
    """As one of several rows of its call, in pieces of any beginning, beside other calls, and in a captured graph."""
    keys = Keys(6, 2, 16, dtype)
    slots, rows = some_slots(80, 0), 13
    q = normal(rows, 6, 16, dtype=dtype)
    whole = keys.attend(q, [(rows, slots)], causal=True)
    for begin, end in ((0, 1), (3, 4), (2, 9), (12, 13)):
        seen = slots[: len(slots) - rows + end]
        others = normal(4, 6, 16, dtype=dtype, seed=9)
        mine, first = q[begin:end].clone(), [(3, some_slots(50, 1))]
        for before, causal, captured in (([], True, None), (first, True, None), ([], False, 3)):
            if not causal and end - begin > 1:
                continue
            room = None if captured is None else Captured(captured, torch.zeros(999, dtype=torch.int32, device=DEVICE))
            extra = sum(n for n, _ in before)
            found = keys.attend(
                torch.cat([others[:extra], mine]), [*before, (end - begin, seen)], causal=causal, captured=room
            )
            for got, expected in zip(found, whole, strict=True):
                assert torch.equal(got[extra:], expected[begin:end])


@pytest.mark.parametrize("heads", [1, 3, 4, 7, 20, 64])
def test_tiles_cover_every_part_once(heads: int) -> None:
    generator = np.random.default_rng(heads)
    for causal in (False, True):
        rows = generator.integers(1, 40, 9)
        pieces = [(int(n), list(range(int(n) + int(generator.integers(0, 50))))) for n in rows]
        group, _ = grouped(pieces, causal=causal)
        tiles = tiles_of(group, heads)
        assert len(tiles) <= most_tiles(len(pieces), int(rows.sum()), heads)
        got = [
            (part + i, key, key + seen + i * own)
            for part, count, key, seen, own in tiles.tolist()
            for i in range(count)
        ]
        expected = []
        for piece, n in enumerate(rows):
            first, end = group.kv_indptr[piece : piece + 2].tolist()
            expected += [(len(expected) + i, first, end - (int(n) - 1 - i) * causal) for i in range(n)]
        assert got == expected
        assert (tiles[:, 1] * heads <= block_rows(heads)).all()
