"""Optional packages and wrong usage: both end in one line that says what to do."""

from __future__ import annotations

_EXTRAS = {
    "rich": "pavane[cli]",
    "yaml": "pavane[cli]",
    "transformers": "pavane[server,cli,bench]",
    "trustme": "pavane[server,cli,test]",
    "xllamacpp": "pavane[server,cli,bench]",
}


class UsageError(Exception):
    """Something to put right on the command line or in a file; the text says what."""


def missing_package(error: ModuleNotFoundError) -> str:
    """What to install. Raises the error again if it is not about a package that an extra brings."""
    if error.name is None or error.name.startswith("pavane"):
        raise error
    package = error.name.partition(".")[0]
    extra = _EXTRAS.get(package, "pavane[server,cli]")
    return f"this needs the package {package!r}: pip install '{extra}'"
