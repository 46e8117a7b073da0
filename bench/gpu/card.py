"""The card: what it is, and the two rates that everything else is held against, measured on it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pavane.bench.gpu.rows import Measured, Row
from pavane.bench.gpu.section import Notes, NotHere, Section
from pavane.bench.gpu.timing import seconds

READ = "read bandwidth, TB/s"
PRODUCTS = "bf16 matrix products, TFLOP/s"


@dataclass
class Card:
    """A device, and its rates once the section `card` has run."""

    device: torch.device
    small: bool  # sizes that show that it works, for any device
    bandwidth: float = 0.0  # bytes/s
    rate: float = 0.0  # FLOP/s

    def rates(self) -> tuple[float, float]:
        """(bandwidth, rate). Raises NotHere."""
        if not self.bandwidth or not self.rate:
            raise NotHere("the card's rates are not known: the section card has to run before")
        return self.bandwidth, self.rate


class HasCard(Protocol):
    @property
    def card(self) -> Card: ...


def require_gpu(device: str) -> torch.device:
    """Raises NotHere, with what to do, if `device` is a GPU that is not there."""
    if device == "cpu":
        return torch.device("cpu")
    if not torch.version.cuda:
        text = f"no GPU: torch {torch.__version__} is built without CUDA; install a build that has it"
        raise NotHere(f"{text}, or see that this works by --device cpu --small")
    if not torch.cuda.is_available():
        text = "no GPU: torch sees none, and nvidia-smi may say why"
        raise NotHere(f"{text}; see that this works by --device cpu --small")
    return torch.device(device)


def measure(subject: HasCard, notes: Notes) -> Iterator[Measured]:
    card = subject.card
    notes.data.update(about(card.device))
    elements, side = (1 << 20, 256) if card.small else (1 << 30, 8192)
    # Random numbers: a product of zeros runs faster than any real one.
    values = torch.randn(elements, device=card.device)
    took = seconds(card.device, values.sum)
    card.bandwidth = values.nbytes / took
    yield Measured(READ, card.bandwidth / 1e12, f"{values.nbytes / 1e9:.1f} GB in {took * 1e3:.2f} ms")
    del values
    a, b = (torch.randn(side, side, device=card.device).to(torch.bfloat16) for _ in range(2))
    took = seconds(card.device, lambda: a @ b)
    card.rate = 2 * side**3 / took
    yield Measured(PRODUCTS, card.rate / 1e12, f"{side}^3 in {took * 1e3:.2f} ms")


def about(device: torch.device) -> dict[str, Any]:
    """Enough to judge a figure by."""
    found: dict[str, Any] = {
        "device": str(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": _version("triton"),
        "flashinfer": _version("flashinfer-python"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "card": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gb": round(properties.total_memory / 1e9, 1),
            "l2_mb": round(properties.L2_cache_size / 1e6, 1),
        }
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


SECTION: Section[Any] = Section("card", (Row(READ), Row(PRODUCTS)), 10, measure)
