"""A server whose model runner breaks when a file says so, with limits and a clock that tests choose.

The file is named by FAULT and read in a step, which takes it away: `raise`, `lose`, `hang`, `late` (a step of a
second), `pace` with the seconds that steps take from now on, or `nan` with seeds (once, the logits of the samples with
these seeds are no numbers). KEEPALIVE_S replaces the seconds of silence after which a connection is tried, and those
that an answer may take. NOFILE bounds the open files.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import threading
from pathlib import Path

import numpy as np
import torch

from pavane.kernels.batch import Batch, RunnerLostError, StepResult
from pavane.kernels.sampling import sample
from pavane.server import listen
from pavane.server.config import add_flags, from_flags
from pavane.server.serving import serve

STEP_S = 0.01
TOKEN = 300


class FaultyRunner:
    """Samples the same token over and over."""

    def __init__(self, fault: Path, vocabulary: int) -> None:
        self._fault = fault
        self._vocabulary = vocabulary
        self._pace = STEP_S
        self._never = threading.Event()
        self._broken: set[int] = set()  # seeds

    def execute(self, batch: Batch) -> StepResult:
        self._never.wait(self._pace)  # time.sleep fails under libfaketime
        if batch.n_rows and self._fault.exists():
            fault = self._fault.read_text()
            self._fault.unlink()
            self._obey(fault)
        samples = batch.samples
        count = samples.count
        seeds = samples.seeds[:count].tolist()
        broken = [i for i, seed in enumerate(seeds) if seed in self._broken]
        if not broken:
            return StepResult(np.full(count, TOKEN, dtype=np.int32), np.zeros(count, dtype=np.float32), STEP_S)
        self._broken.difference_update(seeds)
        logits = torch.zeros(count, self._vocabulary)
        logits[:, TOKEN] = 10.0
        logits[broken] = torch.nan
        sampled = sample(logits, samples)
        return StepResult(sampled.tokens, sampled.logprobs, STEP_S)

    def _obey(self, fault: str) -> None:
        if fault == "raise":
            raise RuntimeError("the card has fallen off the bus")
        if fault == "lose":
            raise RunnerLostError("the card does not answer any more")
        if fault == "hang":
            self._never.wait()
        elif fault == "late":
            self._never.wait(1.0)
        else:
            what, *numbers = fault.split()
            if what == "pace":
                self._pace = float(numbers[0])
            else:
                assert what == "nan"
                self._broken = {int(seed) for seed in numbers}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_flags(parser)
    if "NOFILE" in os.environ:
        files = int(os.environ["NOFILE"])
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if "KEEPALIVE_S" in os.environ:
        silence = round(float(os.environ["KEEPALIVE_S"]) * 1000)
        listen.OPTIONS |= {
            "grpc.keepalive_time_ms": silence,
            "grpc.keepalive_timeout_ms": silence,
            "grpc.http2.ping_timeout_ms": silence,
        }
    fault = Path(os.environ["FAULT"])
    sys.exit(
        serve(
            from_flags(parser.parse_args()),
            lambda loaded, config, positions: FaultyRunner(fault, loaded.config.vocab_size),
        )
    )
