"""Random KV that is moved out of the slots of a device and back, for as long as steps write and read it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from pavane.kernels.batch import Int32, MoveIn, MoveOut, Moves
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE, SlotPages

LAYERS, SLOTS = 3, 400


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


class Pool:
    """The slots of a device. `launch` is how its steps run something."""

    def __init__(self, rng: random.Random, device: torch.device, launch: Callable[[Callable[[], None]], None]) -> None:
        self.rng = rng
        self.device = device
        self.launch = launch
        self.parts = DeviceKV(LAYERS, SLOTS, 2, 8, torch.bfloat16, device).parts()
        for part in self.parts:
            part.zero_()
        self.layout = SlotPages(self.parts)

    def rows(self, seeds: list[int]) -> list[torch.Tensor]:
        """The bits of tokens: [layers, tokens, words] for each part."""
        words = self.parts[0].shape[-1]
        shape = (len(seeds), len(self.parts), LAYERS, words)
        bits = np.stack([np.random.default_rng(seed).integers(-(2**31), 2**31, shape[1:]) for seed in seeds])
        return [part.transpose(0, 1) for part in torch.from_numpy(bits.astype(np.int32)).to(self.device).unbind(1)]

    def write(self, text: Text) -> None:
        """By a step."""
        where, rows = torch.tensor(text.slots, device=self.device), self.rows(text.seeds)

        def run() -> None:
            for part, row in zip(self.parts, rows, strict=True):
                part[:, 0, 0, where] = row

        self.launch(run)

    def holds(self, text: Text) -> bool:
        """Now."""
        where = torch.tensor(text.slots, device=self.device)
        there = (part[:, 0, 0, where] for part in self.parts)
        return all(torch.equal(a, b) for a, b in zip(there, self.rows(text.seeds), strict=True))

    def read(self, text: Text) -> None:
        """By a step. What is not there then is an error of the device."""

        def run() -> None:
            assert self.holds(text), "a step read what is not there"

        self.launch(run)


class Load:
    """Random texts that are written, read, moved out and back and dropped, by the rules of the scheduler: what a step
    takes over may have gone out in that very step, and what comes in is read after it was reported."""

    def __init__(self, at: Pool, mover: Mover, *, reads: bool = True) -> None:
        self.at = at
        self.mover = mover
        self.reads = reads
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
        room = self.mover.tier.capacity // self.mover.tier.page_bytes - sum(text.pages for text in self.kept)
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
        self.mover.begin(Moves(tuple(text.key for text in drops), tuple(out), tuple(back)))
        for _ in range(rng.randint(0, 4)):
            slots = self.take(rng.randint(1, 50))
            if slots:
                self.there.append(Text(self.name(), [rng.randrange(2**31) for _ in slots], slots))
                at.write(self.there[-1])
        for text in self.there if self.reads else ():
            at.read(text)

    def report(self, *, wait: bool) -> None:
        report = self.mover.report(wait=wait)
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
