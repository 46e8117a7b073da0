"""What FlashInfer reads from the environment when it compiles its kernels."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from pavane.models.gpu_check import TOOLKIT

HEADER = "curand_kernel.h"  # the sources of the kernels for Hopper include it, by way of CUTLASS
FLAGS = "FLASHINFER_EXTRA_CUDAFLAGS"


def point_to_toolkit() -> None:
    """Before FlashInfer is imported. It would take the folder above an nvcc on the path for the toolkit, whatever lies
    there; and where a toolkit has no cuRAND, as one of the compiler alone, the wheel that torch brings has the
    headers."""
    if TOOLKIT.exists():
        os.environ.setdefault("CUDA_HOME", str(TOOLKIT.parents[1]))
    given = os.environ.get(FLAGS, "")
    home = os.environ.get("CUDA_HOME")
    folder = None if home is None or (Path(home) / "include" / HEADER).exists() else headers_of_wheel()
    if folder is not None and str(folder) not in given:
        os.environ[FLAGS] = f"{given} -isystem {folder}".strip()


def headers_of_wheel() -> Path | None:
    """The folder of HEADER in one of NVIDIA's wheels."""
    spec = find_spec("nvidia")
    places = [] if spec is None else spec.submodule_search_locations or []
    found = [path.parent for place in places for path in sorted(Path(place).glob(f"*/include/{HEADER}"))]
    return found[0] if found else None
