"""Opt-in: FlashInfer's kernels compile for Hopper with the toolkit that is here, plan what they are given, and the GPU
path runs as far as the kernels themselves. Takes minutes: PAVANE_TEST_JIT=1, with FlashInfer's own requirements
installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.without_gpu import build, environment, toolkit_of

COMPILE = """
import sys, torch
from pavane.models.gpu_toolkit import point_to_toolkit
point_to_toolkit()
from flashinfer.jit.attention.modules import gen_batch_prefill_module
bf16 = torch.bfloat16
gen_batch_prefill_module(sys.argv[1], bf16, bf16, bf16, torch.int32, 128, 128, 0, False, False, False).build(True)
"""
SECTIONS = "correctness,decode,sharing,workflows,prefill,attention,host,float8,invariant,debates"
OPTED_IN = os.environ.get("PAVANE_TEST_JIT") == "1"


class StandIn:
    """Commands with a GPU that is stood in for."""

    def __init__(self, folder: Path) -> None:
        toolkit = toolkit_of(os.environ)
        paths = {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "LD_LIBRARY_PATH": str(toolkit / "lib64"),
        }
        self.environment = environment(build(folder, toolkit), toolkit, os.environ | paths)
        self.environment.setdefault("FLASHINFER_WORKSPACE_BASE", str(folder))

    def run(self, *command: str, **more: str) -> str:
        done = subprocess.run(
            (sys.executable, *command), env=self.environment | more, capture_output=True, text=True, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.mark.skipif(not OPTED_IN, reason="takes minutes: PAVANE_TEST_JIT=1")
def test_the_kernels_compile_for_hopper_and_plan_random_steps(tmp_path: Path) -> None:
    here = StandIn(tmp_path)
    for backend in ("fa2", "fa3"):
        here.run("-c", COMPILE, backend)
    told = here.run("-m", "support.real_plans", "1", "200")
    words = told.split()
    counts = dict(zip(words[1::2], map(int, words[::2]), strict=True))
    assert min(counts[kind] for kind in ("captured", "plain", "hopper")) > 100, told


@pytest.mark.skipif(not OPTED_IN, reason="takes minutes: PAVANE_TEST_JIT=1")
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
def test_the_whole_bench_runs_where_kernels_take_10_us_and_steps_hide_the_host(tmp_path: Path) -> None:
    here, out = StandIn(tmp_path), tmp_path / "gpu.json"
    here.run("-m", "pavane.bench.gpu", "spike", "--seconds", "280")
    # Tokens, for a call ends where there are none; and without the tier, which would find its sums of KV to be wrong.
    timed = {"CUDA_STANDIN_KERNEL_US": "10", "CUDA_STANDIN_TOKENS": "100000"}
    here.run("-m", "pavane.bench.gpu", "--only", SECTIONS, "--seconds", "600", "--json", str(out), **timed)
    rows = {row["what"]: row for row in json.loads(out.read_text())["rows"]}
    assert {row["state"] for row in rows.values() if row["section"] in SECTIONS.split(",")} == {"measured"}, rows
    assert rows["steps launched ahead, the same / one by one"]["value"] < 0.85


@pytest.mark.skipif(not OPTED_IN, reason="takes minutes: PAVANE_TEST_JIT=1")
@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of torch")
def test_the_stand_in_sees_memory_that_is_written_before_its_copy(tmp_path: Path) -> None:
    """What every other run here rests on."""
    command = """
import torch
there, here = torch.zeros(99, device="cuda"), torch.zeros(99).pin_memory()
there.copy_(here, non_blocking=True)
here[3] = 1
torch.cuda.synchronize()
"""
    with pytest.raises(AssertionError, match="page-locked memory was written before its copy"):
        StandIn(tmp_path).run("-c", command)
