"""The real server over a runner that computes nothing: what remains is scheduling, text and gRPC."""

from __future__ import annotations

import argparse
import asyncio

import numpy as np
import uvloop

from pavane.kernels.batch import Batch, StepResult
from pavane.server.app import start
from pavane.server.config import add_flags, from_flags

WORD = 1000  # some ordinary token


class FakeRunner:
    def execute(self, batch: Batch) -> StepResult:
        count = batch.samples.count
        tokens = (WORD + batch.samples.counters[:count] % 1000).astype(np.int32)
        return StepResult(tokens, np.zeros(count, dtype=np.float32), 0.0)


async def _serve() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    config = from_flags(parser.parse_args())
    server = await start(config, lambda loaded, config, max_model_len: FakeRunner())
    print(f"listening on {config.host}:{server.port}", flush=True)
    await server.run_until_signal()


if __name__ == "__main__":
    try:
        uvloop.run(_serve())
    except asyncio.CancelledError:
        pass
