"""The forward pass of Llama 2 and 3, Mistral, SmolLM2, Qwen 2, 2.5 and 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from pavane.kernels.linear import tiled_linear
from pavane.models.config import ModelConfig

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Linear(Protocol):
    """x [n, in], weight [out, in], bias [out]; [n, out] in the dtype of x."""

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, /) -> torch.Tensor: ...


class Layer(NamedTuple):
    """Matrices are [outputs, inputs]."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    output: torch.Tensor
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class Decoder:
    """Weights in the dtype they are given in; q, k, v and gate, up fused, so that a layer is few operations.

    Takes the entries out of `weights` as it fuses them, so that the peak memory stays near the final size.
    """

    def __init__(self, config: ModelConfig, weights: dict[str, torch.Tensor], *, batch_invariant: bool = False) -> None:
        self.config = config
        self._linear: Linear = tiled_linear if batch_invariant else F.linear
        self._embedding = weights.pop("embed_tokens.weight")
        self.dtype = self._embedding.dtype
        self._head = self._embedding if config.tie_word_embeddings else weights.pop("lm_head.weight")
        self._norm = weights.pop("norm.weight").to(self.dtype)
        self._layers = [self._take_layer(weights, f"layers.{i}.") for i in range(config.num_layers)]
        self._sizes = [config.num_heads * config.head_dim] + 2 * [config.num_kv_heads * config.head_dim]

    def forward(self, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
        """tokens int64 [n] -> final hidden states before the norm [n, hidden_size]; `attend` gets the layer, q
        [n, heads, head_dim] and k, v [n, kv_heads, head_dim], unrotated."""
        n = len(tokens)
        x = self._embedding.index_select(0, tokens)
        for i, layer in enumerate(self._layers):
            qkv = self._linear(self._rms_norm(x, layer.attention_norm), layer.qkv, layer.qkv_bias)
            q, k, v = (part.view(n, -1, self.config.head_dim) for part in torch.split(qkv, self._sizes, dim=1))
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = self._rms_norm(q, layer.q_norm), self._rms_norm(k, layer.k_norm)
            attended = attend(i, q, k, v).to(self.dtype)
            x = x + self._linear(attended, layer.output)
            gate, up = self._linear(self._rms_norm(x, layer.mlp_norm), layer.gate_up).chunk(2, dim=1)
            x = x + self._linear(F.silu(gate) * up, layer.down)
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [n, hidden_size] of the rows that need them -> float32 [n, vocab_size]."""
        return self._linear(self._rms_norm(hidden, self._norm), self._head).float()

    def _rms_norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, weight.shape, weight, self.config.rms_norm_eps)

    def _take_layer(self, weights: dict[str, torch.Tensor], prefix: str) -> Layer:
        def take(*names: str) -> torch.Tensor:
            parts = [weights.pop(prefix + name).to(self.dtype) for name in names]
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        qkv = [f"self_attn.{name}_proj" for name in "qkv"]
        return Layer(
            attention_norm=take("input_layernorm.weight"),
            qkv=take(*(f"{name}.weight" for name in qkv)),
            qkv_bias=take(*(f"{name}.bias" for name in qkv)) if self.config.qkv_bias else None,
            q_norm=take("self_attn.q_norm.weight") if self.config.qk_norm else None,
            k_norm=take("self_attn.k_norm.weight") if self.config.qk_norm else None,
            output=take("self_attn.o_proj.weight"),
            mlp_norm=take("post_attention_layernorm.weight"),
            gate_up=take("mlp.gate_proj.weight", "mlp.up_proj.weight"),
            down=take("mlp.down_proj.weight"),
        )
