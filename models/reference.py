"""The oracle of the whole model over message graphs: float64, dense, one message at a time.

It knows nothing of batches, trees or slots: an encoding is a list of unrotated keys and values per layer, and whoever
sees it says where it stands. Differentiable in the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from pavane.kernels.reference import attend
from pavane.kernels.rope import rope_frequencies
from pavane.models.config import ModelConfig


@dataclass(frozen=True)
class Encoding:
    """Of n tokens: per layer k (unrotated, but with YaRN's factor) and v, float64 [n, kv_heads, head_dim]; logits
    [n, vocabulary]."""

    k: list[torch.Tensor]
    v: list[torch.Tensor]
    logits: torch.Tensor

    def __len__(self) -> int:
        return len(self.k[0])


@dataclass(frozen=True)
class Placed:
    """An encoding as a context sees it: its first token stands at RoPE position `at`."""

    encoding: Encoding
    at: int


class ReferenceModel:
    """`weights` by Hugging Face's names, as `load_model` gives them, any dtype."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, torch.Tensor]) -> None:
        self.config = config
        self._frequencies, self._scale = rope_frequencies(config.rope, config.head_dim)
        self._weights = {name: weight.double() for name, weight in weights.items()}

    def encode(self, tokens: Sequence[int], start: int, visible: Sequence[Placed] = ()) -> Encoding:
        """The tokens at positions start, start + 1, ...; each sees all of `visible` and the tokens up to itself."""
        c, w = self.config, self._weights
        n, seen = len(tokens), sum(len(p.encoding) for p in visible)
        own_at = torch.arange(start, start + n)
        key_at = torch.cat([*(torch.arange(p.at, p.at + len(p.encoding)) for p in visible), own_at])
        mask = torch.cat([torch.ones(n, seen, dtype=torch.bool), torch.ones(n, n, dtype=torch.bool).tril()], dim=1)
        x = w["embed_tokens.weight"][torch.tensor(list(tokens))]
        ks, vs = [], []
        for i in range(c.num_layers):
            p = f"layers.{i}."
            h = self._norm(x, w[p + "input_layernorm.weight"])
            q, k, v = (self._project(h, f"{p}self_attn.{name}_proj").view(n, -1, c.head_dim) for name in "qkv")
            if c.qk_norm:
                q = self._norm(q, w[p + "self_attn.q_norm.weight"])
                k = self._norm(k, w[p + "self_attn.k_norm.weight"])
            # YaRN scales the rotation, which is linear: q and k may be scaled instead.
            q, k = q * self._scale, k * self._scale
            ks.append(k)
            vs.append(v)
            keys = torch.cat([*(p.encoding.k[i] for p in visible), k])
            values = torch.cat([*(p.encoding.v[i] for p in visible), v])
            attended = attend(q, keys, values, own_at, key_at, mask, self._frequencies).reshape(n, -1)
            x = x + F.linear(attended, w[p + "self_attn.o_proj.weight"])
            h = self._norm(x, w[p + "post_attention_layernorm.weight"])
            gated = F.silu(F.linear(h, w[p + "mlp.gate_proj.weight"])) * F.linear(h, w[p + "mlp.up_proj.weight"])
            x = x + F.linear(gated, w[p + "mlp.down_proj.weight"])
        head = w["embed_tokens.weight"] if c.tie_word_embeddings else w["lm_head.weight"]
        return Encoding(ks, vs, F.linear(self._norm(x, w["norm.weight"]), head))

    def _project(self, x: torch.Tensor, name: str) -> torch.Tensor:
        bias = self._weights[f"{name}.bias"] if self.config.qkv_bias else None
        return F.linear(x, self._weights[f"{name}.weight"], bias)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(dim=-1, keepdim=True) + self.config.rms_norm_eps).rsqrt() * weight
