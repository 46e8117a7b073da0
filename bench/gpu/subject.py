"""What the sections measure on: the card, and an engine with a model on it, opened when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec

import torch

from pavane.bench.gpu.card import Card
from pavane.bench.gpu.engine import Engine, Model
from pavane.bench.gpu.section import NotHere
from pavane.bench.gpu.sizes import Sizes
from pavane.bench.gpu.timing import seconds
from pavane.kernels.batch import Batch
from pavane.kernels.gpu.ops import Ops, Rotations, TorchOps
from pavane.kernels.gpu.wrappers import Library
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models.gpu_toolkit import point_to_toolkit

Opener = Callable[[Sizes, torch.device], Model]


class Subject:
    """`library`: what stands in for FlashInfer; None: FlashInfer itself."""

    def __init__(self, card: Card, sizes: Sizes, opener: Opener, library: Library | None = None) -> None:
        self.card = card
        self.sizes = sizes
        self._opener = opener
        self._library = library
        self._engine: Engine | None = None
        self._why = ""

    def engine(self) -> Engine:
        """Raises NotHere if it could not be opened, now or before."""
        if self._why:
            raise NotHere(self._why)
        if self._engine is None:
            try:
                model = self._opener(self.sizes, self.card.device)
            except Exception as error:
                self._why = f"the model could not be opened: {type(error).__name__}: {error}"
                raise
            self._engine = Engine(model, budget=self.sizes.prompt)
        return self._engine

    def another(self, sizes: Sizes) -> Engine:
        """An engine with a model of its own, for as long as somebody holds it. Raises NotHere, and what the models
        do."""
        return Engine(self._opener(sizes, self.card.device), budget=sizes.prompt)

    def flashinfer(self) -> Library:
        """Raises NotHere."""
        if self._library is not None:
            return self._library
        if self.card.device.type != "cuda" or find_spec("flashinfer") is None:
            raise NotHere("FlashInfer needs a GPU, and flashinfer-python installed")
        point_to_toolkit()
        prefill = import_module("flashinfer.prefill")
        return Library(prefill.BatchPrefillWithPagedKVCacheWrapper, prefill.BatchPrefillWithRaggedKVCacheWrapper)

    def ops(self) -> Ops:
        """As Triton kernels on a GPU, in torch elsewhere."""
        if self.card.device.type != "cuda":
            return TorchOps()
        ops: Ops = import_module("pavane.kernels.gpu.ops_triton").TritonOps()
        return ops

    @cached_property
    def rotations(self) -> Rotations:
        config = self.sizes.config
        frequencies, scale = rope_frequencies(config.rope, config.head_dim)
        return Rotations.of(RopeTable(frequencies, config.max_position, scale), self.card.device)

    def ints(self, count: int) -> torch.Tensor:
        """0, 1, 2 ...; int32 [count]."""
        return torch.arange(count, dtype=torch.int32, device=self.card.device)


def attention_seconds(model: Model, batch: Batch, device: torch.device) -> float:
    """Of all layers of the step `batch`, on random queries, keys and values, with its plan made before. Writes to the
    slots of its rows, whose content is of no use after that."""
    config = model.config
    dtype = torch.float32 if model.itemsize == 4 else torch.bfloat16
    n = batch.n_rows
    q, k, v = (
        torch.randn(n, heads, config.head_dim, device=device).to(dtype)
        for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    )
    plan = model.attention.plan(batch)

    def layers() -> None:
        for layer in range(config.num_layers):
            model.attention.attend(layer, q, k, v, plan)

    return seconds(device, layers)
