"""A tier below the slots of a FingerprintRunner: what comes in lands some steps later, or not at all."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pavane.cache import GraphCache
from pavane.kernels.batch import Int32, MoveIn, MoveReport, Moves


@dataclass
class Slots:
    """What lies in each slot, and whether anything does."""

    keys: npt.NDArray[np.uint64]
    at: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]


class FakeTier:
    """Some of what is to go out is lost, and some of what is to come in fails, where it is `faulty`."""

    def __init__(self, slots: Slots, seed: int = 0, *, faulty: bool = False) -> None:
        self.slots = slots
        self.entries: dict[bytes, tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]] = {}
        self.landed = self.failed = self.lost = 0
        self._rng = random.Random(seed)
        self._faulty = faulty
        self._flying: list[MoveIn] = []
        self._lost: list[bytes] = []
        self._gone: set[bytes] = set()
        self._out = 0

    def begin(self, moves: Moves | None) -> None:
        if moves is None:
            return
        slots = self.slots
        for key in moves.drops:
            assert key in self.entries or key in self._gone, "there is nothing to drop"
            self.entries.pop(key, None)
        for key, extents in moves.out:
            taken = _expand(extents)
            assert slots.known[taken].all(), "slots go out that nobody has written"
            assert key not in self.entries, "the same goes out twice"
            if self._faulty and self._rng.random() < 0.1:
                self._lost.append(key)
                self._gone.add(key)
                self.lost += 1
                continue
            self.entries[key] = slots.keys[taken].copy(), slots.at[taken].copy()
            self._out += len(taken)
        for coming in moves.back:
            slots.known[_expand(coming.extents)] = False
            self._flying.append(coming)

    def report(self, *, wait: bool) -> MoveReport | None:
        rng, arrived, failed, tokens = self._rng, [], [], 0
        count = rng.randint(int(wait and bool(self._flying)), len(self._flying))
        for coming in rng.sample(self._flying, count):
            self._flying.remove(coming)
            entry = self.entries.get(coming.key)
            assert entry is not None or self._faulty, "nothing like that has gone out"
            if entry is None or (self._faulty and rng.random() < 0.1):
                failed.append(coming.ticket)
                continue
            slots = _expand(coming.extents)
            assert not self.slots.known[slots].any(), "somebody wrote where KV was coming"
            part = slice(coming.first, coming.first + len(slots))
            self.slots.keys[slots], self.slots.at[slots] = entry[0][part], entry[1][part]
            self.slots.known[slots] = True
            arrived.append(coming.ticket)
            tokens += len(slots)
        self.landed += len(arrived)
        self.failed += len(failed)
        if not (arrived or failed or self._lost or self._out):
            return None
        report = MoveReport(tuple(arrived), tuple(failed), tuple(self._lost), self._out, 1e-9, tokens, 1e-9)
        self._lost, self._out = [], 0
        return report


def empty(cache: GraphCache) -> None:
    """Drops all that the tier of `cache` holds."""
    assert cache.tier is not None
    assert not cache.tier.flying
    while cache.tier.entries:
        cache.forget(next(iter(cache.tier.entries.values())))


def _expand(extents: Int32) -> npt.NDArray[np.int64]:
    return np.concatenate([np.arange(start, start + length, dtype=np.int64) for start, length in extents.tolist()])
