"""pavane serve: a server on this machine."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from pavane.cli.extras import UsageError

if TYPE_CHECKING:
    from pavane.server.app import MakeRunner
    from pavane.server.config import ServerConfig

DESCRIPTION = """Serves a model over gRPC until SIGTERM or Ctrl-C.

  pavane serve                                   SmolLM2-135M-Instruct on 127.0.0.1:50051
  pavane serve --model model.gguf --port 50052   another model: a GGUF file, a Hugging Face folder, or ...
  pavane serve --model ORG/NAME                  ... an id on the hub; Llama, Mistral, Qwen 2 and 3
  PAVANE_NUM_SLOTS=65536 pavane serve            every flag has a variable
  pavane serve --host 0.0.0.0 --tls-cert c.pem --tls-key k.pem --api-keys keys.txt
                                                 for other machines; `pavane keys new` makes keys

When ready it prints one line, `listening on HOST:PORT`. The first signal drains, the second stops at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from pavane.server.config import ConfigError, add_flags

    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    try:
        add_flags(parser)
    except ConfigError as error:
        raise UsageError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    from pavane.server.config import ConfigError, from_flags

    try:
        config = from_flags(args)  # before the large imports: a wrong flag is told at once
    except ConfigError as error:
        raise UsageError(str(error)) from None

    return serve(config)


def serve(config: ServerConfig, make_runner: MakeRunner | None = None) -> int:
    """Until a signal; the status to exit with. Does not return if the model runner hangs: its thread has no other
    end than that of the process."""
    # OpenMP's threads wait some microseconds for the next piece of work, then they sleep: long waits would take the
    # cores from everything else. Read when its library is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")

    import uvloop

    from pavane.models.errors import ModelError
    from pavane.server.app import RUNNER_HANGS, start
    from pavane.server.config import ConfigError

    async def until_signal() -> int:
        logging.basicConfig(
            level=config.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )
        server = await start(config, make_runner)
        print(f"listening on {config.host}:{server.port}", flush=True)
        if server.metrics_port >= 0:
            logging.getLogger("pavane").info("metrics on http://%s:%d/metrics", config.host, server.metrics_port)
        return await server.run_until_signal()

    try:
        status = uvloop.run(until_signal())
    except (ConfigError, ModelError) as error:
        print(f"pavane serve: {error}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        return 130
    if status == RUNNER_HANGS:
        logging.shutdown()
        sys.stdout.flush()
        os._exit(status)
    return status
