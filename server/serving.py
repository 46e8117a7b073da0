"""A server as a process: from its settings to the status that it exits with."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from pavane.server.config import ConfigError, ServerConfig

if TYPE_CHECKING:
    from pavane.server.runners import MakeRunner

STDERR = 2


def serve(config: ServerConfig, make_runner: MakeRunner | None = None) -> int:
    """Until a signal; the status to exit with. Does not return if the model runner hangs or is lost: its thread
    has no other end than that of the process."""
    # OpenMP's threads wait some microseconds for the next piece of work, then they sleep: long waits would take the
    # cores from everything else. Read when its library is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    # A text is one piece of work: threads of its own would only wait for the cores that the model has.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # gRPC's own lines go to stderr past the log, one for each handshake that fails, and wait for its reader.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    import uvloop

    from pavane.models.errors import ModelError
    from pavane.server.app import start
    from pavane.server.logs import log_to
    from pavane.server.running import RUNNER_HANGS, RUNNER_LOST, StopSignals

    async def until_signal() -> int:
        log_to(STDERR, config.log_level, config.log_format)
        signals = StopSignals()
        server = await start(config, make_runner, signals)
        host = f"[{config.host}]" if ":" in config.host else config.host
        print(f"listening on {host}:{server.port}", flush=True)
        if server.metrics_port >= 0:
            logging.getLogger("pavane").info("metrics on http://%s:%d/metrics", host, server.metrics_port)
        return await server.run_until(signals)

    try:
        status = uvloop.run(until_signal())
    except (ConfigError, ModelError) as error:
        print(f"pavane serve: {error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        return 130
    if status in (RUNNER_HANGS, RUNNER_LOST):
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    return status
