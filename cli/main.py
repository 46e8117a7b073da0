"""The `pavane` command: finds the subcommand and loads only that."""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from pavane.cli.extras import UsageError, missing_package
from pavane.clients.errors import PavaneError

COMMANDS = {
    "demo": "watch a debate twice, with and without reuse, on a small model of its own",
    "serve": "serve a model",
    "chat": "talk to a served model",
    "top": "watch a server work",
    "workflow": "run a workflow by name: tree of thoughts, debates, RAG team ...",
    "run": "run a graph of calls from a YAML file",
    "plan": "what a graph of calls would cost; nothing runs",
    "keys": "make API keys",
    "loadtest": "send a server the load of many workflows",
    "bench": "measure",
    "eval": "how good the answers of a workflow are, and what reuse does to them",
    "report": "make a page of what was measured",
}

EPILOG = """\
examples:
  pavane demo                                    three agents argue; no server needed
  pavane serve --model model.gguf                serve on port 50051
  pavane chat --system "You are brief."          talk to it
  pavane workflow tree-of-thoughts               eight workflows by name; --list shows them
  pavane run debate.yaml --var problem="2+2?"    run a workflow, see what was reused
  pavane run debate.yaml --fidelity exact        the same as ordinary chat prompts
  pavane plan debate.yaml                        what it would cost; nothing runs
  pavane top                                     calls, slots and reuse of a server, live

`pavane COMMAND --help` explains one command.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit status: 0 well, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="pavane",
        description="Serving for multi-agent LLM workflows: messages are encoded once, every call reads any of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pavane {importlib.metadata.version('pavane')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", required=True)
    module: ModuleType | None = None
    try:
        for name, purpose in COMMANDS.items():
            if importlib.util.find_spec(f"pavane.cli.{name}") is None:
                continue
            if name != chosen:
                commands.add_parser(name, help=purpose)
                continue
            module = importlib.import_module(f"pavane.cli.{name}")
            command = commands.add_parser(
                name,
                help=purpose,
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(command)
        args = parser.parse_args(words)
        assert module is not None
        return int(module.run(args))
    except UsageError as error:
        print(f"pavane {chosen}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"pavane {chosen}: {missing_package(error)}", file=sys.stderr)
        return 2
    except PavaneError as error:
        print(f"pavane {chosen}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; what is buffered for them must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
