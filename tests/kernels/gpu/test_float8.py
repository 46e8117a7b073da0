"""KV in float8 (e4m3): its pool, and the tier below it."""

import numpy as np
import pytest
import torch
from support.gpu_attention import CPU

from pavane.kernels.batch import MoveIn, MoveOut, Moves
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.host_mover import host_mover
from pavane.kernels.pages import PAGE, SlotPages

F8 = torch.float8_e4m3fn


def test_a_slot_takes_half_the_bytes() -> None:
    half, whole = (DeviceKV(3, 10, 2, 64, dtype, CPU) for dtype in (F8, torch.bfloat16))
    sizes = [(store.k.nbytes + store.v.nbytes) // (store.slots + 1) for store in (half, whole)]
    assert sizes == [DeviceKV.slot_bytes(3, 2, 64, dtype) for dtype in (F8, torch.bfloat16)] == [768, 1536]


@pytest.mark.parametrize("head_dim", [20, 64])
def test_a_tier_brings_back_every_bit(head_dim: int) -> None:
    store = DeviceKV(2, 90, 3, head_dim, F8, CPU)
    generator = torch.Generator().manual_seed(0)
    for x in (store.k, store.v):
        x.view(torch.uint8).copy_(torch.randint(0, 256, x.shape, generator=generator, dtype=torch.uint8))
    before = [x.view(torch.uint8).clone() for x in (store.k, store.v)]
    pages = SlotPages(store.parts())
    assert pages.page_bytes == PAGE * DeviceKV.slot_bytes(2, 3, head_dim, F8)
    mover = host_mover(pages, 10 * pages.page_bytes)
    went, came = (np.array(extents, dtype=np.int32) for extents in ([[3, 20], [50, 9]], [[70, 11], [0, 2]]))
    mover.begin(Moves(out=(MoveOut(b"key", went),), back=(MoveIn(0, b"key", 4, came),)))
    report = mover.report(wait=True)
    mover.stop()
    assert report is not None
    assert report.arrived == (0,)
    moved = torch.tensor([*range(7, 18), 18, 19])
    there = torch.tensor([*range(70, 81), 0, 1])
    for was, x in zip(before, (store.k, store.v), strict=True):
        now = x.view(torch.uint8)
        assert torch.equal(now[:, there], was[:, moved])
        others = [slot for slot in range(91) if slot not in there.tolist()]
        assert torch.equal(now[:, others], was[:, others])
