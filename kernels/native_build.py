"""Compiles the C++ kernel once per machine and kernel version, with the compiler that is there."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("dag_attention.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-Wall")


class NoNativeKernelError(Exception):
    """The kernel cannot be built or loaded here; the text says why. The torch backend works without it."""


def load_native(cache: Path | None = None) -> ctypes.CDLL:
    """The kernel, from `cache` (default: $XDG_CACHE_HOME/pavane or ~/.cache/pavane), compiled if it is not there."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise NoNativeKernelError("no C++ compiler found: install g++ (or set CXX) for the fast attention kernel")
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pavane"
    library = folder / f"dag_attention-{_fingerprint(compiler)}.so"
    try:
        if not library.exists():
            _compile(compiler, library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NoNativeKernelError(f"the attention kernel cannot be stored or loaded in {folder}: {error}") from None


def _compile(compiler: str, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    # torch's own OpenMP runtime: a second one in the process would fight with it for the cores.
    openmp = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        built = Path(scratch) / library.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(built), *map(str, openmp[:1])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            raise NoNativeKernelError(f"{compiler} did not finish in 120 s") from None
        if done.returncode:
            raise NoNativeKernelError(f"{compiler} failed: {done.stderr.strip()[-500:]}")
        built.replace(library)
    log.info("compiled the attention kernel into %s", library)


def _fingerprint(compiler: str) -> str:
    """Of all that decides whether a compiled kernel fits: source, flags, compiler, torch, processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    parts = (SOURCE.read_text(), *FLAGS, version, torch.__version__, platform.machine(), _cpu())
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
