"""pavane serve: a server on this machine."""

from __future__ import annotations

import argparse

from pavane.cli.extras import UsageError

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

    from pavane.server.serving import serve

    return serve(config)
