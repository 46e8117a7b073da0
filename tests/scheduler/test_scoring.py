"""Scores against the float64 oracle, and what they leave behind: nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from support.graphs import TOKENS, graphs
from support.harness import BACKENDS, Harness, decode, digest, prefill, tiny_runner
from support.oracle import GraphOracle
from support.scoring import check_score
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.batch import Batch, StepResult
from pavane.models.reference import ReferenceModel
from pavane.scheduler.errors import RequestError
from pavane.scheduler.scoring import Score, ScoreSpec
from pavane.scheduler.spec import CallSpec, Failure, GroupSpec, ParentSpec, Receipt, Retention, State

torch.set_num_threads(1)
CONFIG = tiny_config()
WEIGHTS = tiny_weights(CONFIG)
REFERENCE = ReferenceModel(CONFIG, WEIGHTS)
FORCED = (5, 9, 4, 7)


def harness(slots: int = 600, **fields: object) -> Harness:
    return Harness(tiny_runner(CONFIG, WEIGHTS, slots), slots, **fields)  # type: ignore[arg-type]


@given(
    calls=graphs(),
    forced=TOKENS,
    backend=st.sampled_from(BACKENDS),
    bos=st.sampled_from([None, 0]),
    budget=st.sampled_from([3, 17, 200]),
    against_exact=st.booleans(),
    ahead=st.booleans(),
    data=st.data(),
)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_scores_of_random_graphs_equal_the_oracle(
    calls: list[CallSpec],
    forced: list[int],
    backend: str,
    bos: int | None,
    budget: int,
    against_exact: bool,
    ahead: bool,
    data: st.DataObject,
) -> None:
    decodes = [call for call in calls if call.decode is not None]
    assume(decodes)
    runner = tiny_runner(CONFIG, WEIGHTS, 2000, backend=backend)
    h = Harness(runner, 2000, bos_id=bos, token_budget=budget, ahead=ahead)
    asked = []
    for call in calls:  # parents may be unfinished
        h.submit(call)
        if call.decode is not None:
            spec = replace(call, decode=replace(call.decode, forced=tuple(forced)))
            asked.append((spec, h.score(spec, against_exact=against_exact, per_parent=True)))
        if data.draw(st.integers(0, 3)) == 0:
            h.step()
    h.run()
    assert all(h.outcome(call.id).state is State.DONE for call in calls)
    oracle = GraphOracle(REFERENCE, bos)
    for call in calls:
        oracle.add(call)
    for spec, scores in asked:
        (score,) = scores
        assert score.failure is None
        check_score(score, oracle, spec, against_exact, 1e-4)


def one(scores: list[Score]) -> Score:
    (score,) = scores
    return score


def at_rest(h: Harness, messages: set[str], calls: int) -> None:
    """Nothing of a score is left: no message, no lock, no slot that is kept, no reader."""
    workflow = h.scheduler.graph.workflow("", "w")
    assert set(workflow.calls) == set(workflow.digests) == messages
    assert (workflow.unfinished, workflow.tenant.unfinished, h.scheduler.graph.unfinished) == (0, 0, 0)
    assert workflow.tenant.stored_tokens == sum(len(call.tokens) for call in workflow.calls.values())
    assert all(call.unfinished_readers == 0 and not call.children for call in workflow.calls.values())
    assert h.scheduler.take_events() == {}
    assert len([name for name in h.ended if name.startswith("score ")]) == calls
    h.audit()
    h.scheduler.release("", "w", sorted(messages), h.now)
    h.cache.evict(h.slots)
    assert h.cache.pool.free == h.slots
    assert h.cache.contexts == {}


GRAPH = (prefill("a", [5, 6, 7]), prefill("b", [8, 9], "a"), prefill("c", [10, 11, 12]))


def test_an_exact_call_against_exact_is_the_same_and_takes_one_pass() -> None:
    h = harness()
    h.submit(*GRAPH)
    edges = [ParentSpec(name, exact=True) for name in "abc"]
    scores = h.score(decode("d", [3], *edges, forced=FORCED), per_parent=True)
    h.run()
    score = one(scores)
    assert score.kl == (0.0,) * 4
    assert score.logprobs == score.against_logprobs
    assert score.top1_agreement == 1.0
    assert score.kl_by_parent == ()
    at_rest(h, {"a", "b", "c"}, calls=1)


def test_reuse_of_a_chain_is_exact() -> None:
    h = harness()
    h.submit(prefill("a", [5, 6, 7]), prefill("b", [8, 9], "a"), prefill("c", [10, 11], "a", "b"))
    scores = h.score(decode("d", [3], "a", "b", "c", forced=FORCED), per_parent=True)
    h.run()
    score = one(scores)
    assert max(score.kl) < 1e-6
    assert score.top1_agreement == 1.0
    assert all(abs(kl) < 1e-6 for _, kl in score.kl_by_parent)
    assert [name for name, _ in score.kl_by_parent] == ["a", "b", "c"]
    at_rest(h, {"a", "b", "c"}, calls=5)


def test_a_score_says_which_reuse_hurts() -> None:
    """`b` was encoded behind what the call does not see, `c` just where it stands."""
    h = harness()
    h.submit(prefill("a", [5, 6, 7, 8, 9, 10]), prefill("b", [8, 9, 11], "a"), prefill("c", [10, 11, 12]))
    scores = h.score(decode("d", [3], ParentSpec("c"), ParentSpec("b"), forced=FORCED), per_parent=True)
    h.run()
    kl = dict(one(scores).kl_by_parent)
    assert kl["b"] == pytest.approx(np.mean(one(scores).kl), abs=1e-6)
    assert abs(kl["c"]) < 1e-6
    assert kl["b"] > 1e-3


def test_a_score_waits_for_its_parents_and_counts_what_it_computes() -> None:
    h = harness()
    h.submit(*GRAPH, decode("d", [3], "a", "c", forced=(4, 5, 6)))
    scores = h.score(decode("e", [3], "d", "b", forced=FORCED))
    assert scores == []
    before = h.scheduler.graph.workflow("", "w")
    h.run()
    score = one(scores)
    receipt = score.receipt
    visible = 6 + 2 + 1  # d with its trailer, b, and the header
    assert receipt.in_place + receipt.repositioned + receipt.encoded == 2 * visible
    assert (receipt.generated, receipt.trailer) == (2 * 4, 0)
    assert receipt.parents == ()
    total = Receipt()
    for outcome in h.ended.values():
        total = total.plus(outcome.receipt)
    assert before.total == total  # scores are among what the workflow cost
    assert before.spent == sum(o.receipt.encoded + o.receipt.generated + o.receipt.trailer for o in h.ended.values())
    at_rest(h, {"a", "b", "c", "d"}, calls=2)


def test_two_scores_of_one_call_at_once_and_a_plan_meanwhile() -> None:
    h = harness()
    h.submit(*GRAPH)
    spec = decode("a", [3], "b", "c", forced=FORCED)  # named like a message
    both = [h.score(spec), h.score(spec)]
    h.step()
    planned = h.scheduler.plan("", "w", [decode("p", [3], "b", forced=(4,))], h.now)
    assert [outcome.id for outcome in planned.calls] == ["p"]
    assert [o.id for _, o in h.scheduler.outcomes("", "w", 0, 10, h.now)] == ["a", "b", "c"]
    h.run()
    assert one(both[0]).kl == pytest.approx(one(both[1]).kl, abs=1e-6)
    assert h.ended["a"].decode is False
    at_rest(h, {"a", "b", "c"}, calls=4)


def test_a_score_reads_the_winners_of_a_group() -> None:
    h = harness()
    h.submit(*GRAPH)
    group = GroupSpec("g", digest("g"), ("b", "c"), 1)
    h.scheduler.submit("", "w", [], h.now, [group])
    scores = h.score(decode("d", [3], ParentSpec("g", exact=False), "a", forced=FORCED), per_parent=True)
    h.run()
    assert [name for name, _ in one(scores).kl_by_parent] == ["g", "a"]
    assert one(scores).failure is None


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_score_that_is_cancelled_leaves_nothing(steps: int) -> None:
    h = harness(token_budget=4)
    h.submit(*GRAPH)
    h.run()
    scores: list[Score] = []
    spec = ScoreSpec(decode("d", [3], "b", "c", forced=FORCED * 3), per_parent=True)
    scoring = h.scheduler.score("", "w", spec, h.now, scores.append)
    for _ in range(steps):
        h.step()
    assert scores == []
    h.scheduler.cancel_score(scoring, h.now)
    h.collect()
    h.run()
    assert one(scores).failure == Failure("CANCELLED", "the score was cancelled")
    at_rest(h, {"a", "b", "c"}, calls=4)


class Troubled:
    """A runner whose step number `fails` raises, and whose logits are no numbers from step `spoils` on."""

    def __init__(self, *, fails: int = -1, spoils: int = -1) -> None:
        self.inner = tiny_runner(CONFIG, WEIGHTS, 600)
        self.fails, self.spoils, self.steps = fails, spoils, 0

    def execute(self, batch: Batch) -> StepResult:
        self.steps += 1
        if self.steps == self.fails:
            raise RuntimeError("told to")
        result = self.inner.execute(batch)
        if self.steps == self.spoils:
            assert result.scored is not None
            result.scored.logprobs[0] = np.nan
        return result


@pytest.mark.parametrize("step", [1, 2])
def test_a_failed_step_fails_the_score_unless_it_may_try_again(step: int) -> None:
    spec = decode("d", [3], "b", "c", forced=FORCED)
    for attempts in (1, 2):
        h = Harness(Troubled(fails=step + 1), 600)
        h.submit(*GRAPH)
        h.step()
        scores = h.score(replace(spec, max_attempts=attempts))
        h.run()
        failure = one(scores).failure
        assert failure == (None if attempts == 2 else Failure("RUNNER_FAILED", "told to"))
        at_rest(h, {"a", "b", "c"}, calls=2)


@pytest.mark.parametrize("step", [1, 2])
def test_logits_that_are_no_numbers_fail_the_score(step: int) -> None:
    h = Harness(Troubled(spoils=step + 1), 600)
    h.submit(*GRAPH)
    h.step()
    scores = h.score(decode("d", [3], "b", "c", forced=FORCED))
    h.run()
    failure = one(scores).failure
    assert failure == Failure("RUNNER_FAILED", "call 'd': the model's logits are not numbers", ("d",))
    at_rest(h, {"a", "b", "c"}, calls=2)


def test_what_ends_the_calls_of_a_workflow_ends_its_scores() -> None:
    spec = decode("d", [3], "b", "c", forced=FORCED * 4)
    for end, reason in (
        (lambda h: h.scheduler.close("", "w", h.now), "WORKFLOW_CLOSED"),
        (lambda h: h.scheduler.cancel("", "w", ["c"], True, h.now), "CANCELLED"),
        (lambda h: h.scheduler.fail_all("DRAINING", "so", h.now), "DRAINING"),
    ):
        h = harness(token_budget=5)
        h.submit(*GRAPH)
        scores = h.score(spec)
        h.step()
        end(h)
        h.run()
        failure = one(scores).failure
        assert failure is not None
        assert failure.reason == reason


def test_a_score_has_a_deadline_and_names_the_call() -> None:
    h = harness(token_budget=5)
    h.submit(*GRAPH)
    scores = h.score(decode("d", [3], "b", "c", forced=FORCED * 4, timeout=1.5))
    h.run()
    failure = one(scores).failure
    assert failure is not None
    assert (failure.reason, failure.ids) == ("DEADLINE_EXCEEDED", ("d",))
    assert failure.text.startswith("call 'd' was still ")
    at_rest(h, {"a", "b", "c"}, calls=2)


def test_a_score_of_a_failed_parent_fails_and_says_so() -> None:
    h = harness()
    h.submit(prefill("a", [5] * 20, start=500), decode("d", [3], "a", forced=(4,)))
    h.run()
    assert h.outcome("d").state is State.FAILED
    scores = h.score(decode("e", [3], "d", forced=FORCED))
    failure = one(scores).failure
    assert failure is not None
    assert (failure.reason, failure.ids) == ("PARENT_FAILED", ("d",))


def test_bounds_hold_for_scores() -> None:
    h = harness(max_unfinished=4)
    h.submit(*GRAPH)
    spec = decode("d", [3], "b", "c", forced=FORCED)
    with pytest.raises(RequestError, match="3 calls are unfinished, at most 4"):
        h.score(spec)
    h.run()
    for wrong, match in (
        (decode("d", [3], "x", forced=FORCED), "no message 'x'"),
        (decode("d", [3], "b", forced=(97,)), "call 'd': token id 97 is not in 0..96"),
        (decode("d", [3], "b", forced=(4,) * 600), "call 'd' is 603 tokens long by itself"),
        (decode("d", [3], "b", "b", forced=FORCED), "call 'd' names parent 'b' twice"),
    ):
        with pytest.raises(RequestError, match=match):
            h.score(wrong)
    far = h.score(decode("d", [3], ParentSpec("b", offset=507), forced=FORCED))
    h.run()
    failure = one(far).failure
    assert failure is not None
    assert failure.reason == "CONTEXT_TOO_LONG"
    assert failure.text.startswith("call 'd' would reach position 51")
    h.scheduler.open("", "w", 60, None, h.now)
    scores = h.score(replace(spec, decode=replace(spec.decode, forced=FORCED * 20)))  # type: ignore[type-var]
    h.run()
    failure = one(scores).failure
    assert failure is not None
    assert failure.reason == "BUDGET_EXHAUSTED"
    with pytest.raises(RequestError, match="of its 60 tokens"):
        h.score(spec)
    at_rest(h, {"a", "b", "c"}, calls=4)


def test_passes_that_do_not_fit_together_run_one_after_the_other() -> None:
    """And give way, and go on, as any call."""
    h = harness(slots=44, token_budget=6)
    h.submit(*GRAPH)
    scores = h.score(decode("d", [3], "c", "b", forced=FORCED * 6), per_parent=True)
    h.run()
    roomy = harness()
    roomy.submit(*GRAPH)
    wanted = roomy.score(decode("d", [3], "c", "b", forced=FORCED * 6), per_parent=True)
    roomy.run()
    assert one(scores).kl == pytest.approx(one(wanted).kl, abs=1e-5)
    assert dict(one(scores).kl_by_parent) == pytest.approx(dict(one(wanted).kl_by_parent), abs=1e-5)
    at_rest(h, {"a", "b", "c"}, calls=4)


def test_scores_run_beside_decodes_in_the_same_steps() -> None:
    h = harness(token_budget=64)
    h.submit(*GRAPH)
    h.run()
    h.submit(decode("e", [3], "a", forced=(4,) * 12, logprobs=1))
    scores = h.score(decode("d", [3], "b", "c", forced=FORCED), per_parent=True)
    for _ in range(3):
        h.step()
    assert one(scores).failure is None
    assert not h.outcome("e").state.ended
    h.run()
    alone = harness()
    alone.submit(*GRAPH, decode("e", [3], "a", forced=(4,) * 12, logprobs=1))
    alone.run()
    assert h.outcome("e").logprobs == pytest.approx(alone.outcome("e").logprobs, abs=1e-5)


def test_a_score_is_no_reader_that_was_declared_and_no_call_that_is_named() -> None:
    h = harness(token_budget=2)
    h.submit(replace(GRAPH[0], retention=Retention(readers=2)))
    h.run()
    parent = h.scheduler.graph.workflow("", "w").calls["a"]
    scores = h.score(decode("d", [3], ParentSpec("a", offset=1, last_use=True), forced=FORCED))
    h.step()
    assert parent.expected_readers == 2
    h.submit(prefill("b", [5], "a"))
    assert h.scheduler.cancel("", "w", ["a", "b"], True, h.now) == ["b"]
    assert one(scores).failure is not None
    h.run()
    assert not parent.released
    assert h.outcome("a").state is State.DONE
