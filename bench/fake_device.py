"""The real server over a device that takes a given time for each step, one after the other, and computes nothing: what
remains is the host's work, its plan for a GPU's kernels included, as far as it does not need a GPU."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from pavane.kernels.batch import Batch, StepResult
from pavane.kernels.gpu.attention import arrays_of
from pavane.kernels.gpu.plan import Heads, make_plan
from pavane.kernels.gpu.sampling import sample_arrays
from pavane.kernels.gpu.upload import Staging, Upload
from pavane.server.config import add_flags, from_flags
from pavane.server.serving import serve

WORD = 1000  # some ordinary token
HEADS = Heads(group=4, kv_heads=8, blocks=264, scratch=65_536, captured=True)  # of an 8B model on an H200


class FakeDevice:
    """A Launcher. `steps` gets a row for each step: its rows, when it ended, seconds that the device had nothing to do
    before it, seconds of launching, and seconds of CPU of the main thread until then."""

    def __init__(self, step_s: float) -> None:
        self.steps: list[tuple[int, float, float, float, float]] = []
        self._step_s = step_s
        self._free = 0.0  # when the device has done what it was given
        self._staging = Staging(torch.device("cpu"))
        self._upload = Upload(self._staging)
        main = threading.main_thread().ident
        assert main is not None
        self._loop_clock = time.pthread_getcpuclockid(main)

    def execute(self, batch: Batch) -> StepResult:
        return self.launch(batch)()

    def launch(self, batch: Batch) -> Callable[[], StepResult]:
        began = time.perf_counter()
        if batch.n_rows:
            plan = make_plan(batch, HEADS)
            with self._staging.step():
                self._upload.put({**arrays_of(plan, batch), **sample_arrays(batch.samples)})
        launched = time.perf_counter()
        idle = max(0.0, launched - self._free)
        self._free = end = max(launched, self._free) + self._step_s

        def finish() -> StepResult:
            time.sleep(max(0.0, end - time.perf_counter()))
            self.steps.append((batch.n_rows, end, idle, launched - began, time.clock_gettime(self._loop_clock)))
            count = batch.samples.count
            tokens = (WORD + batch.samples.counters[:count] % 1000).astype(np.int32)
            return StepResult(tokens, np.zeros(count, dtype=np.float32), self._step_s)

        return finish


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_flags(parser)
    parser.add_argument("--step-ms", type=float, default=4.0, help="what each step takes the device")
    parser.add_argument("--core", type=int, help="the one to run on")
    parser.add_argument("--steps", type=Path, metavar="FILE", help="where the steps are told at the end, as JSON")
    args = parser.parse_args()
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    device = FakeDevice(args.step_ms / 1000)
    status = serve(from_flags(args), lambda loaded, config, max_model_len: device)
    if args.steps is not None:
        args.steps.write_text(json.dumps(device.steps))
    sys.exit(status)
