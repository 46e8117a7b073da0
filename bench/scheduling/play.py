"""One trace, played with one choice of policies; and the rate of workflows at which the server is full."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pavane.bench.scheduling.part import Options
from pavane.bench.simulation.cost import CostModel
from pavane.bench.simulation.grain import coarsen, refine
from pavane.bench.simulation.runner import SimulatedRunner
from pavane.bench.simulation.simulator import Run, Simulator
from pavane.bench.simulation.system import ENOUGH_SLOTS, System
from pavane.bench.trace import TraceWorkflow, make_trace

SATURATION_SEED = 1_000_003  # of no measured trace
SATURATION_WORKFLOWS = 300


@dataclass(frozen=True)
class Player:
    """Plays traces in coarse tokens; `num_slots` and `burst` of a system count fine ones."""

    cost: CostModel
    grain: int

    def play(self, system: System, trace: Sequence[TraceWorkflow], awaited: Collection[str] | None = None) -> Run:
        """Raises SimulationError, also if a call failed."""
        slots = system.num_slots if system.num_slots == ENOUGH_SLOTS else system.num_slots // self.grain
        runner = SimulatedRunner(self.cost, self.grain, system.max_num_batched_tokens)
        scheduler = replace(system, num_slots=slots, burst=system.burst / self.grain).scheduler()
        run = Simulator(scheduler, runner, coarsen(trace, self.grain), priorities=system.priorities).run(awaited)
        run.check()
        return refine(run, self.grain)

    def saturation(self, system: System, options: Options) -> float:
        """Workflows a second that come to their end while there are always enough waiting."""
        count = SATURATION_WORKFLOWS // (10 if options.quick else 1)
        trace = [replace(workflow, at=0.0) for workflow in make_trace(SATURATION_SEED, count, 1.0)]
        return count / self.play(system, trace).clock
