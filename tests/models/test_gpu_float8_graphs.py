"""Message graphs on KV and weights in float8: scores, where attention goes, and a tier below, against float32."""

import numpy as np
import pytest
import torch
from support.flashinfer_standin import STAND_IN
from support.gpu_attention import again
from support.harness import Harness, decode, prefill, tiny_runner
from support.row_by_row import RowByRow
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.batch import Runner
from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.linear import tiled_linear
from pavane.kernels.moves import host_mover
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models import cuda
from pavane.models.cuda import Device, Wanted, gpu_runner
from pavane.models.gpu_memory import Used
from pavane.models.gpu_runner import GpuRunner
from pavane.scheduler.spec import ParentSpec

torch.set_num_threads(1)
CONFIG = tiny_config()
WEIGHTS = tiny_weights(CONFIG)
DEVICE = Device(
    torch.device("cpu"), True, 264, STAND_IN, TorchOps(), lambda: Used(0, 0, 0, 0), lambda: None, again,
    tiled_linear, RowByRow,
)  # fmt: skip
FORCED = (4, 5, 6, 7, 50, 51, 52)
PARENTS = {"a": range(10, 50), "b": range(30, 80), "c": range(5, 35)}
READ = (("c", "a"), ("b", "c"), ("a", "b"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "SCRATCH_KEYS", 1000)
    monkeypatch.setattr(cuda, "WORKSPACE_BYTES", 1024)


def runner(slots: int, *, weights: bool, host_pages: int = 0) -> GpuRunner:
    rope = RopeTable(rope_frequencies(CONFIG.rope, CONFIG.head_dim)[0], CONFIG.max_position + 1)
    wanted = Wanted(slots, 1.0, 64, 16, float8_kv=True, float8_weights=weights)
    made = gpu_runner(CONFIG, dict(WEIGHTS), rope, wanted, DEVICE)
    if host_pages:
        layout = made.pages()
        made.mover = host_mover(layout, host_pages * layout.page_bytes)
    return made


def played(model: Runner, slots: int, host_pages: int = 0) -> Harness:
    harness = Harness(model, slots, host_pages=host_pages)
    harness.submit(*(prefill(name, list(tokens)) for name, tokens in PARENTS.items()))
    for i, names in enumerate(READ):
        harness.submit(decode(f"d{i}", [3], *names, forced=FORCED, attention_mass=True))
        harness.run()
    return harness


def check_masses(harness: Harness, expected: Harness) -> None:
    """Random weights of few dimensions make logits chaotic, also in bfloat16; where attention goes is steadier."""
    for i in range(len(READ)):
        got, exact = (dict(each.outcome(f"d{i}").receipt.attention_mass) for each in (harness, expected))
        assert got == pytest.approx(exact, abs=0.03)
        assert sum(got.values()) == pytest.approx(1, abs=1e-3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("weights", [False, True])
def test_attention_goes_where_it_goes_in_float32(weights: bool) -> None:
    check_masses(played(runner(2000, weights=weights), 2000), played(tiny_runner(CONFIG, WEIGHTS, 2000), 2000))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("weights", [False, True])
def test_scores_are_what_the_same_calls_report(weights: bool) -> None:
    harness = played(runner(2000, weights=weights), 2000)
    exact = [ParentSpec(name, exact=True) for name in ("b", "a")]
    harness.submit(
        decode("reuse", [3], "b", "a", forced=FORCED, logprobs=1),
        decode("exact", [3], *exact, forced=FORCED, logprobs=1),
    )
    harness.run()
    scores = harness.score(decode("s", [3], "b", "a", forced=FORCED), per_parent=True)
    harness.run()
    found = scores[0]
    assert found.failure is None
    np.testing.assert_allclose(found.logprobs, harness.outcome("reuse").logprobs, atol=1e-3)
    np.testing.assert_allclose(found.against_logprobs, harness.outcome("exact").logprobs, atol=1e-3)
    assert min(found.kl) > 0.01, "the edges' encodings differ"


@pytest.mark.usefixtures("small")
def test_kv_that_was_moved_out_and_back_is_read_again() -> None:
    """A pool that holds two of the three parents."""
    model = runner(110, weights=False, host_pages=20)
    narrow = played(model, 110, 20)
    assert model.mover is not None
    assert model.mover.tier.used > 0
    assert all(narrow.outcome(f"d{i}").receipt.reencoded == 0 for i in range(len(READ)))
    check_masses(narrow, played(runner(2000, weights=False), 2000))
