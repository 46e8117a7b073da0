"""Where the attention of decodes goes, against the float64 oracle."""

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.attention import masses
from support.graphs import graphs
from support.harness import BACKENDS, INVARIANT, Harness, decode, prefill, tiny_runner
from support.oracle import GraphOracle
from support.tiny import tiny_config, tiny_weights

from pavane.models.reference import ReferenceModel
from pavane.scheduler.attention import BOS, OWN
from pavane.scheduler.spec import CallSpec, ParentSpec, State

torch.set_num_threads(1)
CONFIG = tiny_config(num_layers=2)
WEIGHTS = tiny_weights(CONFIG)
REFERENCE = ReferenceModel(CONFIG, WEIGHTS)


def asking(call: CallSpec) -> CallSpec:
    return call if call.decode is None else replace(call, decode=replace(call.decode, attention_mass=True))


def check(harness: Harness, calls: list[CallSpec], bos: int | None, atol: float = 1e-4) -> None:
    oracle = GraphOracle(REFERENCE, bos)
    for call in calls:
        outcome = harness.outcome(call.id)
        if outcome.state is not State.DONE:
            assert outcome.failure is not None
            assert outcome.failure.reason in ("NEVER_FITS", "PARENT_FAILED")
            continue
        if call.decode is None or not call.decode.attention_mass:
            oracle.add(call)
            assert outcome.receipt.attention_mass == ()
            continue
        wanted = masses(oracle, call)
        got = dict(outcome.receipt.attention_mass)
        assert [*got] == [*wanted]
        assert sum(got.values()) == pytest.approx(1, abs=1e-4)
        assert got == pytest.approx(wanted, abs=atol)
        if call.decode.logprobs and atol < 1e-3:
            near = torch.tensor(outcome.logprobs, dtype=torch.float64) - oracle.logprobs(call.id)
            assert near.abs().max() < 1e-4


@given(
    calls=graphs(),
    backend=st.sampled_from(BACKENDS),
    bos=st.sampled_from([None, 0]),
    budget=st.sampled_from([3, 17, 200]),
    slots=st.sampled_from([2000, 2000, 180]),
    invariant=st.booleans(),
    ahead=st.booleans(),
    data=st.data(),
)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs_equal_the_oracle(
    calls: list[CallSpec],
    backend: str,
    bos: int | None,
    budget: int,
    slots: int,
    invariant: bool,
    ahead: bool,
    data: st.DataObject,
) -> None:
    calls = [asking(call) if data.draw(st.integers(0, 3)) else call for call in calls]
    runner = tiny_runner(CONFIG, WEIGHTS, slots, backend=backend, batch_invariant=invariant)
    harness = Harness(runner, slots, bos_id=bos, token_budget=budget, ahead=ahead, batch_invariant=invariant)
    for call in calls:
        harness.submit(call)
        if data.draw(st.integers(0, 3)) == 0:
            harness.step()
    harness.run()
    check(harness, calls, bos)


@pytest.mark.parametrize("backend", INVARIANT)
@pytest.mark.parametrize("one_pass", [False, True])
def test_equal_parents_in_one_place_are_told_apart(backend: str, one_pass: bool) -> None:
    """Parents that are one run in the tree, twins, one that another begins with, the path that the call continues."""
    calls = [
        prefill("a", [5, 6, 7]),
        prefill("b", [8, 9], "a"),
        prefill("twin", [5, 6, 7]),
        prefill("c", [10, 11], "a", "b"),
        prefill("short", [5, 6]),
    ]
    fields = {"forced": (4, 5, 6, 7), "attention_mass": True, "one_pass": one_pass}
    calls += [
        decode("chat", [3], "a", "b", "c", **fields),
        decode("moved", [3], "c", "a", "b", **fields),
        decode("twins", [3], "a", ParentSpec("twin", offset=0), ParentSpec("b", offset=9), "c", **fields),
        decode("exact", [3, 12], "a", ParentSpec("c", exact=True), ParentSpec("b", exact=True), **fields),
        decode("within", [3], "short", ParentSpec("a", offset=0), **fields),
        decode("alone", [3], **fields),
    ]
    for bos in (None, 0):
        harness = Harness(tiny_runner(CONFIG, WEIGHTS, 400, backend=backend), 400, bos_id=bos, token_budget=7)
        harness.submit(*calls)
        harness.run()
        check(harness, calls, bos, 1e-4 if backend != "decoder" else 0.03)
        alone = dict(harness.outcome("alone").receipt.attention_mass)
        assert [*alone] == ([OWN] if bos is None else [BOS, OWN])
        twins = dict(harness.outcome("twins").receipt.attention_mass)
        assert twins["a"] == pytest.approx(twins["twin"], abs=1e-6)


def test_only_who_asks_pays() -> None:
    """A call that asks is laid out apart; those beside it read together as before."""
    harness = Harness(tiny_runner(CONFIG, WEIGHTS, 2000), 2000)
    harness.submit(prefill("long", [5] * 400), *(prefill(f"p{i}", [6, 7]) for i in range(3)))
    harness.run()
    parents = ["long", "p0", "p1", "p2"]
    plain = [decode(f"d{i}", [3], *parents, forced=(4,) * 6, logprobs=1) for i in range(3)]
    harness.submit(*plain, asking(decode("asks", [3], *parents, forced=(4,) * 6, logprobs=1)))
    sizes = set()
    for _ in range(4):
        batch = harness.scheduler.schedule(harness.now)
        assert batch is not None
        sizes.add(batch.n_segments)
        assert batch.watched is not None
        assert len(batch.watched) == 1
        harness.scheduler.commit(harness.runner.execute(batch), harness.now)
    # Three calls read `long` together, and the other parents, which are one encoding moved by three distances, and each
    # its own tokens; the fourth reads four parents and its own.
    assert sizes == {1 + 1 + 3 + 4 + 1}
    harness.run()
    outcomes = [harness.outcome(f"d{i}") for i in range(3)]
    for outcome in outcomes:
        assert outcome.receipt.attention_mass == ()
        assert outcome.logprobs == pytest.approx(harness.outcome("asks").logprobs, abs=1e-5)
    assert dict(harness.outcome("asks").receipt.attention_mass).keys() == {*parents, OWN}


def test_sampled_tokens_and_what_is_cancelled() -> None:
    harness = Harness(tiny_runner(CONFIG, WEIGHTS, 200), 200)
    harness.submit(
        prefill("a", [5, 6, 7]),
        decode("d", [3], "a", max_tokens=9, attention_mass=True, seed=3),
        decode("e", [3], "a", max_tokens=50, attention_mass=True, seed=3),
        decode("never", [3], "e", max_tokens=5, attention_mass=True),
    )
    for _ in range(14):
        harness.step()
    harness.scheduler.cancel("", "w", ["e"], True, harness.now)
    harness.run()
    tokens = harness.outcome("d").tokens
    forced = decode("d", [3], "a", forced=tokens[1:10], attention_mass=True)
    oracle = GraphOracle(REFERENCE)
    oracle.add(prefill("a", [5, 6, 7]))
    assert dict(harness.outcome("d").receipt.attention_mass) == pytest.approx(masses(oracle, forced), abs=1e-4)
    assert sum(share for _, share in harness.outcome("e").receipt.attention_mass) == pytest.approx(1, abs=1e-4)
    assert harness.outcome("never").receipt.attention_mass == ()
