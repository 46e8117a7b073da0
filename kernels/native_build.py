"""The C++ kernels: prebuilt where the package has them, else compiled once per machine and version.

One source, several levels of instructions; the best one that the processor has is loaded. A library is not linked with
OpenMP: it takes the runtime that torch has loaded, because two of them in one process would fight for the cores.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("native")
PREBUILT = SOURCE / "prebuilt"
FLAGS = (
    "-std=gnu++20", "-O3", "-ffp-contract=fast", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-Wall",
    "-Wno-psabi", "-Wno-maybe-uninitialized", "-Wno-ignored-attributes",
)  # fmt: skip
COMPILER_S = 900  # beside others it may take long


class NoNativeKernelError(Exception):
    """The kernels cannot be built or loaded here; the text says why. The torch path works without them."""


@dataclass(frozen=True)
class Level:
    """A set of instructions: the compiler's flags for it, and what /proc/cpuinfo calls what it needs."""

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str]


_X86_64_V3 = frozenset(["avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"])
_X86_64_V4 = _X86_64_V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_WIDE = ("-march=x86-64-v4", "-mprefer-vector-width=512")
LEVELS = {  # the best first
    "x86_64": (
        Level("v4-bf16", (*_WIDE, "-mavx512bf16"), _X86_64_V4 | {"avx512_bf16"}),
        Level("v4", _WIDE, _X86_64_V4),
        Level("v3", ("-march=x86-64-v3",), _X86_64_V3),
    ),
    "aarch64": (Level("armv8", ("-march=armv8-a",), frozenset(["asimd"])),),
}  # fmt: skip


@cache
def load_native() -> ctypes.CDLL:
    """The kernels for this processor, compiled into $XDG_CACHE_HOME/pavane or ~/.cache/pavane if need be.

    Raises NoNativeKernelError.
    """
    level = _level(os.environ.get("PAVANE_NATIVE_LEVEL", ""))
    library = PREBUILT / _file_name(level)
    if not library.exists():
        library = _cache() / _file_name(level)
    try:
        if not library.exists():
            build(level, library)
        return _loaded(library)
    except OSError as error:
        raise NoNativeKernelError(
            f"the kernels cannot be stored or loaded in {library.parent}: {error}; set XDG_CACHE_HOME to a writable "
            "folder"
        ) from None


def _cache() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given or Path.home() / ".cache") / "pavane"
    except RuntimeError:  # a user without a name or a home, as containers may have
        raise NoNativeKernelError("there is no home folder for the kernels; set XDG_CACHE_HOME to a folder") from None


def _loaded(library: Path) -> ctypes.CDLL:
    ctypes.CDLL(_openmp(), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(library))


def build(level: Level, library: Path) -> None:
    """Compiles the kernels for `level` into the file `library`. Raises NoNativeKernelError or OSError."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NoNativeKernelError("no C++ compiler found: install g++ (or set CXX) for the fast kernels")
    library.parent.mkdir(parents=True, exist_ok=True)
    log.info("compiling the kernels (%s), once per machine and version: half a minute to two", level.name)
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        compiled, built = Path(scratch) / "pavane.o", Path(scratch) / library.name
        # Linked without -fopenmp: the symbols of the runtime are found when the library is loaded.
        for command in (
            [compiler, *FLAGS, *level.flags, "-c", str(SOURCE / "pavane.cpp"), "-o", str(compiled)],
            [compiler, "-shared", str(compiled), "-o", str(built)],
        ):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_S, check=False)
            except subprocess.TimeoutExpired:
                raise NoNativeKernelError(f"{compiler} did not finish in {COMPILER_S} s") from None
            if done.returncode:
                raise NoNativeKernelError(f"{compiler} failed: {done.stderr.strip()[-500:]}")
        try:
            _loaded(built)  # what cannot be loaded would otherwise be kept, and never be built again
        except OSError as error:
            raise NoNativeKernelError(f"{compiler} made a library that cannot be loaded: {error}; set CXX") from None
        built.replace(library)
    log.info("compiled the kernels into %s", library)


def _level(forced: str) -> Level:
    machine = platform.machine()
    levels = LEVELS.get(machine, ())
    features = _features()
    usable = [level for level in levels if level.needs <= features and forced in ("", level.name)]
    if not usable:
        asked = f" named {forced!r} (PAVANE_NATIVE_LEVEL)" if forced else ""
        raise NoNativeKernelError(f"there is no kernel{asked} for this processor ({machine})")
    return usable[0]


@cache
def _features() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(line.partition(":")[2].split())


@cache
def _version() -> str:
    """Of all that decides what is compiled, but the level."""
    sources = [path.read_bytes() for path in sorted(SOURCE.glob("*.h")) + sorted(SOURCE.glob("*.cpp"))]
    return hashlib.blake2b(b"\0".join([*sources, " ".join(FLAGS).encode()]), digest_size=8).hexdigest()


def _file_name(level: Level) -> str:
    return f"pavane-{platform.machine()}-{level.name}-{_version()}.so"


def _openmp() -> str:
    """torch's own runtime; it is loaded already, but not for others to see."""
    bundled = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    return str(bundled[0]) if bundled else "libgomp.so.1"


def main() -> None:
    """Builds all levels of this machine's architecture into the package, for wheels and images."""
    places = {level: PREBUILT / _file_name(level) for level in LEVELS.get(platform.machine(), ())}
    with ThreadPoolExecutor() as threads:  # each waits for a compiler
        for library, _ in zip(places.values(), threads.map(build, places.keys(), places.values()), strict=True):
            sys.stdout.write(f"{library}\n")


if __name__ == "__main__":
    main()
