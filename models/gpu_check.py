"""What a GPU needs before anything is loaded, and one line for each thing that may be missing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch

from pavane.kernels.gpu.scaled import MULTIPLE
from pavane.models.config import ModelConfig
from pavane.models.errors import ModelError

FLASHINFER = "flashinfer-python"
VERSIONS = ("0.6.",)  # whose arguments the calls are written for
HEAD_DIMS = (64, 128, 256)
OLDEST = (8, 0)  # compute capability: bfloat16
OLDEST_FLOAT8 = (8, 9)
HOPPER = 9
TOOLKIT = Path("/usr/local/cuda/bin/nvcc")
INSTEAD = "or use --device cpu"


@dataclass(frozen=True)
class Surroundings:
    """What was found.

    Attributes:
        torch_cuda: the version of CUDA that torch is built for, None if for none.
        error: what CUDA said when it was started, empty if nothing.
        name, capability, total: of the GPU.
        flashinfer: its version, None if it is not installed.
        compiler, ninja: whether its kernels can be compiled.
        built: whether all that is needed is built already.
    """

    torch_cuda: str | None
    error: str = ""
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    total: int = 0
    flashinfer: str | None = None
    compiler: bool = False
    ninja: bool = False
    built: bool = False


def look() -> Surroundings:
    """Starts CUDA, if there is any."""
    compiler = shutil.which("nvcc") is not None or TOOLKIT.exists()
    ninja, built = shutil.which("ninja") is not None, find_spec("flashinfer_jit_cache") is not None
    try:
        version: str | None = metadata.version(FLASHINFER)
    except metadata.PackageNotFoundError:
        version = None
    error, name, capability, total = "", "", (0, 0), 0
    if torch.version.cuda is not None:
        try:
            torch.cuda.current_device()
            properties = torch.cuda.get_device_properties(0)
            name, capability = properties.name, (properties.major, properties.minor)
            total = properties.total_memory
        except (RuntimeError, AssertionError) as failed:  # torch raises either, with what the driver says
            error = " ".join(str(failed).split())
    return Surroundings(torch.version.cuda, error, name, capability, total, version, compiler, ninja, built)


def check(found: Surroundings, *, float8: bool = False) -> None:
    """Raises ModelError with one line that says what is missing and what to do; `float8` is needed as well."""
    if found.torch_cuda is None:
        raise ModelError(f"--device cuda: this torch is built without CUDA; install a build for CUDA 13, {INSTEAD}")
    if "too old" in found.error or "insufficient" in found.error:
        raise ModelError(
            f"--device cuda: the NVIDIA driver is too old for CUDA {found.torch_cuda}, which torch is built for; "
            f"install a newer driver, {INSTEAD} ({found.error})"
        )
    if found.error:
        raise ModelError(
            f"--device cuda: CUDA finds no GPU that it can use ({found.error}); see what nvidia-smi says, {INSTEAD}"
        )
    if found.capability < OLDEST:
        raise ModelError(
            f"--device cuda: {found.name} has compute capability {'.'.join(map(str, found.capability))}; "
            f"{'.'.join(map(str, OLDEST))} is needed for bfloat16: take another GPU, {INSTEAD}"
        )
    if float8 and found.capability < OLDEST_FLOAT8:
        raise ModelError(
            f"--device cuda: {found.name} has compute capability {'.'.join(map(str, found.capability))}, and fp8 needs "
            f"{'.'.join(map(str, OLDEST_FLOAT8))}; leave it out, or take another GPU"
        )
    if found.flashinfer is None:
        raise ModelError(f"--device cuda: FlashInfer is not installed; pip install 'pavane[gpu]', {INSTEAD}")
    if not found.flashinfer.startswith(VERSIONS):
        raise ModelError(
            f"--device cuda: {FLASHINFER} is {found.flashinfer}, and {VERSIONS[0]}x is needed; "
            f"pip install 'pavane[gpu]', {INSTEAD}"
        )
    if not found.built and not (found.compiler and found.ninja):
        lacking = "nvcc (CUDA's toolkit)" if not found.compiler else "ninja"
        raise ModelError(
            f"--device cuda: FlashInfer's kernels are not built and {lacking} is not there to build them; install it, "
            f"or flashinfer-jit-cache of version {found.flashinfer}, {INSTEAD}"
        )


def check_model(config: ModelConfig) -> None:
    """Raises ModelError if the kernels cannot run the model."""
    if config.head_dim not in HEAD_DIMS:
        sizes = ", ".join(map(str, HEAD_DIMS))
        raise ModelError(
            f"--device cuda: heads of {config.head_dim} dimensions are not supported, only of {sizes}; use --device cpu"
        )
    if config.num_heads % config.num_kv_heads:
        raise ModelError(
            f"--device cuda: {config.num_heads} query heads are no multiple of {config.num_kv_heads} KV heads; "
            "use --device cpu"
        )


def check_float8_sizes(config: ModelConfig) -> None:
    """Raises ModelError if there are no products in float8 of the model's sizes."""
    for name, size in (("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)):
        if size % MULTIPLE:
            raise ModelError(
                f"--quantization fp8: the model's {name} is {size}, and the kernels take multiples of {MULTIPLE}; "
                "leave it out, or choose another model"
            )
