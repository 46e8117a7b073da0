"""Moves between the slots and a tier: in which order, in which thread, and what is told of them."""

import threading

import numpy as np
import pytest
import torch

from pavane.kernels.batch import Int32, MoveIn, MoveOut, Moves
from pavane.kernels.host import CorruptEntryError, HostTier, TierFullError
from pavane.kernels.kv import KVStore
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE, SlotPages


def run(start: int, length: int) -> Int32:
    return np.array([(start, length)], dtype=np.int32)


class NotedTier:
    """Notes what it is asked for; what comes in waits for `gate`; keys that begin with x fail."""

    page_bytes = capacity = used = 0

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes, bool]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._runner = threading.current_thread()

    def _note(self, verb: str, key: bytes) -> None:
        self.asked.append((verb, key, threading.current_thread() is self._runner))

    def put(self, key: bytes, extents: Int32) -> None:
        self._note("put", key)
        if key.startswith(b"x"):
            raise TierFullError(f"no room for {key.hex()}")

    def get(self, key: bytes, first: int, extents: Int32) -> None:
        assert self.gate.wait(10)
        self._note("get", key)
        if key.startswith(b"x"):
            raise CorruptEntryError(f"{key.hex()} is not what it was")

    def drop(self, key: bytes) -> None:
        self._note("drop", key)

    def __contains__(self, key: bytes) -> bool:
        return True


def test_drops_then_out_in_this_thread_then_in_beside_it() -> None:
    tier = NotedTier()
    mover = Mover(tier)
    moves = Moves((b"a",), (MoveOut(b"b", run(0, 3)), MoveOut(b"c", run(8, 4))), (MoveIn(7, b"b", 0, run(0, 2)),))
    mover.begin(moves)
    report = mover.report(wait=True)
    assert tier.asked == [("drop", b"a", True), ("put", b"b", True), ("put", b"c", True), ("get", b"b", False)]
    assert report is not None
    assert (report.arrived, report.failed, report.lost) == ((7,), (), ())
    assert (report.out_tokens, report.in_tokens) == (7, 2)
    assert report.out_s > 0
    assert report.in_s > 0


def test_what_is_under_way_holds_up_nobody() -> None:
    tier = NotedTier()
    mover = Mover(tier)
    tier.gate.clear()
    mover.begin(Moves(back=(MoveIn(1, b"a", 0, run(0, 2)), MoveIn(2, b"b", 0, run(2, 2)))))
    assert mover.report(wait=False) is None
    mover.begin(None)
    mover.begin(Moves(out=(MoveOut(b"c", run(9, 1)),)))
    report = mover.report(wait=False)
    assert report is not None
    assert (report.arrived, report.out_tokens, report.in_tokens) == ((), 1, 0)
    tier.gate.set()
    arrived: set[int] = set()
    while len(arrived) < 2:
        report = mover.report(wait=True)
        assert report is not None
        assert (report.out_tokens, report.out_s, report.lost) == (0, 0.0, ())
        assert not arrived & set(report.arrived)
        arrived |= set(report.arrived)
    assert arrived == {1, 2}
    assert mover.report(wait=True) is None, "with nothing under way there is nothing to wait for"


def test_what_cannot_be_kept_or_fetched_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mover = Mover(NotedTier())
    mover.begin(
        Moves(out=(MoveOut(b"xa", run(0, 3)), MoveOut(b"b", run(3, 3))), back=(MoveIn(5, b"xc", 0, run(9, 2)),))
    )
    report = mover.report(wait=True)
    assert report is not None
    assert (report.arrived, report.failed, report.lost) == ((), (5,), (b"xa",))
    assert (report.out_tokens, report.in_tokens) == (3, 0)
    assert [record.message for record in caplog.records] == [
        "KV could not be kept, and will be computed again: no room for 7861",
        "KV could not be fetched, and will be computed again: 7863 is not what it was",
    ]


def test_slots_are_free_for_others_when_their_kv_has_gone_out() -> None:
    """And what has gone out can come back in the same step, to other slots."""
    store = KVStore(2, 1, 3 * PAGE, 8)
    for part in store.parts():
        part.copy_(torch.arange(part.numel(), dtype=torch.int32).view(part.shape))
    before = [store.read(layer) for layer in range(2)]
    layout = SlotPages(store.parts())
    mover = Mover(HostTier(layout, 4 * layout.page_bytes))
    mover.begin(Moves(out=(MoveOut(b"a", run(2, 20)),), back=(MoveIn(1, b"a", 4, run(30, 10)),)))
    for part in store.parts():
        part[..., 2:22, :] = -1  # the step writes
    report = mover.report(wait=True)
    assert report is not None
    assert report.arrived == (1,)
    for layer in range(2):
        for now, then in zip(store.read(layer), before[layer], strict=True):
            assert torch.equal(now[:, 30:40], then[:, 6:16])
