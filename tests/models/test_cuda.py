"""Bringing a model to a GPU, with what stands in for one: what may be missing, memory, warming up."""

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support.flashinfer_standin import STAND_IN, PagedStandIn
from support.gpu_attention import again
from support.harness import tiny_runner
from support.row_by_row import RowByRow
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.batch import NO_TOKEN
from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.gpu.wrappers import Library
from pavane.kernels.linear import tiled_linear
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models import cuda, gpu_check
from pavane.models import gpu_warmup as warm_up
from pavane.models.config import ModelConfig
from pavane.models.cuda import Device, Wanted, gpu_runner
from pavane.models.errors import ModelError
from pavane.models.gpu_check import Surroundings, check, check_float8_sizes, check_model
from pavane.models.gpu_memory import Used, pool_slots
from pavane.models.gpu_runner import GpuRunner
from pavane.models.loaded import LoadedModel
from pavane.server import runners
from pavane.server.config import ConfigError, ServerConfig
from tests.models.test_runner import step

torch.set_num_threads(1)
GB = 10**9
FINE = Surroundings("13.0", "", "NVIDIA H200", (9, 0), 141 * GB, "0.6.18.post1", True, True, False)
OPTIONS = ["--kv-cache-dtype", "--quantization"]
CONFIG = tiny_config(head_dim=64, hidden_size=32, num_layers=2, max_position=200)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"torch_cuda": None}, r"torch is built without CUDA; install .*, or use --device cpu"),
        (
            {"error": "The NVIDIA driver on your system is too old (found version 12040)."},
            r"driver is too old for CUDA 13.0.*install a newer driver, or use --device cpu \(The NVIDIA driver",
        ),
        ({"error": "Found no NVIDIA driver on your system."}, r"no GPU that it can use \(Found no.*nvidia-smi"),
        ({"capability": (7, 5), "name": "Tesla T4"}, r"Tesla T4 has compute capability 7.5; 8.0 is needed"),
        ({"flashinfer": None}, r"FlashInfer is not installed; pip install 'pavane\[gpu\]', or use --device cpu"),
        ({"flashinfer": "0.7.2"}, r"flashinfer-python is 0.7.2, and 0.6.x is needed"),
        (
            {"compiler": False},
            r"not built and nvcc \(CUDA's toolkit\) is not .*flashinfer-jit-cache of version 0.6",
        ),
        ({"ninja": False}, r"not built and ninja is not there"),
    ],
)
def test_what_is_missing_is_one_line_that_says_what_to_do(changes: dict[str, object], words: str) -> None:
    check(FINE)
    check(replace(FINE, compiler=False, ninja=False, built=True))
    with pytest.raises(ModelError, match=words) as caught:
        check(replace(FINE, **changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_dim": 80}, "heads of 80 dimensions are not supported, only of 64, 128, 256"),
        ({"num_heads": 7}, "7 query heads are no multiple of 2"),
    ],
)
def test_models_that_the_kernels_cannot_run(changes: dict[str, Any], words: str) -> None:
    check_model(CONFIG)
    with pytest.raises(ModelError, match=words):
        check_model(replace(CONFIG, **changes))


def test_here_looking_finds_no_gpu() -> None:
    found = gpu_check.look()
    assert (found.torch_cuda is None) == (torch.version.cuda is None)
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ModelError, match="--device cuda"):
        check(found)


@pytest.mark.parametrize(
    ("asked", "found", "device"),
    [
        ({"device": "cpu"}, FINE, "cpu"),
        ({"device": "cuda"}, FINE, "cuda"),
        ({}, FINE, "cuda"),
        ({"kv_cache_dtype": "fp8", "quantization": "fp8"}, FINE, "cuda"),
        ({"dtype": "float32"}, FINE, "cuda"),
        ({"batch_invariant": True}, FINE, "cuda"),
        ({}, replace(FINE, flashinfer=None), "cpu"),
        ({}, replace(FINE, error="Found no NVIDIA driver", name=""), "cpu"),
    ],
)
def test_which_device_is_taken(
    asked: dict[str, object],
    found: Surroundings,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu_check, "look", lambda: found)
    settled = runners.settled(ServerConfig(**asked))  # type: ignore[arg-type]
    assert (settled.device, settled.num_slots) == (device, 0 if device == "cuda" else 16_384)
    assert runners.settled(ServerConfig(num_slots=77, **asked)).num_slots == 77  # type: ignore[arg-type]
    assert ("is not used: --device cuda: FlashInfer is not installed" in caplog.text) == (found.flashinfer is None)


