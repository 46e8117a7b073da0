"""Simulations: deterministic, nothing lost, and as long as they should be where that can be said by hand."""

from collections import defaultdict
from dataclasses import astuple
from statistics import fmean

import pytest

from pavane.bench.simulation.cost import CostModel, Work, fit, fitted
from pavane.bench.simulation.grain import coarsen, refine
from pavane.bench.simulation.runner import SimulatedRunner
from pavane.bench.simulation.simulator import Run, SimulationError, Simulator
from pavane.bench.simulation.system import System
from pavane.bench.simulation.tokens import TRAILER
from pavane.bench.trace import TraceCall, TraceWorkflow, make_trace
from pavane.cache import audit
from pavane.scheduler.spec import State

COST = CostModel(0.006, 0.0007, 0.0004, 1.6e-6, 5e-7, 1e-6)


def play(trace: list[TraceWorkflow], system: System | None = None, grain: int = 1, checked: bool = False) -> Run:
    system = system or System()
    scheduler = system.scheduler()
    runner = SimulatedRunner(COST, grain, system.max_num_batched_tokens)

    def check() -> None:
        audit(scheduler.cache, *scheduler.held())

    run = refine(
        Simulator(scheduler, runner, coarsen(trace, grain), after_step=check if checked else None).run(), grain
    )
    run.check()
    assert not scheduler.graph.workflows
    assert not scheduler.graph.unfinished
    assert scheduler.cache.pool.free + scheduler.cache.idle_slots == scheduler.cache.pool.size
    return run


def alone(*calls: TraceCall) -> list[TraceWorkflow]:
    return [TraceWorkflow(1.0, "t0", "w", "chat", calls)]


def test_the_same_trace_runs_the_same_twice():
    trace = coarsen(make_trace(1, 40, 1.0), 8)
    assert play(trace) == play(trace)


@pytest.mark.parametrize("load_control", [True, False])
def test_nothing_is_lost(load_control):
    trace = coarsen(make_trace(7, 30, 2.0), 8)
    system = System(num_slots=1_000, max_num_seqs=5, max_num_batched_tokens=60, load_control=load_control)
    run = play(trace, system)
    assert sorted(w.id for w in run.workflows) == sorted(w.id for w in trace)
    unread = sum(len(g.members) - g.need for w in trace for g in w.groups)
    calls = sum(len(w.calls) for w in trace)
    assert run.count(State.DONE) + run.count(State.CANCELLED) == calls
    assert 0 < run.count(State.CANCELLED) <= unread
    total = run.total
    assert total.reencoded == 0 or not load_control
    assert total.reencoded > 0 or load_control, "the pool was small"
    # A row is a token encoded; of a call that was cancelled the last one sampled is not.
    work = total.encoded + total.reencoded + total.generated + total.trailer
    assert work - run.count(State.CANCELLED) <= run.rows <= work
    ended_well = {w.id: w.ended[State.DONE] for w in run.workflows}
    for workflow in trace:
        assert ended_well[workflow.id] >= len(workflow.calls) - sum(len(g.members) - g.need for g in workflow.groups)


@pytest.mark.parametrize("load_control", [True, False])
def test_every_invariant_holds_after_every_step(load_control):
    trace = coarsen(make_trace(3, 12, 3.0), 32)
    system = System(num_slots=300, max_num_seqs=4, max_num_batched_tokens=20, load_control=load_control)
    run = play(trace, system, checked=True)
    assert run.total.reencoded > 0 or load_control


def test_answers_have_the_lengths_of_the_trace():
    trace = [w for w in make_trace(2, 60, 5.0) if not w.groups]
    run = play(coarsen(trace, 4))
    wanted = sum(c.decode for w in coarsen(trace, 4) for c in w.calls)
    decodes = sum(not c.prefill for w in trace for c in w.calls)
    assert run.total.generated == wanted
    assert run.total.trailer == decodes * len(TRAILER)
    headers: dict[object, list[int]] = defaultdict(list)  # all begin alike, and share that where they see the same
    for w in coarsen(trace, 4):
        for c in w.calls:
            if not c.prefill:
                headers[(w.id, c.parents) if c.parents else w.tenant].append(c.header)
    shared = sum(max(sizes) - 1 + len(sizes) for sizes in headers.values())
    assert run.total.encoded == sum(c.prefill for w in coarsen(trace, 4) for c in w.calls) + shared
    assert shared < sum(map(sum, headers.values()))


