"""What every benchmark prints and writes."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Enough to judge a figure by."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


def emit(result: dict[str, Any], destination: str | None) -> None:
    """Writes `result` as JSON to a file, or to stdout for "-"; nothing for None."""
    if destination is None:
        return
    text = json.dumps({**result, "machine": machine()}, indent=2)
    if destination == "-":
        print(text)
    else:
        Path(destination).write_text(text + "\n")


def say(text: str) -> None:
    """For people: to stderr, so that `--json -` stays clean."""
    print(text, file=sys.stderr, flush=True)


def verdict(name: str, value: float, bar: str, met: bool) -> str:
    return f"{name}: {value:.2f} (bar {bar}: {'met' if met else 'MISSED'})"
