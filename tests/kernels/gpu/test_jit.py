"""Opt-in: FlashInfer's kernels compile for Hopper with the toolkit that is here. Takes minutes: PAVANE_TEST_JIT=1."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, torch
from flashinfer.jit.attention.modules import gen_batch_prefill_module
bf16 = torch.bfloat16
gen_batch_prefill_module(sys.argv[1], bf16, bf16, bf16, torch.int32, 128, 128, 0, False, False, False).build(True)
"""


@pytest.mark.skipif(os.environ.get("PAVANE_TEST_JIT") != "1", reason="takes minutes: PAVANE_TEST_JIT=1")
@pytest.mark.parametrize("backend", ["fa2", "fa3"])
def test_the_kernels_compile_for_hopper(backend: str, tmp_path: Path) -> None:
    found = {"FLASHINFER_CUDA_ARCH_LIST": "9.0a", "FLASHINFER_WORKSPACE_BASE": str(tmp_path)}
    environment = {"CUDA_HOME": "/usr/local/cuda"} | dict(os.environ) | found
    done = subprocess.run([sys.executable, "-c", SCRIPT, backend], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.rglob("*.so"))