def test_the_time_of_a_call_by_hand():
    cost = CostModel(1.0, 0, 0, 0, 0, 0)
    trace = alone(TraceCall("p", (), 7), TraceCall("d", ("p",), 0, 8, 5, 20))
    run = Simulator(System().scheduler(), SimulatedRunner(cost), trace).run()
    # The text and the header with the first token; four more; the end of the turn; the trailer.
    assert run.steps == 7
    assert run.workflows[0].seconds == 7.0
    assert run.workflows[0].first_tokens == (1.0,)
    assert run.workflows[0].arrived == 1.0
    assert run.clock == 8.0


def test_a_coarse_simulation_takes_about_as_long():
    trace = make_trace(11, 40, 0.4)
    fine, coarse = play(trace), play(trace, grain=8)
    assert coarse.steps < fine.steps / 5
    assert coarse.clock == pytest.approx(fine.clock, rel=0.05)
    assert fmean(w.seconds for w in coarse.workflows) == pytest.approx(
        fmean(w.seconds for w in fine.workflows), rel=0.1
    )


def test_what_is_needed_is_what_will_be_read():
    first = TraceCall("p", (), 10)
    second, third = TraceCall("d", ("p",), 0, 8, 5, 5), TraceCall("e", ("d",), 0, 8, 5, 5)
    length = 8 + 5 + len(TRAILER)
    assert play(alone(first)).peak_need == 10
    assert play(alone(first, second)).peak_need == 10 + length
    # The third begins in the step that ends the second, whose reader then ends: all are needed for a moment.
    assert play(alone(first, second, third)).peak_need == 10 + 2 * length
    fourth = TraceCall("f", ("e",), 0, 8, 5, 5)
    assert play(alone(first, second, third, fourth)).peak_need == max(10 + 2 * length, 3 * length)


def test_a_call_that_fails_is_no_result():
    trace = alone(TraceCall("d", (), 0, 8, 5, 5))
    run = Simulator(System(max_model_len=16).scheduler(), SimulatedRunner(COST), [*trace]).run()
    run.check()
    long = alone(TraceCall("p", (), 9), TraceCall("d", ("p",), 0, 8, 5, 5))
    with pytest.raises(SimulationError, match=r"1 calls failed, e\.g\. call 'd' would reach position"):
        Simulator(System(max_model_len=16).scheduler(), SimulatedRunner(COST), long).run().check()


def test_the_fit_finds_what_the_steps_were_made_from():
    known = CostModel(0.005, 0.0007, 0.0, 2e-6, 0.0, 3e-5)
    works = [Work(r, s, k, r * k // 3, r + s) for r in (1, 9, 200) for s in (0, 1) for k in (10, 900, 7000)]
    found = fit([(work, known.seconds(work)) for work in works])
    for work in works:
        assert found.seconds(work) == pytest.approx(known.seconds(work), rel=1e-6)
    with pytest.raises(ValueError, match="3 steps were measured"):
        fit([(work, 1.0) for work in works[:3]])


def test_coefficients_below_nothing_are_left_out():
    steps = [(Work(r, 1, k, 0, 0), 0.01 + 0.001 * r - 1e-7 * k) for r in (1, 20, 300) for k in (10, 90, 700, 5000)]
    found = fit(steps)
    assert found.key == 0.0
    assert found.row == pytest.approx(0.001, rel=0.05)


def test_the_packages_cost_model_was_within_bounds():
    cost, measured = fitted()
    assert measured.steps > 100
    assert measured.p90_error < 0.2
    assert cost.seconds(Work(1, 1, 100, 100, 1)) > 0
    assert min(astuple(cost)) >= 0