@pytest.mark.parametrize("found", [None, replace(FINE, flashinfer=None), replace(FINE, capability=(8, 0))])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_cpu_has_no_eight_bits(
    option: str, found: Surroundings | None, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    words = f"{option} fp8 needs a GPU, and the model would run on the CPU: leave it out, or use --device cuda, which"
    asked: dict[str, Any] = {option.removeprefix("--").replace("-", "_"): "fp8"}
    if found is None:
        with pytest.raises(ConfigError, match=words):
            runners.settled(ServerConfig(device="cpu", **asked))
        return
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu_check, "look", lambda: found)
    with pytest.raises(ConfigError, match=words):
        runners.settled(ServerConfig(**asked))
    with pytest.raises(ModelError, match=r"FlashInfer is not installed|compute capability 8.0, and fp8 needs 8.9"):
        runners.settled(ServerConfig(device="cuda", **asked))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("other", [{"batch_invariant": True}, {"dtype": "float32"}])
def test_what_excludes_eight_bits(option: str, other: dict[str, Any]) -> None:
    name = "--batch-invariant" if "batch_invariant" in other else "--dtype float32"
    asked = {option.removeprefix("--").replace("-", "_"): "fp8"}
    with pytest.raises(ConfigError, match=f"{option} fp8 and {name} exclude each other: leave one of them out"):
        ServerConfig(**other, **asked)


@pytest.mark.parametrize(("name", "size"), [("hidden_size", 40), ("intermediate_size", 56)])
def test_sizes_without_products_of_eight_bits(name: str, size: int) -> None:
    check_float8_sizes(CONFIG)
    with pytest.raises(ModelError, match=f"the model's {name} is {size}, and the kernels take multiples of 16; leave"):
        check_float8_sizes(replace(CONFIG, **{name: size}))  # type: ignore[arg-type]


def test_the_pool_is_what_the_rest_leaves() -> None:
    used = Used(total=100 * GB, others=2 * GB, weights=16 * GB, peak=20 * GB)
    assert pool_slots(used, 0.9, 10**5, reserve=GB, least=512) == (90 - 2 - 20 - 1) * 10**4
    words = (
        r"--gpu-memory-utilization 0.2 of 100.0 GB leaves 0.00 GB for KV, and 512 slots need 0.05 GB: weights take "
        r"16.0 GB, the largest step 4.0 GB, others 2.0 GB"
    )
    with pytest.raises(ModelError, match=words):
        pool_slots(used, 0.2, 10**5, GB, 512)


def bring(config: ModelConfig, wanted: Wanted, device: Device) -> GpuRunner:
    rope = RopeTable(rope_frequencies(config.rope, config.head_dim)[0], config.max_position)
    return gpu_runner(config, tiny_weights(config), rope, wanted, device)


def standing(used: Used) -> Device:
    device = torch.device("cpu")
    return Device(
        device, True, 264, STAND_IN, TorchOps(), lambda: used, lambda: None, again, tiled_linear, RowByRow
    )  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "SCRATCH_KEYS", 1000)
    monkeypatch.setattr(cuda, "WORKSPACE_BYTES", 1024)


@pytest.mark.usefixtures("small")
def test_kernels_are_warmed_up_and_the_pool_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="pavane")
    slot = 2 * 2 * 2 * 64 * 2  # K and V of two layers and heads, in two bytes
    used = Used(total=cuda.GRAPHS + 2 * GB, others=0, weights=0, peak=2 * GB - 6000 * slot)
    runner = bring(CONFIG, Wanted(0, 1.0, 512, 8, staging=1000 * slot), standing(used))
    assert runner.slots == 5000
    lines = [record.getMessage() for record in caplog.records]
    assert sum(line.startswith("warming up ") for line in lines) == 6
    assert "5000 slots of KV on the GPU, in bfloat16" in lines
    result = runner.execute(step(0, NO_TOKEN))
    assert np.isfinite(result.logprobs).all()


@pytest.mark.usefixtures("small")
def test_a_pool_of_eight_bits_has_twice_the_slots() -> None:
    slot = 2 * 2 * 2 * 64 * 2
    used = Used(total=cuda.GRAPHS + 2 * GB, others=0, weights=0, peak=2 * GB - 2500 * slot)
    runner = bring(CONFIG, Wanted(0, 1.0, 512, 8, float8_kv=True), standing(used))
    assert runner.slots == 5000
    assert runner.pages().page_bytes == 16 * slot // 2
    assert np.isfinite(runner.execute(step(0, NO_TOKEN)).logprobs).all()


