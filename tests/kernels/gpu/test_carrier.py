"""KV that a device carries to host memory and back late, in any order its streams allow: the same to the bit, no slot
written before it was gathered, nothing reported before it is there."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.late_streams import LateDevice

from pavane.kernels.batch import Int32, MoveIn, MoveOut, Moves
from pavane.kernels.gpu.carrier import DeviceCarrier
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.host import HostTier
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE, SlotPages

LAYERS, SLOTS = 3, 400
CPU = torch.device("cpu")


def extents_of(slots: list[int]) -> Int32:
    cuts = [0, *(i for i in range(1, len(slots)) if slots[i] != slots[i - 1] + 1), len(slots)]
    return np.array([(slots[a], b - a) for a, b in pairwise(cuts)], dtype=np.int32)


@dataclass(eq=False)
class Text:
    """Tokens, by what their KV is made of; in slots, in the tier, or both."""

    key: bytes
    seeds: list[int]
    slots: list[int]  # none: it is in the tier
    kept: bool = False
    readers: int = 0  # that come out of the tier

    @property
    def pages(self) -> int:
        return -(-len(self.seeds) // PAGE)


class Device:
    """A pool of slots, whose steps write and read late too, with a tier of `pages` below."""

    def __init__(self, seed: int, pages: int, chunk_pages: int) -> None:
        self.rng = random.Random(seed)
        self.late = LateDevice(self.rng)
        store = DeviceKV(LAYERS, SLOTS, 2, 8, torch.bfloat16, CPU)
        self.parts = store.parts()
        for part in self.parts:
            part.zero_()
        layout = SlotPages(self.parts)
        self.tier = HostTier(layout.page_bytes, pages * layout.page_bytes)
        self.carrier = DeviceCarrier(self.parts, self.late.streams, chunk_bytes=chunk_pages * layout.page_bytes)
        self.mover = Mover(self.tier, self.carrier)

    def rows(self, seeds: list[int]) -> list[torch.Tensor]:
        """The bits of tokens: [layers, tokens, words] for each part."""
        words = self.parts[0].shape[-1]
        shape = (len(seeds), len(self.parts), LAYERS, words)
        bits = np.stack([np.random.default_rng(seed).integers(-(2**31), 2**31, shape[1:]) for seed in seeds])
        return [part.transpose(0, 1) for part in torch.from_numpy(bits.astype(np.int32)).unbind(1)]

    def write(self, text: Text) -> None:
        """By a step."""
        where, rows = torch.tensor(text.slots), self.rows(text.seeds)

        def run() -> None:
            for part, row in zip(self.parts, rows, strict=True):
                part[:, 0, 0, where] = row

        self.late.streams.step.launch(run)

    def holds(self, text: Text) -> bool:
        """Now."""
        where = torch.tensor(text.slots)
        there = (part[:, 0, 0, where] for part in self.parts)
        return all(torch.equal(a, b) for a, b in zip(there, self.rows(text.seeds), strict=True))

    def read(self, text: Text) -> None:
        """By a step. What is not there then is an error of the device."""

        def run() -> None:
            assert self.holds(text), "a step read what is not there"

        self.late.streams.step.launch(run)


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


class Load:
    """Random texts that are written, read, moved out and back and dropped, by the rules of the scheduler: what a step
    takes over may have gone out in that very step, and what comes in is read after it was reported."""

    def __init__(self, at: Device) -> None:
        self.at = at
        self.free = set(range(SLOTS))
        self.there: list[Text] = []
        self.kept: list[Text] = []
        self.flying: dict[int, tuple[Text, Text]] = {}
        self.names = 0
        self.fetched = 0

    def step(self) -> None:
        at, rng = self.at, self.at.rng
        drops = [text for text in self.kept if not text.readers and rng.random() < 0.1]
        for text in drops:
            self.kept.remove(text)
        room = at.tier.capacity // at.tier.page_bytes - sum(text.pages for text in self.kept)
        out, back = [], []
        for text in [text for text in self.there if rng.random() < 0.3]:
            if text.pages <= room:
                room -= text.pages
                out.append(MoveOut(text.key, extents_of(text.slots)))
                self.kept.append(text)
                self.there.remove(text)
                self.free.update(text.slots)
        for text in [text for text in self.kept if rng.random() < 0.3]:
            first = rng.choice([0, rng.randrange(len(text.seeds))])
            seeds = text.seeds[first : rng.randint(first + 1, len(text.seeds))]
            slots = self.take(len(seeds))
            if slots:
                text.readers += 1
                part = Text(self.name(), seeds, slots)
                self.flying[self.names] = (part, text)
                back.append(MoveIn(self.names, text.key, first, extents_of(slots)))
        at.mover.begin(Moves(tuple(text.key for text in drops), tuple(out), tuple(back)))
        for _ in range(rng.randint(0, 4)):
            slots = self.take(rng.randint(1, 50))
            if slots:
                self.there.append(Text(self.name(), [rng.randrange(2**31) for _ in slots], slots))
                at.write(self.there[-1])
        for text in self.there:
            at.read(text)
        at.late.advance(most=20)
        self.report(wait=rng.random() < 0.2)

    def report(self, *, wait: bool) -> None:
        report = self.at.mover.report(wait=wait)
        if report is None:
            return
        assert not report.failed
        assert not report.lost
        for ticket in report.arrived:
            part, text = self.flying.pop(ticket)
            text.readers -= 1
            assert self.at.holds(part), "reported before it was there"
            self.there.append(part)
            self.fetched += len(part.seeds)

    def take(self, count: int) -> list[int]:
        if count > len(self.free):
            return []
        slots = sorted(self.free)[:count]
        if self.at.rng.random() < 0.3:
            slots = self.at.rng.sample(sorted(self.free), count)
        self.free.difference_update(slots)
        return slots

    def name(self) -> bytes:
        self.names += 1
        return self.names.to_bytes(2, "big")


@pytest.mark.parametrize(("seed", "chunk_pages"), [(0, 1), (1, 1), (2, 2), (3, 5)])
def test_random_moves(seed: int, chunk_pages: int, device: Make) -> None:
    at = device(seed, 60, chunk_pages)
    load = Load(at)
    for _ in range(100):
        load.step()
    while load.flying:
        load.report(wait=True)
    at.late.drain()
    assert all(at.holds(text) for text in load.there)
    assert load.fetched > 1000
    assert at.carrier.stalls > 0, "some steps wanted more staging than there was"


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
