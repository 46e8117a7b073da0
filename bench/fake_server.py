"""The real server over a runner that computes nothing: what remains is scheduling, text and gRPC."""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from pavane.kernels.batch import Batch, StepResult
from pavane.server.config import add_flags, from_flags
from pavane.server.serving import serve

WORD = 1000  # some ordinary token


class FakeRunner:
    """`step_s`: seconds that a step takes, without the GIL, as a forward pass does."""

    def __init__(self, step_s: float = 0.0) -> None:
        self._step_s = step_s

    def execute(self, batch: Batch) -> StepResult:
        if self._step_s:
            time.sleep(self._step_s)
        count = batch.samples.count
        tokens = (WORD + batch.samples.counters[:count] % 1000).astype(np.int32)
        return StepResult(tokens, np.zeros(count, dtype=np.float32), 0.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_flags(parser)
    parser.add_argument("--step-ms", type=float, default=0.0, help="what each step takes")
    args = parser.parse_args()
    sys.exit(serve(from_flags(args), lambda loaded, config, max_model_len: FakeRunner(args.step_ms / 1000)))
