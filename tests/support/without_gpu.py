"""Runs a command on a GPU that is stood in for (cuda_standin/standin.h):

  PYTHONPATH=src:tests python -m support.without_gpu python -m pavane.bench.gpu

Needs a CUDA build of torch, FlashInfer, NVIDIA's toolkit (CUDA_HOME, or /usr/local/cuda) and g++. Everything on the
host's side is real: what the host's time is, whether it overlaps with a device that takes its time, what is captured,
faults. What kernels would compute is not there, and no time of a kernel means anything.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

SOURCES = Path(__file__).parent / "cuda_standin"


def build(folder: Path, toolkit: Path) -> Path:
    """The library, in `folder`. Raises CalledProcessError."""
    library = folder / "libcuda.so.1"
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-Wl,-soname,libcuda.so.1", "-I", str(toolkit / "include")]
    made = folder / f"{os.getpid()}.so"
    subprocess.run(["g++", *flags, "-o", str(made), *map(str, sorted(SOURCES.glob("*.cpp"))), "-ldl"], check=True)
    made.rename(library)
    if not (folder / "libcuda.so").exists():  # FlashInfer's modules are linked with it
        (folder / "libcuda.so").symlink_to(library.name)
    return library


def environment(library: Path, toolkit: Path, given: Mapping[str, str]) -> dict[str, str]:
    """For processes that see the stand-in."""
    folder = str(library.parent)
    made = dict(given) | {
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": os.pathsep.join([folder, *filter(None, [given.get("LD_LIBRARY_PATH")])]),
        "TRITON_LIBCUDA_PATH": folder,
        "CUDA_HOME": str(toolkit),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_EXTRA_LDFLAGS": f"-L{folder}",
    }
    made.pop("TRITON_INTERPRET", None)
    return made


def toolkit_of(given: Mapping[str, str]) -> Path:
    return Path(given.get("CUDA_HOME", "/usr/local/cuda"))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    text = b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    folder = Path(tempfile.gettempdir()) / f"pavane-cuda-standin-{os.getuid()}-{sha256(text).hexdigest()[:16]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    toolkit = toolkit_of(os.environ)
    library = folder / "libcuda.so.1"
    if not library.exists():
        build(folder, toolkit)
    os.execvpe(sys.argv[1], sys.argv[1:], environment(library, toolkit, os.environ))


if __name__ == "__main__":
    main()