@pytest.mark.usefixtures("small")
def test_products_of_eight_bits_run_in_graphs_as_outside() -> None:
    wanted = Wanted(600, 1.0, 16, 8, float8_kv=True, float8_weights=True)
    captured, plain = (bring(CONFIG, wanted, standing(Used(GB, 0, 0, 0))._replace(record=way)) for way in (again, None))
    for position in range(3):
        results = [runner.execute(step(position, NO_TOKEN)) for runner in (captured, plain)]
        np.testing.assert_allclose(results[0].logprobs, results[1].logprobs, atol=1e-5)
        assert results[0].tokens.tolist() == results[1].tokens.tolist()
    assert captured.model.decoder._layers[0].down.dtype is torch.float8_e4m3fn


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("kv", "weights"), [("auto", "auto"), ("fp8", "auto"), ("auto", "fp8")])
def test_what_the_flags_ask_for_is_made(kv: str, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "this_gpu", lambda eager: standing(Used(GB, 0, 0, 0)))
    config = ServerConfig(device="cuda", num_slots=600, kv_cache_dtype=kv, quantization=weights)
    loaded = LoadedModel(CONFIG, tiny_weights(CONFIG), None, "tiny", files=())  # type: ignore[arg-type]
    runner = runners.make_runner(loaded, config, 100)
    assert isinstance(runner, GpuRunner)
    model = runner.model
    assert (model.attention.store.k.dtype is torch.float8_e4m3fn) == (kv == "fp8")
    assert (model.decoder._layers[0].qkv.dtype is torch.float8_e4m3fn) == (weights == "fp8")
    assert runner.pages().page_bytes == 16 * runners.slot_bytes(CONFIG, config)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.usefixtures("small")
def test_keys_that_eight_bits_cut_are_told(large: bool, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(CONFIG, qkv_bias=True)
    weights = tiny_weights(config)
    weights["layers.1.self_attn.k_proj.bias"].view(-1, 64)[:, [3, 35]] = 700.0 if large else 300.0
    rope = RopeTable(rope_frequencies(config.rope, config.head_dim)[0], config.max_position)
    gpu_runner(config, weights, rope, Wanted(600, 1.0, 16, 8, float8_kv=True), standing(Used(GB, 0, 0, 0)))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == large
    assert all(" % of the warm-up's K and V are beyond what fp8 holds" in line for line in told)


class Unbuilt(PagedStandIn):
    """FlashInfer's class where one backend, or both, cannot be compiled."""

    def __init__(self, *args: object, backend: str, **given: object) -> None:
        if backend in self.broken:
            raise RuntimeError("Ninja build failed")
        super().__init__(*args, backend=backend, **given)  # type: ignore[arg-type]

    broken: tuple[str, ...] = ()


@pytest.mark.usefixtures("small")
def test_kernels_that_cannot_be_built_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unbuilt, "broken", ("fa2", "fa3"))
    broken = standing(Used(GB, 0, 0, 0))._replace(flashinfer=STAND_IN._replace(paged=Unbuilt))
    with pytest.raises(ModelError, match=r"cannot be built \(decodes\): Ninja build failed; use --device cpu"):
        bring(CONFIG, Wanted(100, 0.9, 16, 8), broken)


@pytest.mark.usefixtures("small")
def test_without_the_kernels_for_hopper_the_others_do(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Unbuilt, "broken", ("fa3",))
    runner = bring(
        CONFIG,
        Wanted(600, 0.9, 16, 8),
        standing(Used(GB, 0, 0, 0))._replace(flashinfer=STAND_IN._replace(paged=Unbuilt)),
    )
    assert "without FlashInfer's kernels for Hopper (a long prefill): Ninja build failed" in caplog.text
    assert np.isfinite(runner.execute(warm_up.step([200], 200, before=0)).logprobs).all()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("dtype", "invariant"), [(torch.float32, False), (torch.float32, True), (torch.bfloat16, True)]
)
def test_float32_and_batch_invariance_do_without_flashinfer(dtype: torch.dtype, invariant: bool) -> None:
    device = standing(Used(GB, 0, 0, 0))._replace(flashinfer=Library(None, None))
    runner = bring(CONFIG, Wanted(300, 0.9, 40, 8, dtype, invariant), device)
    assert runner.model.attention.store.k.dtype is runner.model.decoder.dtype is dtype
    result = runner.execute(step(0, NO_TOKEN))
    plain = tiny_runner(CONFIG, tiny_weights(CONFIG), 8)
    expected = plain.execute(step(0, NO_TOKEN))
    np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-4 if dtype is torch.float32 else 0.1)


class Broken(RowByRow):
    def run(self, *_: object) -> None:
        raise RuntimeError("PTXAS error")


@pytest.mark.usefixtures("small")
def test_own_kernels_that_cannot_be_built_are_one_line() -> None:
    broken = standing(Used(GB, 0, 0, 0))._replace(tiles=Broken)
    with pytest.raises(ModelError, match=r"Triton's kernels cannot be built \(decodes\): PTXAS error; use --device"):
        bring(CONFIG, Wanted(100, 0.9, 16, 8, torch.float32), broken)
