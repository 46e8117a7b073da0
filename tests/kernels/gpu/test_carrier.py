"""KV that a device carries to host memory and back late, in any order its streams allow: the same to the bit, no slot
written before it was gathered, nothing reported before it is there."""

import random
from collections.abc import Callable, Iterator
from itertools import takewhile

import pytest
import torch
from support.carried import SLOTS, Load, Pool, Text, extents_of
from support.late_device import LateDevice

from pavane.kernels.batch import MoveIn, MoveOut, Moves
from pavane.kernels.gpu.carrier import DeviceCarrier
from pavane.kernels.gpu.copies import TorchCopies
from pavane.kernels.host import HostTier, TierError
from pavane.kernels.host_mover import try_out
from pavane.kernels.moves import Mover


class Device(Pool):
    """Whose steps run late too, with a tier of `pages` below."""

    def __init__(self, seed: int, pages: int, chunk_pages: int) -> None:
        rng = random.Random(seed)
        self.late = LateDevice(rng)
        super().__init__(rng, torch.device("cpu"), self.late.streams.step.launch)
        page_bytes = self.layout.page_bytes
        self.tier = HostTier(page_bytes, pages * page_bytes)
        self.carrier = DeviceCarrier(self.parts, self.late.streams, TorchCopies(), chunk_bytes=chunk_pages * page_bytes)
        self.mover = Mover(self.tier, self.carrier)


Make = Callable[[int, int, int], Device]


@pytest.fixture
def device() -> Iterator[Make]:
    made: list[Device] = []

    def make(seed: int, pages: int, chunk_pages: int) -> Device:
        made.append(Device(seed, pages, chunk_pages))
        return made[-1]

    yield make
    for one in made:
        one.mover.stop()


@pytest.mark.parametrize(("seed", "chunk_pages"), [(0, 1), (1, 1), (2, 2), (3, 5)])
def test_random_moves(seed: int, chunk_pages: int, device: Make) -> None:
    at = device(seed, 60, chunk_pages)
    load = Load(at, at.mover)
    for _ in takewhile(lambda _: load.fetched < 1000, range(2000)):  # how many it takes is the threads' to say
        load.step()
        at.late.advance(most=20)
        load.report(wait=at.rng.random() < 0.2)
    while load.flying:
        load.report(wait=True)
    at.late.drain()
    assert all(at.holds(text) for text in load.there)
    assert load.fetched >= 1000


def filled(at: Device, count: int) -> list[Text]:
    """Texts of 20 tokens, side by side."""
    texts = [Text(bytes([n]), list(range(20 * n, 20 * n + 20)), list(range(20 * n, 20 * n + 20))) for n in range(count)]
    for text in texts:
        at.write(text)
    return texts


def out(*texts: Text) -> Moves:
    return Moves(out=tuple(MoveOut(text.key, extents_of(text.slots)) for text in texts))


def test_a_page_that_changed_is_a_miss_and_nothing_is_written_afterwards(device: Make) -> None:
    """Of three chunks the last is bad: those before it are written when the failure is told, not later."""
    at = device(1, 9, 1)
    text = Text(b"a", list(range(40)), list(range(40)))
    at.write(text)
    at.mover.begin(out(text))
    at.late.drain()
    assert at.mover.report(wait=False) is not None
    at.tier._memory[2, 3] ^= 1
    at.mover.begin(Moves(back=(MoveIn(1, b"a", 0, extents_of(list(range(100, 140)))),)))
    report = at.mover.report(wait=True)
    assert report is not None
    assert (report.arrived, report.failed) == ((), (1,))
    after = Text(b"b", list(range(500, 540)), list(range(100, 140)))
    at.write(after)
    at.late.drain()
    assert at.holds(after)


def test_a_copy_that_fails_is_told_and_holds_up_nobody(device: Make, caplog: pytest.LogCaptureFixture) -> None:
    at = device(2, 9, 1)
    first, second = filled(at, 2)
    at.mover.begin(out(first))
    at.late.drain()
    assert at.mover.report(wait=False) is not None

    def fail() -> None:
        raise ValueError("unspecified launch failure")

    at.late.streams.out.launch(fail)
    back = (MoveIn(1, first.key, 0, extents_of(list(range(100, 120)))),)
    at.mover.begin(Moves(out=out(second).out, back=back))
    told = [at.mover.report(wait=True), at.mover.report(wait=False)]
    assert {ticket for report in told if report for ticket in report.failed} == {1}
    assert {key for report in told if report for key in report.lost} == {second.key}
    assert second.key not in at.tier
    assert {record.exc_info[1].args[0] for record in caplog.records if record.exc_info and record.exc_info[1]} == {
        "the device has failed"
    }


def test_a_page_is_tried_out_before_any_step(device: Make) -> None:
    at = device(4, 1, 1)
    (text,) = filled(at, 1)
    try_out(at.mover, SLOTS)
    at.late.drain()
    assert at.holds(text)
    assert at.tier.used == 0
    assert at.mover.report(wait=True) is None
    at.late.error = ValueError("it has")
    with pytest.raises(TierError, match="does not come back"):
        try_out(at.mover, SLOTS)
