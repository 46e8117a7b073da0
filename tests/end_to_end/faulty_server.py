"""A server whose model runner breaks when a file says so: `raise`, `hang`, or `late` for a step of a second."""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from pavane.kernels.batch import Batch, StepResult
from pavane.server.config import add_flags, from_flags
from pavane.server.serving import serve

STEP_S = 0.01


class FaultyRunner:
    """Samples ordinary tokens. What the file says is done in one step, which takes the file away."""

    def __init__(self, fault: Path) -> None:
        self._fault = fault

    def execute(self, batch: Batch) -> StepResult:
        time.sleep(STEP_S)
        if batch.n_rows and self._fault.exists():
            fault = self._fault.read_text()
            self._fault.unlink()
            if fault == "raise":
                raise RuntimeError("the card has fallen off the bus")
            if fault == "hang":
                threading.Event().wait()
            time.sleep(1.0)
        count = batch.samples.count
        return StepResult(np.full(count, 1000, dtype=np.int32), np.zeros(count, dtype=np.float32), STEP_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_flags(parser)
    runner = FaultyRunner(Path(os.environ["FAULT"]))
    sys.exit(serve(from_flags(parser.parse_args()), lambda loaded, config, positions: runner))
