"""Fits the cost model to real steps: traces run on the default model, with the lengths that the traces say."""

from __future__ import annotations

import datetime
import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from pavane.bench.report import cpu, say
from pavane.bench.simulation.cost import CostModel, Provenance, Work, fit
from pavane.bench.simulation.runner import MeasuringRunner
from pavane.bench.simulation.simulator import Simulator
from pavane.bench.simulation.system import System
from pavane.bench.trace import make_trace
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.cpu import cpu_forward
from pavane.models.default import default_model_path
from pavane.models.loader import load_model
from pavane.models.runner import ModelRunner

SLOTS = 32_768
MODEL_LEN = 8_192
# Calls at once and rows at once of each run.
SHAPES = ((1, 512), (2, 128), (4, 512), (8, 64), (8, 512), (16, 256), (16, 512), (32, 512))
HELD_OUT = (12, 384)
Steps = list[tuple[Work, float]]


@dataclass(frozen=True)
class Fit:
    cost: CostModel
    measured: Provenance
    lines: tuple[str, ...]  # the error by kind of step, for people


def fit_default_model(threads: int, steps: int) -> Fit:
    """Runs `steps` steps of each shape, and of one more that is not fitted. Raises ModelError if there is no model."""
    torch.set_num_threads(threads)
    runner = _Model(threads)
    seen: Steps = []
    for number, shape in enumerate(SHAPES):
        part = runner.steps(shape, steps, seed=number)
        say(f"  {shape[0]} calls, {shape[1]} rows at most: {len(part)} steps in {sum(s for _, s in part):.1f} s")
        seen += part
    held_out = runner.steps(HELD_OUT, steps, seed=len(SHAPES))
    cost = fit(seen)
    errors = sorted(abs(cost.seconds(work) / s - 1) for work, s in held_out)
    measured = Provenance(
        default_model_path().name,
        cpu(),
        threads,
        datetime.datetime.now(datetime.UTC).date().isoformat(),
        len(seen),
        median(errors),
        errors[len(errors) * 9 // 10],
        sum(cost.seconds(work) for work, _ in held_out) / sum(s for _, s in held_out) - 1,
    )
    return Fit(cost, measured, tuple(_by_kind(cost, seen, "fitted") + _by_kind(cost, held_out, "held out")))


class _Model:
    def __init__(self, threads: int) -> None:
        # One thread's time on its core is what the step takes, and others on the machine do not disturb it.
        self._clock = time.process_time if threads == 1 else time.perf_counter
        loaded = load_model(default_model_path(), torch.bfloat16, "auto", keep_blocks=True)
        frequencies, scale = rope_frequencies(loaded.config.rope, loaded.config.head_dim)
        rope = RopeTable(frequencies, MODEL_LEN + 1, scale)
        self._runner = ModelRunner(cpu_forward(loaded, rope, SLOTS, dtype=torch.bfloat16, batch_invariant=False))

    def steps(self, shape: tuple[int, int], count: int, seed: int) -> Steps:
        """`count` steps of a trace that arrives at once. The first, which touch memory for the first time, are left
        out."""
        running, rows = shape
        trace = [replace(workflow, at=0.0) for workflow in make_trace(seed, max(2, 2 * running), 1.0)]
        system = System(SLOTS, max_num_seqs=running, max_num_batched_tokens=rows, max_model_len=MODEL_LEN)
        runner = MeasuringRunner(self._runner, self._clock)
        Simulator(system.scheduler(), runner, trace).run(max_steps=count)
        return runner.steps[2:]


def _by_kind(cost: CostModel, steps: Steps, name: str) -> list[str]:
    """One line for each kind of step: how many, what they took, and the middle and the 90th percentile of the error."""
    kinds: dict[str, Steps] = {}
    for work, seconds in steps:
        prefill = work.rows - work.samples
        bucket = next(top for top in (1, 2, 4, 8, 16, 32, 64) if work.samples <= top)
        kind = f"{bucket:2} decodes" if prefill <= work.samples else f"prefill of {_power(prefill)} rows or more"
        kinds.setdefault(kind, []).append((work, seconds))
    lines = []
    for kind, each in sorted(kinds.items()):
        errors = sorted(cost.seconds(work) / seconds - 1 for work, seconds in each)
        distance = sorted(map(abs, errors))
        lines.append(
            f"  {name}, {kind}: {len(each)} steps, {median(s for _, s in each) * 1000:.1f} ms, predicted "
            f"{median(errors):+.0%}, 9 of 10 within {distance[len(distance) * 9 // 10]:.0%}"
        )
    return lines


def _power(count: int) -> int:
    return 1 << (count.bit_length() - 1)
