"""Cases worked out by hand, on tokens without a model: short verbs for tests that go through calls one by one."""

from __future__ import annotations

from pavane.scheduler.spec import CallSpec, Outcome, ParentSpec, Receipt
from support.fingerprint import FingerprintOracle, FingerprintRunner
from support.harness import Harness

A, B, C = [3, 4, 5], [6, 7], [8, 9, 10, 11]


def exact(*ids: str) -> list[ParentSpec]:
    return [ParentSpec(i, exact=True) for i in ids]


def harness(*, slots: int = 200, budget: int = 64, bos: int | None = None, running: int = 16) -> Harness:
    return Harness(FingerprintRunner(slots), slots, token_budget=budget, bos_id=bos, max_running=running)


def steps(h: Harness) -> int:
    before = h.runner.steps  # type: ignore[attr-defined]
    h.run()
    return int(h.runner.steps - before)  # type: ignore[attr-defined]


def rows(h: Harness) -> int:
    return int(h.runner.rows)  # type: ignore[attr-defined]


def cost(receipt: Receipt) -> tuple[int, int, int, int]:
    return receipt.in_place, receipt.repositioned, receipt.encoded, receipt.reencoded


def run(h: Harness, *specs: CallSpec) -> Outcome:
    h.submit(*specs)
    h.run()
    return h.outcome(specs[-1].id)


def reason(outcome: Outcome) -> str | None:
    return outcome.failure.reason if outcome.failure is not None else None


def tokens_of(h: Harness, *specs: CallSpec) -> list[list[int]]:
    oracle = FingerprintOracle({spec.id: spec for spec in specs}, h.bos_id)
    return [oracle[spec.id].tokens for spec in specs]
