"""Memory that this machine can still give: what asks for more is refused before it is filled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import torch

from pavane.models.config import ModelConfig, layer_weight_shapes
from pavane.models.errors import ModelError

_SYSTEM, _GROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes that can be had without swapping, for the system or, if that is less, for the control group (version 2)
    that the process sees as its root; None where neither tells."""
    found = [size for size in (_of_system(), _of_group()) if size is not None]
    return min(found, default=None)


def check_fits(what: str, size: int, advice: str) -> None:
    """Raises ModelError if `size` bytes are more than there are."""
    free = available_memory()
    if free is not None and size > free:
        raise ModelError(f"{what} {size / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are available; {advice}")


def check_weights_fit(config: ModelConfig, dtype: torch.dtype) -> None:
    """Raises ModelError if the weights in `dtype` are more than the memory that is available."""
    embeddings = config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2)
    layer = _elements(layer_weight_shapes(config).values())
    size = (embeddings + config.num_layers * layer + config.hidden_size) * dtype.itemsize
    name = str(dtype).removeprefix("torch.")
    check_fits(f"the model's weights take, in {name},", size, "choose a smaller model, or one that is quantised")


def _elements(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes)


def _of_system() -> int | None:
    try:
        lines = _SYSTEM.read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return sizes[0] if sizes else None


def _of_group() -> int | None:
    """Its limit less what it uses, without the file pages that would be given up first."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
