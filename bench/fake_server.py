"""The real server over a runner that computes nothing: what remains is scheduling, text and gRPC."""

from __future__ import annotations

import argparse
import sys

import numpy as np

from pavane.kernels.batch import Batch, StepResult
from pavane.server.config import add_flags, from_flags
from pavane.server.serving import serve

WORD = 1000  # some ordinary token


class FakeRunner:
    def execute(self, batch: Batch) -> StepResult:
        count = batch.samples.count
        tokens = (WORD + batch.samples.counters[:count] % 1000).astype(np.int32)
        return StepResult(tokens, np.zeros(count, dtype=np.float32), 0.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_flags(parser)
    sys.exit(serve(from_flags(parser.parse_args()), lambda loaded, config, max_model_len: FakeRunner()))
