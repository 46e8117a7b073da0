"""Optional packages and wrong usage: both end in one line that says what to do."""

from __future__ import annotations


class UsageError(Exception):
    """Something to put right on the command line or in a file; the text says what."""


def missing_package(error: ModuleNotFoundError) -> str:
    """What to install. Raises the error again if it is not about a package that an extra brings."""
    if error.name is None or error.name.startswith("pavane"):
        raise error
    package = error.name.partition(".")[0]
    extra = "pavane[cli]" if package in ("rich", "yaml") else "pavane[server,cli]"
    return f"this needs the package {package!r}: pip install '{extra}'"
