"""KV that a GPU carries to host memory and back beside what runs on it: the same to the bit."""

import random
import time

import numpy as np
import pytest
import torch
from support.carried import Load, Pool

from pavane.kernels.batch import MoveIn, MoveOut, Moves
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.host_mover import host_mover
from pavane.kernels.pages import SlotPages

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")


@pytest.mark.parametrize("seed", range(3))
def test_random_moves(seed: int) -> None:
    """The host runs ahead of the device, which writes slots that go out or come in."""
    pool = Pool(random.Random(seed), GPU, lambda work: work())
    mover = host_mover(pool.layout, 60 * pool.layout.page_bytes)
    load = Load(pool, mover, reads=False)
    busy = torch.randn(4096, 4096, device=GPU)
    for number in range(200):
        for _ in range(number % 7):
            busy = busy @ busy / 64
        load.step()
        load.report(wait=pool.rng.random() < 0.2)
    while load.flying:
        load.report(wait=True)
    assert all(pool.holds(text) for text in load.there)
    assert load.fetched > 100
    mover.stop()


def test_large_entries_come_back_and_the_host_does_not_wait_for_them_to_go() -> None:
    """2 GiB, the KV of 16,384 tokens at the shape of Llama 3.1 8B: far more than the staging holds."""
    tokens = 1 << 14
    store = DeviceKV(32, tokens, 8, 128, torch.bfloat16, GPU)
    layout = SlotPages(store.parts())
    for part in layout.parts:
        part.copy_(torch.randint(-(2**31), 2**31, part.shape, dtype=torch.int32, device=GPU))
    before = [part.clone() for part in layout.parts]
    mover = host_mover(layout, tokens // 16 * layout.page_bytes)
    extents = np.array([(tokens // 2, tokens // 2), (0, tokens // 2)], dtype=np.int32)
    torch.cuda.synchronize()
    began = time.perf_counter()
    mover.begin(Moves(out=(MoveOut(b"a", extents),)))
    launched = time.perf_counter() - began
    for part in layout.parts:
        part.zero_()
    torch.cuda.synchronize()
    assert launched < (time.perf_counter() - began) / 2
    mover.begin(Moves(back=(MoveIn(1, b"a", 0, extents),)))
    report = mover.report(wait=True)
    assert report is not None
    assert report.arrived == (1,)
    for part, then in zip(layout.parts, before, strict=True):
        assert torch.equal(part, then)
    mover.stop()
