"""Opt-in: FlashInfer's kernels compile for Hopper with the toolkit that is here, and plan what they are given. Takes
minutes: PAVANE_TEST_JIT=1, with FlashInfer's own requirements installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPILE = """
import sys, torch
from pavane.models.gpu_toolkit import point_to_toolkit
point_to_toolkit()
from flashinfer.jit.attention.modules import gen_batch_prefill_module
bf16 = torch.bfloat16
gen_batch_prefill_module(sys.argv[1], bf16, bf16, bf16, torch.int32, 128, 128, 0, False, False, False).build(True)
"""
SUPPORT = Path(__file__).parents[2] / "support"


@pytest.mark.skipif(os.environ.get("PAVANE_TEST_JIT") != "1", reason="takes minutes: PAVANE_TEST_JIT=1")
def test_the_kernels_compile_for_hopper_and_plan_random_steps(tmp_path: Path) -> None:
    environment = {
        "CUDA_HOME": "/usr/local/cuda",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "FLASHINFER_CUDA_ARCH_LIST": "9.0a",
        "FLASHINFER_WORKSPACE_BASE": str(tmp_path),
        "FLASHINFER_EXTRA_LDFLAGS": f"-L{tmp_path} -Wl,--as-needed",  # a driver to link with, where there is none
    }

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    stub = tmp_path / "libcuda.so"
    run("gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-xc", "/dev/null", "-o", str(stub))
    runtime = tmp_path / "libruntime.so"
    run("gcc", "-shared", "-fPIC", "-Wall", str(SUPPORT / "cuda_runtime.c"), "-o", str(runtime))
    for backend in ("fa2", "fa3"):
        run(sys.executable, "-c", COMPILE, backend)
    libraries = f"{environment['CUDA_HOME']}/lib64"
    told = run(
        sys.executable, "-m", "support.real_plans", "1", "200", LD_PRELOAD=str(runtime), LD_LIBRARY_PATH=libraries
    )
    words = told.split()
    counts = dict(zip(words[1::2], map(int, words[::2]), strict=True))
    assert min(counts[kind] for kind in ("captured", "plain", "hopper")) > 100, told
