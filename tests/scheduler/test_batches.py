"""Batches of steps: what is read together, by whom, and that what is kept from step to step is still true."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from support.fingerprint import FingerprintOracle, FingerprintRunner
from support.harness import Harness, decode, prefill

from pavane.scheduler import layout, reads
from pavane.scheduler.batches import BatchMaker
from pavane.scheduler.plan import Item
from pavane.scheduler.reads import Reads
from pavane.scheduler.spec import CallSpec, ParentSpec, State


def check(h: Harness, *calls: CallSpec) -> None:
    """Every message is what its call says."""
    oracle = FingerprintOracle({call.id: call for call in calls}, None)
    for call in calls:
        outcome = h.outcome(call.id)
        if outcome.state is State.DONE:
            assert list(outcome.tokens) == oracle[call.id].tokens


@pytest.mark.parametrize("before", [(), ("x",)])
def test_what_is_encoded_and_shared_in_one_step(before: tuple[str, ...]) -> None:
    """The rows of a long text see what stands before each of them, though others read all of it in the same step: those
    that continue its path, or see it moved."""
    text = prefill("text", [3 + i % 90 for i in range(layout.MERGE_COST + 20)])
    readers = [decode(f"d{i}", [5, 6 + i], *before, "text", max_tokens=3) for i in range(3)]
    h = Harness(FingerprintRunner(1000), 1000, max_model_len=1000, token_budget=600)
    calls = [prefill("x", [4, 5]), text, *readers]
    h.submit(*calls)
    h.run()
    assert {h.outcome(call.id).state for call in calls} == {State.DONE}
    check(h, *calls)


@pytest.mark.parametrize(("header", "segments"), [(reads.HEADER + 1, 3), (reads.HEADER + 2, 4)])
def test_a_short_header_is_laid_out_with_each_answer_a_long_one_once(
    header: int, segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last token of a header is each answer's own."""
    monkeypatch.setattr(layout, "MERGE_COST", 12)
    h = Harness(FingerprintRunner(1000), 1000)
    calls = [decode(f"d{i}", [3 + i for i in range(header)], max_tokens=3, seed=i) for i in range(3)]
    h.submit(*calls)
    watch = Watch(monkeypatch)
    for step in range(2):
        batch = h.scheduler.schedule(float(step))
        assert batch is not None
        h.check_layout(batch)
        assert batch.n_segments == segments
        h.scheduler.commit(h.runner.execute(batch), float(step))
    short = header <= reads.HEADER + 1
    assert watch.seen["longer path"] == (0 if short else 1), "what the one that encoded it reads is found again"
    h.run()
    check(h, *calls)


class Watch:
    """Counts what happened between two steps to what an item reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: Counter[str] = Counter()
        make, hold = BatchMaker._laid_out, Reads.hold

        def counted(reads: Reads, item: Item) -> bool:
            if reads.needs is not item.call.needs:
                self.seen["stopped and begun again"] += 1
            elif reads.splits != item.tail.context.splits:
                self.seen["cut"] += 1
            elif not hold(reads, item):
                self.seen["longer path"] += 1
            else:
                self.seen["kept"] += 1
            return hold(reads, item)

        def laid_out(maker: BatchMaker, step: object) -> object:
            self.seen["laid out"] += 1
            batch = make(maker, step)  # type: ignore[arg-type]
            whole = batch.own == 0
            alone = batch.row_indptr[1:] - batch.row_indptr[:-1] == 1
            self.seen["read together"] += int((whole & ~alone).sum())
            return batch

        monkeypatch.setattr(Reads, "hold", counted)
        monkeypatch.setattr(BatchMaker, "_laid_out", laid_out)


def test_random_begins_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many calls at once, of which some begin and end in nearly every step; each batch is compared with one that is
    laid out from nothing (Harness.check_layout), and each message with the oracle."""
    watch = Watch(monkeypatch)
    monkeypatch.setattr(layout, "MERGE_COST", 12)
    preempted = 0
    for seed in range(20):
        monkeypatch.setattr(reads, "HEADER", (2, 32)[seed % 2])
        preempted += _begin_and_end(seed)
    assert preempted > 20
    least = {"laid out": 1000, "kept": 5000, "read together": 2000, "cut": 100, "longer path": 10}
    least["stopped and begun again"] = 50
    assert all(watch.seen[name] >= count for name, count in least.items()), watch.seen


def _begin_and_end(seed: int) -> int:
    """Returns how often a call was preempted."""
    rng = random.Random(seed)
    slots = rng.choice([150, 300, 2000])
    runner = FingerprintRunner(slots)
    h = Harness(
        runner,
        slots,
        max_model_len=400,
        max_running=rng.choice([6, 16]),
        token_budget=rng.choice([12, 40, 200]),
        ahead=rng.random() < 0.5,
        batch_invariant=rng.random() < 0.15,
    )
    calls: list[CallSpec] = []
    for _ in range(150):
        while len(calls) < 12 or (len(calls) < 100 and h.scheduler.graph.unfinished < 20 and rng.random() < 0.6):
            calls.append(_call(rng, calls))
            h.submit(calls[-1])
        if rng.random() < 0.05 and h.scheduler.running:
            victim = rng.choice(list(h.scheduler.running))
            h.scheduler.cancel("", "w", [victim.id], False, h.now)
        if rng.random() < 0.1:
            h.cache.evict(rng.choice([5, 1000]))
        runner.fail_next = not h.ahead and rng.random() < 0.03
        h.audit()
        h.step()
    runner.fail_next = False
    h.run()
    check(h, *calls)
    return sum(outcome.receipt.preemptions for outcome in h.ended.values())


def _call(rng: random.Random, calls: list[CallSpec]) -> CallSpec:
    name = f"c{len(calls)}"
    text = [rng.choice([3, 4]) for _ in range(rng.choice([1, 3, 8]))] + rng.choices(range(3, 90), k=rng.randint(0, 6))
    texts = [call.id for call in calls if call.decode is None]
    if len(texts) < 5 or rng.random() < 0.2:
        return prefill(name, text, *([texts[0]] if texts and rng.random() < 0.5 else []))
    seen = sorted(rng.sample(texts[:8], rng.choice([1, 2, 4])), key=texts.index)
    if rng.random() < 0.5:
        rng.shuffle(seen)
    parents = [ParentSpec(parent, exact=rng.random() < 0.15) for parent in seen]
    answer = decode(name, text[:5], *parents, seed=rng.randrange(9), max_tokens=rng.choice([1, 3, 8, 40]))
    return replace(answer, max_attempts=9)
