"""A real model whose evicted KV goes to host memory: the same answers to the bit, and less to encode."""

from collections.abc import Sequence
from concurrent.futures import wait

import pytest
import torch
from support.fingerprint import FingerprintOracle, FingerprintRunner
from support.harness import INVARIANT, Harness, decode, prefill, tiny_runner
from support.tiny import tiny_config, tiny_weights

from pavane.cache import Keep
from pavane.models.runner import ModelRunner
from pavane.scheduler.engine import Engine
from pavane.scheduler.spec import CallSpec, Outcome, State

CONFIG = tiny_config()
WEIGHTS = tiny_weights(CONFIG)
DOCUMENTS, ROUNDS = 12, 3
POOL = 290


def line(count: int, seed: int) -> list[int]:
    return torch.randint(3, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def load() -> list[CallSpec]:
    """Three times the pool: agents that come back to documents, in another order each time, with notes on them."""
    calls = [prefill(f"doc{i}", line(20 + 2 * i, i)) for i in range(DOCUMENTS)]
    for turn in range(ROUNDS):
        for i in range(DOCUMENTS):
            parents = [f"doc{i}", f"doc{(i + turn + 1) % DOCUMENTS}"][:: 1 if turn % 2 else -1]
            if turn:
                parents.append(f"note{turn - 1}.{i}")
            calls.append(decode(f"note{turn}.{i}", line(3, 100 + i), *parents, max_tokens=9, seed=i, logprobs=True))
    return calls


def served(backend: str, calls: Sequence[CallSpec], slots: int, pages: int, running: int) -> Harness:
    runner = tiny_runner(CONFIG, WEIGHTS, slots, batch_invariant=True, backend=backend, host_pages=pages)
    harness = Harness(
        runner, slots, bos_id=0, batch_invariant=True, max_running=running, host_pages=pages, ahead=running == 1
    )
    harness.submit(*calls)
    harness.run()
    return harness


def said(harness: Harness, calls: Sequence[CallSpec]) -> list[tuple[object, ...]]:
    outcomes: list[Outcome] = [harness.outcome(call.id) for call in calls]
    return [(o.id, o.state, o.tokens, o.logprobs) for o in outcomes]


@pytest.mark.parametrize("backend", INVARIANT)
def test_answers_do_not_depend_on_where_kv_was_meanwhile(backend: str) -> None:
    calls = load()
    expected = said(served(backend, calls, 3000, 0, 4), calls)
    work = {}
    for pages in (0, 12, 100):
        for running in (1, 4):
            harness = served(backend, calls, POOL, pages, running)
            assert said(harness, calls) == expected, (pages, running)
            receipts = [harness.outcome(call.id).receipt for call in calls]
            work[pages, running] = sum(receipt.reencoded for receipt in receipts)
            tier = harness.cache.tier
            assert tier is None or (tier.fetched_tokens > 0 and tier.failed == 0)
            assert sum(r.encoded for r in receipts) == sum(harness.outcome(call.id).receipt.encoded for call in calls)
    assert work[100, 1] == work[100, 4] == 0, "all of it found room below"
    assert work[0, 1] > work[12, 1] > 0
    assert work[0, 4] > 500


def test_corrupt_memory_costs_an_encoding_and_no_answer() -> None:
    calls = load()
    expected = said(served("torch", calls, 3000, 0, 4), calls)
    runner = tiny_runner(CONFIG, WEIGHTS, POOL, batch_invariant=True, host_pages=100)
    harness = Harness(runner, POOL, bos_id=0, batch_invariant=True, host_pages=100)
    harness.submit(*calls)
    flipped = 0
    while harness.step():
        if harness.cache.tier is not None and harness.cache.tier.kept_tokens > 100 * (flipped + 1):
            flipped += 1
            spoil(runner, flipped)
    assert said(harness, calls) == expected
    assert harness.cache.tier is not None
    assert harness.cache.tier.failed > 0
    assert sum(harness.outcome(call.id).receipt.reencoded for call in calls) > 0


def test_preempted_decodes_go_on_where_they_were() -> None:
    """All of them begin, but not all can end at once: those that give way lose their slots and encode nothing again."""
    calls = [decode(f"d{i}", line(9, 40 + i), max_tokens=90, seed=i, logprobs=True) for i in range(6)]
    expected = said(served("torch", calls, 3000, 0, 6), calls)
    for pages in (0, 200):
        harness = served("torch", calls, 330, pages, 6)
        assert said(harness, calls) == expected
        receipts = [harness.outcome(call.id).receipt for call in calls]
        assert sum(receipt.preemptions for receipt in receipts) > 0
        assert (sum(receipt.reencoded for receipt in receipts) == 0) == bool(pages)
        tier = harness.cache.tier
        assert tier is None or tier.fetched_tokens > 0


def fingerprinted(slots: int, running: int = 16) -> Harness:
    runner = FingerprintRunner(slots)
    runner.add_tier(0, faulty=False)
    return Harness(runner, slots, max_running=running, host_pages=99)


def test_a_call_that_goes_on_reads_where_its_parent_is_now() -> None:
    """It gave way after one step and goes on with the next; nothing was encoded in between."""
    calls = [prefill("p", line(9, 0)), decode("d", line(5, 1), "p", max_tokens=9, seed=3)]
    harness = fingerprinted(60)
    harness.submit(*calls)
    for _ in range(3):
        harness.step()
    (call,) = harness.scheduler.running
    cache = harness.cache
    assert call.span is not None
    cache.retain(call.span, Keep.PINNED)
    harness.scheduler._steps._preempt(call)
    assert cache.evict(9) == 9, "the parent alone"
    (before,) = cache.pool.allocate(9)  # somebody else has its slots now, and writes
    harness.check = False
    harness.step()
    assert isinstance(harness.runner, FingerprintRunner)
    harness.runner.known[before.start : before.end] = False
    harness.run()
    oracle = FingerprintOracle({call.id: call for call in calls}, None)
    assert list(harness.outcome("d").tokens) == oracle["d"].tokens
    assert cache.tier is not None
    assert cache.tier.fetched_tokens == 9


def test_what_the_next_call_reads_is_there_before_it_starts() -> None:
    harness = fingerprinted(100, running=1)
    harness.submit(prefill("p", line(30, 0)))
    harness.run()
    harness.cache.evict(100)
    harness.submit(decode("first", line(5, 1), max_tokens=20))
    harness.step()
    harness.submit(decode("second", line(5, 1), "p", max_tokens=2))
    tier = harness.cache.tier
    assert tier is not None
    for _ in range(10):
        harness.step()
    assert harness.outcome("second").state is State.QUEUED
    assert tier.fetched_tokens == 30
    harness.run()
    assert harness.outcome("second").receipt.encoded == 5
    assert tier.fetched_tokens == 30


async def test_the_engine_passes_on_what_has_arrived() -> None:
    calls = load()
    expected = said(served("torch", calls, 3000, 0, 4), calls)
    runner = tiny_runner(CONFIG, WEIGHTS, POOL, batch_invariant=True, host_pages=100)
    harness = Harness(runner, POOL, bos_id=0, batch_invariant=True, host_pages=100, max_running=4)
    rows: list[int] = []
    engine = Engine(harness.scheduler, runner, lambda events: None, lambda batch, *_: rows.append(batch.n_rows))
    engine.start()
    engine.submit("", "w", calls)
    assert await engine.drain(60.0)
    await engine.stop()
    harness.audit()
    assert said(harness, calls) == expected
    assert harness.cache.tier is not None
    assert harness.cache.tier.fetched_tokens > 0
    assert min(rows) > 0, "a step without rows is none to measure"


def spoil(runner: ModelRunner, seed: int) -> None:
    """Changes a bit of every page in host memory, while nothing is on its way: what was checked already would be copied
    as it is now."""
    assert runner.mover is not None
    wait(list(runner.mover._flying))
    memory = runner.mover.tier._memory  # type: ignore[attr-defined]
    memory[:, seed % memory.shape[1]] ^= 1 << (seed % 31)
