"""Batches of steps: what is read together, by whom."""

from __future__ import annotations

import pytest
from support.fingerprint import FingerprintOracle, FingerprintRunner
from support.harness import Harness, decode, prefill

from pavane.scheduler.plan import MERGE_COST
from pavane.scheduler.spec import CallSpec, State


def check(h: Harness, *calls: CallSpec) -> None:
    """Every message is what its call says."""
    oracle = FingerprintOracle({call.id: call for call in calls}, None)
    for call in calls:
        outcome = h.outcome(call.id)
        assert outcome.state is State.DONE
        assert list(outcome.tokens) == oracle[call.id].tokens


@pytest.mark.parametrize("before", [(), ("x",)])
def test_what_is_encoded_and_shared_in_one_step(before: tuple[str, ...]) -> None:
    """The rows of a long text see what stands before each of them, though others read all of it in the same step: those
    that continue its path, or see it moved."""
    text = prefill("text", [3 + i % 90 for i in range(MERGE_COST + 20)])
    readers = [decode(f"d{i}", [5, 6 + i], *before, "text", max_tokens=3) for i in range(3)]
    h = Harness(FingerprintRunner(1000), 1000, max_model_len=1000, token_budget=600)
    calls = [prefill("x", [4, 5]), text, *readers]
    h.submit(*calls)
    h.run()
    check(h, *calls)
