"""The Triton kernels compile for an H200: no GPU is needed for that."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("triton")
WIDE = {"store_kv_kernel", "rotate_heads_kernel", "merge_kernel", "rms_norm_kernel", "silu_mul_kernel"}
WIDE |= {"quantise_rows_kernel", "silu_mul_quantised_kernel", "linear_kernel", "attend_kernel"}
WIDE |= {"carry_kernel", "checksum_kernel"}


def test_every_launch_compiles_without_spilled_registers_and_moves_16_bytes_at_once(tmp_path: Path) -> None:
    paths = [path for path in sys.path if path]
    env = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(paths)}
    env.pop("TRITON_INTERPRET", None)
    run = [sys.executable, "-m", "support.compiled"]
    made = json.loads(subprocess.run(run, env=env, capture_output=True, text=True, check=True).stdout)
    # Whatever the rows of a step are and wherever in an array they begin, one compilation serves: with and without a
    # float8 cache, values beside the keys, shares, residuals (and for heads, and into float8), inner sizes, edits; of
    # other sizes of layers and other dtypes; KV that is carried out and back.
    assert Counter(each["kernel"] for each in made) == {
        "store_kv_kernel": 2,
        "rotate_heads_kernel": 3,
        "expand_extents_kernel": 1,
        "merge_kernel": 2,
        "rms_norm_kernel": 4,
        "silu_mul_kernel": 1,
        "silu_mul_quantised_kernel": 1,
        "quantise_rows_kernel": 2,
        "choose_kernel": 2,
        "edit_kernel": 1,
        "linear_kernel": 4,
        "attend_kernel": 2,
        "carry_kernel": 2,
        "checksum_kernel": 1,
    }
    assert [each for each in made if each["stack"] or each["local"]] == []
    assert [each for each in made if each["kernel"] in WIDE and not each["wide"]] == []
