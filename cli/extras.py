"""Optional packages and wrong usage: both end in one line that says what to do."""

from __future__ import annotations

import importlib
from types import ModuleType


class UsageError(Exception):
    """Something to put right on the command line or in a file; the text says what."""


def load_command(name: str) -> ModuleType:
    """The module of a subcommand. Raises UsageError, with the command that installs it, if a package is missing."""
    try:
        return importlib.import_module(f"pavane.cli.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("pavane"):
            raise
        package = error.name.partition(".")[0]
        extra = "pavane[cli]" if package in ("rich", "yaml") else "pavane[server,cli]"
        raise UsageError(f"this needs the package {package!r}: pip install '{extra}'") from error
