"""The benchmark of one GPU on the GPU's own runner, on a CPU: FlashInfer's kernels are stood in for."""

import math

import pytest
import torch
from support.flashinfer_standin import STAND_IN
from support.gpu_attention import again
from support.row_by_row import RowByRow, RowOps

from pavane.bench.gpu import correctness, decode, float8, invariant, models, prefill
from pavane.bench.gpu.card import Card
from pavane.bench.gpu.section import run_sections
from pavane.bench.gpu.sizes import SMALL, Sizes
from pavane.bench.gpu.subject import Subject
from pavane.kernels.linear import tiled_linear
from pavane.models.cuda import Device
from pavane.models.gpu_memory import Used

CPU = torch.device("cpu")
STANDING_IN = Device(
    CPU, True, 264, STAND_IN, RowOps(), lambda: Used(0, 0, 0, 0), lambda: None, again, tiled_linear, RowByRow
)


def test_the_runner_of_a_gpu_is_right_and_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.gpu_check, "check", lambda found, *, float8: None)
    monkeypatch.setattr(models, "this_gpu", lambda *, eager: STANDING_IN)

    def opener(sizes: Sizes, device: torch.device) -> models.Model:
        return models._on_a_gpu(sizes, device)

    subject = Subject(Card(CPU, True, 1e10, 1e12), SMALL, opener)
    sections = (correctness.SECTION, decode.SECTION, decode.SHARING, prefill.SECTION, float8.SECTION, invariant.SECTION)
    only = [section.name for section in sections]
    outcome = run_sections(
        sections, subject, only=only, deadline=math.inf, say=lambda text: None, keep=lambda so_far: None
    )
    assert outcome.errors == {}
    assert {line.state for line in outcome.lines} == {"measured"}
    error, captured, tokens = (line.measured for line in outcome.lines if line.section == "correctness")
    assert error is not None
    assert captured is not None
    assert tokens is not None
    assert 0 < error.value < 0.01  # bfloat16
    assert captured.value < 0.01
    assert tokens.value == 1
    (rounded,) = (line.measured for line in outcome.lines if line.row is float8.ERROR)
    assert rounded is not None
    assert 0 < rounded.value < 0.01  # what is stored is read as it is
    assert [line.measured.value for line in outcome.lines if line.row is invariant.BITS and line.measured] == [0]
