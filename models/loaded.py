"""What loading a model gives."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from pavane.models.config import ModelConfig, Window
from pavane.models.gguf_quants import Blocks
from pavane.models.tokenizer_spec import TokenizerSpec


@dataclass(frozen=True)
class LoadedModel:
    """Everything that a model holds.

    Attributes:
        weights: contiguous CPU tensors by the names and shapes of `weight_shapes`, q and k in rotate-half layout; norms
            and biases are float32, all others of the dtype asked for.
        blocks: weights that were left as the file has them; by the same names, and not among `weights`.
        files: those that decide the weights; none if they are random.
        seed: of random weights.
        window: where the smallest sliding window comes from, for errors.
    """

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    tokenizer: TokenizerSpec
    name: str
    files: tuple[Path, ...]
    seed: int | None = None
    window: Window | None = None
    blocks: dict[str, Blocks] = field(default_factory=dict)

    def cut_vocabulary(self, size: int) -> LoadedModel:
        """Without the rows of the embedding and of the head from `size` on, as which many models are padded: what the
        tokenizer cannot spell is never sampled."""
        if size == self.config.vocab_size:
            return self
        padded = ("embed_tokens.weight", "lm_head.weight")
        weights = {name: self.weights[name][:size] for name in padded if name in self.weights}
        blocks = {name: self.blocks[name].first_rows(size) for name in padded if name in self.blocks}
        return replace(
            self,
            config=replace(self.config, vocab_size=size),
            weights=self.weights | weights,
            blocks=self.blocks | blocks,
        )
