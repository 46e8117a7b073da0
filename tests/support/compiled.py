"""Compiles for an H200, without one, what `TritonOps` and the batch-invariant kernels launch, and says as JSON what the
compiler made of it.

For a process of its own: in the process of the tests kernels are interpreted. The shapes are those of Llama 3.1 8B.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import KernelInterface

from pavane.kernels.gpu.copies_triton import TritonCopies
from pavane.kernels.gpu.edits import Edits
from pavane.kernels.gpu.invariant.launch import TileLaunch
from pavane.kernels.gpu.invariant.linear import invariant_linear
from pavane.kernels.gpu.ops import Rotations, Wishes
from pavane.kernels.gpu.ops_triton import TritonOps
from pavane.kernels.gpu.plan import Group, Kind
from pavane.kernels.gpu.upload import Staging
from pavane.kernels.gpu.wrappers import Attention

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
HEADS, KV_HEADS, DIM, HIDDEN, INNER, VOCABULARY = 32, 8, 128, 4096, 14336, 128256
WORDS = VOCABULARY // 32


class Hopper:
    """As much of a driver as compiling asks for."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread; bytes of its stack and of local memory, where what does not fit goes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {name.lower(): int(n) for name, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}


def launches(ops: TritonOps, dtype: torch.dtype, cache: torch.dtype, n: int) -> None:
    def ints(count: int) -> torch.Tensor:
        """A part of a larger array: it begins anywhere, as n has it."""
        return torch.zeros(n + count, dtype=torch.int32)[n:]

    def values(kind: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.zeros(2 * n, dtype=kind)[n:]

    table = Rotations(torch.zeros(8, DIM // 2), torch.zeros(8, DIM // 2), 1000)
    qkv = torch.zeros(n, HEADS + 2 * KV_HEADS, DIM, dtype=dtype)
    q, k, v = qkv.split([HEADS, KV_HEADS, KV_HEADS], dim=1)
    keys = torch.zeros(n, KV_HEADS, DIM, dtype=cache)
    ops.store_kv(k, v, ints(n), ints(n), keys, keys, table, 0.5, 0.5)
    ops.rotate_queries(q, ints(n), ints(n), table, torch.zeros(n, HEADS, DIM, dtype=dtype))
    there = torch.zeros(n, KV_HEADS, DIM, dtype=dtype)
    ops.gather_rotated(keys, keys, ints(n), ints(n), table, there, there, 0.5, 0.5)
    ops.expand_extents(ints(14 * n).view(-1, 2), ints(7 * n + 1), ints(n))
    for shares in (None, torch.zeros(2 * n, HEADS)[n:]):
        ops.merge(q, torch.zeros(n, HEADS), ints(n + 1), ints(n), q, shares)
    x = torch.zeros(n, HIDDEN, dtype=dtype)
    ops.add_rms_norm(x, x, x[0], 1e-5)
    ops.rms_norm(x, x[0], 1e-5)
    ops.rms_norm(k, x[0, :DIM], 1e-5)
    ops.silu_mul(torch.zeros(n, 2 * INNER, dtype=dtype))
    ops.quantise(x)
    ops.quantise(torch.zeros(n, INNER, dtype=dtype))
    ops.add_rms_norm_quantised(x, x, x[0], 1e-5)
    ops.silu_mul_quantised(torch.zeros(n, 2 * INNER, dtype=dtype))
    wishes = Wishes(ints(n), values(), values(), ints(n), values(), values(torch.int64), values(torch.int64))
    logits = torch.zeros(n, VOCABULARY)
    ops.sample(logits, wishes)
    edits = Edits(
        ints(n), values(), ints(n + 1), ints(n), ints(n + 1), ints(n), values(), ints(n), ints(n * WORDS).view(n, -1)
    )
    ops.sample(logits, wishes, edits)


def invariant_launches(dtype: torch.dtype, n: int) -> None:
    """Layers of few outputs and of many."""
    x = torch.zeros(n, HIDDEN, dtype=dtype)
    for outer in (HIDDEN, VOCABULARY):
        invariant_linear(x, torch.zeros(1, dtype=dtype).expand(outer, HIDDEN))
    launch = TileLaunch(Attention(HEADS, KV_HEADS, DIM, dtype, dtype, True), Staging(x.device))
    ends = np.array([0, n], dtype=np.int32)
    launch.plan(Group(Kind(16, False, n > 1), 0, 0, ends, ends), torch.zeros(2 * n, dtype=torch.int32)[n:])
    keys, q = torch.zeros(n, KV_HEADS, DIM, dtype=dtype), torch.zeros(2 * n, HEADS, DIM, dtype=dtype)[n:]
    launch.run(q, keys, keys, q, torch.zeros(2 * n, HEADS)[n:])


def carried(copies: TritonCopies, n: int) -> None:
    """Launches what brings `n` pages to host memory and back."""
    layers, words = 4, KV_HEADS * DIM // 2
    part = torch.zeros(layers, 100, words, dtype=torch.int32)
    rows = torch.zeros(16 * n + 5, 2, layers, words, dtype=torch.int32)
    for lane in (0, 5):
        copies.gather(part[:, :-1], torch.zeros(16 * n, dtype=torch.int64), rows[lane : lane + 16 * n, lane % 2])
        copies.scatter(part[:, :-1], torch.zeros(16 * n, dtype=torch.int64), rows[lane : lane + 16 * n, lane % 2])
    weights = torch.zeros(16 * layers * words, dtype=torch.int64)
    copies.checksums(rows[: 16 * n].view(n, -1), weights)


def main() -> None:
    made: list[dict[str, Any]] = []

    def compiled(self: Any, grid: object) -> Callable[..., None]:
        def compile_only(*args: object, **options: object) -> None:
            kernel = self.run(*args, grid=grid, warmup=True, **options)
            wide = len(re.findall(r"\.global\.(?:L1::\S+\.)?(?:v4\.b32|v2\.b64|v8\.b16)", kernel.asm["ptx"]))
            made.append({"kernel": self.__name__, "hash": kernel.hash, "wide": wide, **resources(kernel.asm["cubin"])})

        return compile_only

    KernelInterface.__getitem__ = compiled
    driver.set_active(Hopper())
    for n in (4, 1, 5, 16):
        carried(TritonCopies(), n)
    for cache in (torch.bfloat16, torch.float8_e4m3fn):
        for n in (4, 1, 5, 16):
            launches(TritonOps(), torch.bfloat16, cache, n)
    for dtype in (torch.bfloat16, torch.float32):
        for n in (4, 1, 5, 16):
            invariant_launches(dtype, n)
    json.dump(list({each["hash"]: each for each in made}.values()), sys.stdout)


if __name__ == "__main__":
    main()
