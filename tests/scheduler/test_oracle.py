"""Random message graphs through scheduler, cache and torch backend, against the float64 oracle."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.graphs import graphs
from support.harness import BACKENDS, Harness, decode, prefill, tiny_runner
from support.oracle import GraphOracle
from support.tiny import tiny_config, tiny_weights

from pavane.models.reference import ReferenceModel
from pavane.scheduler.spec import CallSpec, ParentSpec, State

torch.set_num_threads(1)
CONFIG = tiny_config()
WEIGHTS = tiny_weights(CONFIG)
REFERENCE = ReferenceModel(CONFIG, WEIGHTS)


@given(
    calls=graphs(),
    backend=st.sampled_from(BACKENDS),
    bos=st.sampled_from([None, 0]),
    budget=st.sampled_from([3, 17, 200]),
    ahead=st.booleans(),
    data=st.data(),
)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs_equal_the_oracle(
    calls: list[CallSpec], backend: str, bos: int | None, budget: int, ahead: bool, data: st.DataObject
) -> None:
    runner = tiny_runner(CONFIG, WEIGHTS, 2000, backend=backend)
    harness = Harness(runner, 2000, bos_id=bos, token_budget=budget, ahead=ahead)
    for call in calls:
        harness.submit(call)
        if data.draw(st.integers(0, 3)) == 0:
            harness.step()
    harness.run()
    check(harness, calls, bos)


@given(
    calls=graphs(),
    backend=st.sampled_from(BACKENDS),
    bos=st.sampled_from([None, 0]),
    slots=st.integers(90, 260),
    budget=st.sampled_from([5, 64]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs_equal_the_oracle_when_the_pool_is_small(
    calls: list[CallSpec], backend: str, bos: int | None, slots: int, budget: int
) -> None:
    harness = Harness(tiny_runner(CONFIG, WEIGHTS, slots, backend=backend), slots, bos_id=bos, token_budget=budget)
    for call in calls:
        harness.submit(call)
    harness.run()
    check(harness, calls, bos)


def check(harness: Harness, calls: list[CallSpec], bos: int | None, reference: ReferenceModel = REFERENCE) -> None:
    oracle = GraphOracle(reference, bos)
    for call in calls:
        outcome = harness.outcome(call.id)
        if outcome.state is not State.DONE:
            assert outcome.failure is not None
            assert outcome.failure.reason in ("NEVER_FITS", "PARENT_FAILED")
            continue
        told = oracle.add(call)
        assert list(outcome.tokens) == told.tokens
        assert outcome.start == told.start
        receipt = outcome.receipt
        if call.decode is not None:
            got = torch.tensor(outcome.logprobs, dtype=torch.float64)
            assert (got - oracle.logprobs(call.id)).abs().max() < 1e-4
            visible = sum(len(oracle.messages[p.id].tokens) for p in call.parents) + len(call.tokens)
            assert receipt.in_place + receipt.repositioned + receipt.encoded == visible
            assert receipt.generated == len(call.decode.forced)
            assert receipt.trailer == 2
        assert min(receipt.in_place, receipt.repositioned, receipt.encoded, receipt.reencoded) >= 0


@pytest.mark.parametrize("bos", [None, 0])
def test_placements_at_both_ends_of_the_positions(bos: int | None) -> None:
    """What stands before its parents is read far behind: the farthest rotations that can be asked for."""
    far = CONFIG.max_position - 20
    calls = [
        prefill("p", [5, 6]),
        prefill("m", [7, 8, 9], ParentSpec("p", offset=far), start=0),
        prefill("n", [10, 11], ParentSpec("m", offset=far + 4), start=0),
        decode("d", [3], ParentSpec("n", offset=far), ParentSpec("m", offset=0), forced=(4, 5, 6), logprobs=True),
        decode("e", [3], ParentSpec("n", offset=far), start=0, forced=(4, 5, 6), logprobs=True),
    ]
    for backend in BACKENDS:
        harness = Harness(tiny_runner(CONFIG, WEIGHTS, 400, backend=backend), 400, bos_id=bos)
        harness.submit(*calls)
        harness.run()
        assert {harness.outcome(call.id).state for call in calls} == {State.DONE}
        check(harness, calls, bos)
