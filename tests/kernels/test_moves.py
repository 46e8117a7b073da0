"""Moves between the slots and a tier: in which order, in which thread, and what is told of them."""

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
import torch

from pavane.kernels.batch import Int32, MoveIn, MoveOut, Moves
from pavane.kernels.carrier import Departure, Landed, Leaving, Mark
from pavane.kernels.host import Found, MissingEntryError, TierFullError
from pavane.kernels.host_mover import host_mover
from pavane.kernels.kv import KVStore
from pavane.kernels.moves import Mover
from pavane.kernels.pages import PAGE, SlotPages

BROKEN = 999  # a slot that the device fails at


def run(start: int, length: int) -> Int32:
    return np.array([(start, length)], dtype=np.int32)


class NotedCarrier:
    """Notes what it is asked for, and is the tier as well; what comes in waits for `gate`, what goes out is there at
    once but for what `held` holds up; keys that begin with x fail."""

    page_bytes = capacity = used = stalls = 0

    def __init__(self) -> None:
        self.asked: list[tuple[str, bytes, bool]] = []
        self.gate, self.held = threading.Event(), threading.Event()
        self.gate.set()
        self.held.set()
        self.waiting = False
        self._runner = threading.current_thread()

    def _note(self, verb: str, key: bytes) -> None:
        self.asked.append((verb, key, threading.current_thread() is self._runner))

    def reserve(self, key: bytes, tokens: int) -> Sequence[torch.Tensor]:
        self._note("reserve", key)
        if key.startswith(b"x"):
            raise TierFullError(f"no room for {key.hex()}")
        return [torch.zeros((-(-tokens // PAGE), 1), dtype=torch.int32)]

    def store(self, key: bytes, sums: Sequence[int]) -> None:
        assert list(sums) == [77]
        self._note("store", key)

    def find(self, key: bytes, first: int, count: int) -> Found:
        self.waiting = True
        assert self.gate.wait(10)
        self._note("find", key)
        if key.startswith(b"x"):
            raise MissingEntryError(f"{key.hex()} is not there")
        return Found(key, first, [], [])

    def drop(self, key: bytes) -> None:
        self._note("drop", key)

    def __contains__(self, key: bytes) -> bool:
        return True

    def out(self, leaving: Sequence[Leaving]) -> Departure:
        self.asked.append(("out", b"", threading.current_thread() is self._runner))
        if any(one.extents[0, 0] == BROKEN for one in leaving):
            raise RuntimeError("the device is gone")
        return NotedDeparture(self.held, len(leaving))

    def mark(self) -> Mark:
        return NotedDeparture(self.gate, 0)

    def back(self, found: Found, extents: Int32, after: Mark) -> float:
        self._note("back", found.key)
        return 0.25


class NotedDeparture(NamedTuple):
    gate: threading.Event
    entries: int

    def done(self) -> bool:
        return self.gate.is_set()

    def wait(self) -> Landed:
        assert self.gate.wait(10)
        return Landed([[77]] * self.entries, 0.5)


@pytest.fixture
def noted() -> Iterator[tuple[Mover, NotedCarrier]]:
    carrier = NotedCarrier()
    mover = Mover(carrier, carrier)
    yield mover, carrier
    carrier.gate.set()
    mover.stop()


def test_drops_then_out_in_this_thread_then_in_beside_it(noted: tuple[Mover, NotedCarrier]) -> None:
    mover, carrier = noted
    moves = Moves((b"a",), (MoveOut(b"b", run(0, 3)), MoveOut(b"c", run(8, 4))), (MoveIn(7, b"b", 0, run(0, 2)),))
    mover.begin(moves)
    report = mover.report(wait=True)
    assert carrier.asked == [
        ("drop", b"a", True), ("reserve", b"b", True), ("reserve", b"c", True), ("out", b"", True),
        ("store", b"b", True), ("store", b"c", True), ("find", b"b", False), ("back", b"b", False),
    ]  # fmt: skip
    assert report is not None
    assert (report.arrived, report.failed, report.lost) == ((7,), (), ())
    assert (report.out_tokens, report.out_s, report.in_tokens, report.in_s) == (7, 0.5, 2, 0.25)


def test_what_is_under_way_holds_up_nobody(noted: tuple[Mover, NotedCarrier]) -> None:
    mover, carrier = noted
    carrier.gate.clear()
    mover.begin(Moves(back=(MoveIn(1, b"a", 0, run(0, 2)), MoveIn(2, b"b", 0, run(2, 2)))))
    assert mover.report(wait=False) is None
    mover.begin(None)
    carrier.held.clear()
    mover.begin(Moves(out=(MoveOut(b"c", run(9, 1)),)))
    assert mover.report(wait=False) is None
    carrier.held.set()
    report = mover.report(wait=False)
    assert report is not None
    assert (report.arrived, report.out_tokens, report.in_tokens) == ((), 1, 0)
    carrier.gate.set()
    arrived: set[int] = set()
    while len(arrived) < 2:
        report = mover.report(wait=True)
        assert report is not None
        assert (report.out_tokens, report.out_s, report.lost) == (0, 0.0, ())
        assert not arrived & set(report.arrived)
        arrived |= set(report.arrived)
    assert arrived == {1, 2}
    assert mover.report(wait=True) is None, "with nothing under way there is nothing to wait for"


def test_what_cannot_be_kept_or_fetched_is_told_and_logged(
    noted: tuple[Mover, NotedCarrier], caplog: pytest.LogCaptureFixture
) -> None:
    mover, carrier = noted
    mover.begin(
        Moves(out=(MoveOut(b"xa", run(0, 3)), MoveOut(b"b", run(3, 3))), back=(MoveIn(5, b"xc", 0, run(9, 2)),))
    )
    report = mover.report(wait=True)
    assert report is not None
    assert (report.arrived, report.failed, report.lost) == ((), (5,), (b"xa",))
    assert (report.out_tokens, report.in_tokens) == (3, 0)
    mover.begin(Moves(out=(MoveOut(b"d", run(0, 3)), MoveOut(b"e", run(BROKEN, 3)))))
    assert carrier.asked[-2:] == [("drop", b"d", True), ("drop", b"e", True)]
    report = mover.report(wait=False)
    assert report is not None
    assert (report.lost, report.out_tokens) == ((b"d", b"e"), 0)
    assert [record.message for record in caplog.records] == [
        "KV could not be kept, and will be computed again: no room for 7861",
        "KV could not be fetched, and will be computed again: 7863 is not there",
        "KV could not be kept, and will be computed again: the device is gone",
    ]


def test_what_is_dropped_on_its_way_out_is_not_stored(noted: tuple[Mover, NotedCarrier]) -> None:
    """Nor taken for what goes out under the same key after it."""
    mover, carrier = noted
    carrier.held.clear()
    mover.begin(Moves(out=(MoveOut(b"a", run(0, 3)), MoveOut(b"b", run(3, 3)))))
    carrier.held, first = threading.Event(), carrier.held
    mover.begin(Moves((b"a",), (MoveOut(b"a", run(6, 3)),)))
    first.set()
    report = mover.report(wait=False)
    assert report is not None
    assert report.out_tokens == 6
    assert [asked for asked in carrier.asked if asked[0] == "store"] == [("store", b"b", True)]
    carrier.held.set()
    mover.report(wait=False)
    assert carrier.asked[-1] == ("store", b"a", True)


def test_what_is_asked_back_on_its_way_out_waits_for_that(noted: tuple[Mover, NotedCarrier]) -> None:
    mover, carrier = noted
    carrier.held.clear()
    mover.begin(Moves(out=(MoveOut(b"a", run(0, 3)),), back=(MoveIn(1, b"a", 0, run(3, 3)),)))
    assert mover.report(wait=False) is None
    assert ("find", b"a", False) not in carrier.asked
    carrier.held.set()
    report = mover.report(wait=True)
    assert report is not None
    assert report.arrived == (1,)
    stored = next(i for i, asked in enumerate(carrier.asked) if asked[:2] == ("store", b"a"))
    assert carrier.asked[stored + 1 :] == [("find", b"a", False), ("back", b"a", False)]


def test_stopping_while_kv_comes_in_leaves_no_thread_and_nobody_waiting() -> None:
    carrier = NotedCarrier()
    mover = Mover(carrier, carrier)
    before = set(threading.enumerate())
    carrier.gate.clear()
    mover.begin(Moves(back=tuple(MoveIn(n, b"a", 0, run(2 * n, 2)) for n in range(4))))
    (transfer,) = set(threading.enumerate()) - before
    while transfer.is_alive() and not carrier.waiting:
        transfer.join(0.001)
    mover.stop()
    carrier.gate.set()
    transfer.join(10)
    assert not transfer.is_alive()
    report = mover.report(wait=True)
    assert report is not None
    assert (report.arrived, report.failed) == ((0,), (1, 2, 3))


def test_slots_are_free_for_others_when_their_kv_has_gone_out() -> None:
    """And what has gone out can come back in the same step, to other slots."""
    store = KVStore(2, 1, 3 * PAGE, 8)
    for part in store.parts():
        part.copy_(torch.arange(part.numel(), dtype=torch.int32).view(part.shape))
    before = [store.read(layer) for layer in range(2)]
    layout = SlotPages(store.parts())
    mover = host_mover(layout, 4 * layout.page_bytes)
    mover.begin(Moves(out=(MoveOut(b"a", run(2, 20)),), back=(MoveIn(1, b"a", 4, run(30, 10)),)))
    for part in store.parts():
        part[..., 2:22, :] = -1  # the step writes
    report = mover.report(wait=True)
    mover.stop()
    assert report is not None
    assert report.arrived == (1,)
    for layer in range(2):
        for now, then in zip(store.read(layer), before[layer], strict=True):
            assert torch.equal(now[:, 30:40], then[:, 6:16])
