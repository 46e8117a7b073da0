"""Which steps begin before the one before is committed, and what that costs those that wait."""

from __future__ import annotations

import pytest
from support.fingerprint import FingerprintOracle, FingerprintRunner
from support.harness import Harness, decode, prefill

from pavane.kernels.batch import Batch
from pavane.scheduler import steps
from pavane.scheduler.encode import RUN
from pavane.scheduler.spec import CallSpec, State


class Watched(FingerprintRunner):
    """Keeps its batches."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.batches: list[Batch] = []

    def execute(self, batch: Batch):  # type: ignore[no-untyped-def]
        self.batches.append(batch)
        return super().execute(batch)


def harness(*, eager: bool, slots: int = 1000, running: int = 3) -> Harness:
    return Harness(Watched(slots), slots, max_running=running, ahead=True, eager=eager)


def told(h: Harness, calls: list[CallSpec]) -> None:
    oracle = FingerprintOracle({call.id: call for call in calls}, None)
    for call in calls:
        assert list(h.outcome(call.id).tokens) == oracle[call.id].tokens


def answers(count: int, tokens: int, *parents: str, name: str = "a") -> list[CallSpec]:
    return [decode(f"{name}{i}", [5, 6 + i], *parents, max_tokens=tokens, seed=i) for i in range(count)]


@pytest.mark.parametrize("eager", [False, True])
def test_while_calls_wait_that_have_no_place(eager: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Most steps begin ahead all the same, and now and then one does not, so that the order has its say."""
    monkeypatch.setattr(steps, "MOST_IN_A_ROW", 4)
    h = harness(eager=eager)
    calls = answers(5, 30)
    h.submit(*calls)
    for _ in range(20):
        h.step()
    assert h.scheduler.counts[State.QUEUED] == 2
    assert h.steps_ahead == (16 if eager else 0)
    h.run()
    told(h, calls)


def test_a_place_is_taken_one_step_later_than_it_could_be() -> None:
    started = []
    for eager in (False, True):
        h = harness(eager=eager)
        calls = answers(4, 40)
        h.submit(*calls)
        for _ in range(6):
            h.step()
        h.scheduler.cancel("", "w", ["a1"], False, h.now)
        steps_until = 0
        while h.scheduler.counts[State.QUEUED]:
            h.step()
            steps_until += 1
        started.append(steps_until)
        h.run()
        told(h, [call for call in calls if call.id != "a1"])
    assert started[1] == started[0] + 1


def test_one_that_comes_while_there_is_room_waits_for_no_more_than_what_runs() -> None:
    h = harness(eager=True)
    first = answers(2, 40)
    h.submit(*first)
    for _ in range(5):
        h.step()
    late = answers(1, 3, name="b")
    h.submit(*late)
    h.step()  # was begun ahead
    h.step()
    assert h.scheduler.counts[State.QUEUED] == 0
    h.run()
    told(h, first + late)


@pytest.mark.parametrize("eager", [False, True])
def test_decodes_take_their_next_slots_ahead(eager: bool) -> None:
    """Those of 3 calls that began apart are used up in steps of their own."""
    h = harness(eager=eager)
    calls = answers(3, 3 * RUN)
    for call in calls:
        h.submit(call)
        for _ in range(5):
            h.step()
    h.steps_ahead = 0
    for _ in range(2 * RUN):
        h.step()
    assert h.steps_ahead == 2 * RUN
    h.run()
    told(h, calls)


def test_no_kv_is_sent_to_the_tier_below_for_slots_taken_ahead() -> None:
    runner = Watched(60)
    runner.add_tier(0, faulty=False)
    h = Harness(runner, 60, ahead=True, eager=True, host_pages=8)
    old = [prefill(name, range(first, first + 20)) for name, first in (("x", 3), ("y", 40))]
    calls = [*old, *answers(1, 40), decode("reader", [9], "x", "y", max_tokens=3)]
    for call in calls:
        h.submit(call)
        h.run()
    batches = runner.batches
    assert any(batch.moves is not None and batch.moves.out for batch in batches)
    assert any(batch.moves is not None and batch.moves.back for batch in batches), "what is read has come from there"
    told(h, calls)


def test_after_a_call_has_ended_the_others_go_on_ahead() -> None:
    """Its row was discarded: samples have the numbers that they have in the step that ran."""
    h = harness(eager=True)
    calls = answers(3, 40)
    h.submit(*calls)
    for _ in range(6):
        h.step()
    h.scheduler.cancel("", "w", ["a0"], False, h.now)
    before = h.steps_ahead
    for _ in range(4):
        h.step()
    assert h.steps_ahead == before + 4
    previous = [batch.previous.tolist() for batch in h.runner.batches[-4:]]  # type: ignore[attr-defined]
    assert [1, 2] in previous
    h.run()
    told(h, calls[1:])


def test_calls_that_begin_and_end_beside_others() -> None:
    """A prompt that is encoded in the step, and a message that ends with it, keep the next one from nothing."""
    h = harness(eager=True, running=8)
    calls = answers(2, 40)
    h.submit(*calls)
    for _ in range(4):
        h.step()
    more = [prefill("p", range(3, 30)), *answers(1, 40, "p", name="b")]
    h.submit(*more)
    before = len(h.runner.batches)  # type: ignore[attr-defined]
    for _ in range(5):
        h.step()
    batches = h.runner.batches[before:]  # type: ignore[attr-defined]
    (prompt,) = [i for i, batch in enumerate(batches) if batch.n_rows > 3]
    assert batches[prompt + 1].follows
    assert batches[prompt + 1].n_rows == 3
    h.run()
    told(h, calls + more)
