"""The forward pass on a GPU: `Linear` for the products, cuBLAS's by default, `Ops` for all between them."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pavane.kernels.gpu.ops import Ops
from pavane.models.config import ModelConfig
from pavane.models.decoder import Attend, Decoder, Linear


class GpuDecoder(Decoder):
    """Takes the weights out of `weights` as it brings them to the device, one layer after the other. Residuals are of
    the weights' dtype; sums within an operation are float32."""

    def __init__(
        self, config: ModelConfig, weights: dict[str, torch.Tensor], ops: Ops, dtype: torch.dtype, device: torch.device,
        linear: Linear = F.linear,
    ) -> None:  # fmt: skip
        super().__init__(config, _Arriving(weights, dtype, device))
        self._ops = ops
        self._linear = linear

    def forward(self, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
        """See Decoder; `tokens` int32 [n] on the device."""
        ops, eps, dim = self._ops, self.config.rms_norm_eps, self.config.head_dim
        n = len(tokens)
        residual = self._embedding.index_select(0, tokens)
        x = ops.rms_norm(residual, self._layers[0].attention_norm, eps)
        for i, layer in enumerate(self._layers):
            if i:
                x = ops.add_rms_norm(x, residual, layer.attention_norm, eps)
            qkv = self._linear(x, layer.qkv, layer.qkv_bias)
            q, k, v = (part.view(n, -1, dim) for part in torch.split(qkv, self._sizes, dim=1))
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = ops.rms_norm(q, layer.q_norm, eps), ops.rms_norm(k, layer.k_norm, eps)
            x = self._linear(attend(i, q, k, v), layer.output)
            x = ops.add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = self._linear(ops.silu_mul(self._linear(x, layer.gate_up)), layer.down)
        return residual.add_(x)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._linear(self._ops.rms_norm(hidden, self._norm, self.config.rms_norm_eps), self._head).float()


class _Arriving(dict[str, torch.Tensor]):
    """Weights that go to a device, and out of the mapping they come from, when they are taken."""

    def __init__(self, weights: dict[str, torch.Tensor], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self._weights = weights
        self._dtype = dtype
        self._device = device

    def pop(self, name: str, *_: object) -> torch.Tensor:
        return self._weights.pop(name).to(self._device, self._dtype)
