"""The forward pass on a GPU with the products of its layers in float8 (e4m3).

Weights have a scale per output, activations one per row, both found from what is there (`kernels.gpu.scaled`): nothing
has to be calibrated. The embedding, the head, norms and biases stay as they are: they are a small part of a large
model, and the head decides between tokens that are nearly as likely.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pavane.kernels.gpu.ops import Ops
from pavane.kernels.gpu.scaled import Scaled, product
from pavane.models.config import ModelConfig
from pavane.models.decoder import Attend, Layer
from pavane.models.gpu_decoder import GpuDecoder


class _Matrices(NamedTuple):
    """Of a layer; the values are those that the layer itself has."""

    qkv: Scaled
    output: Scaled
    gate_up: Scaled
    down: Scaled


class Float8Decoder(GpuDecoder):
    """See GpuDecoder. Each layer is quantised as it arrives, so that at most one lies on the device in full."""

    def __init__(
        self, config: ModelConfig, weights: dict[str, torch.Tensor], ops: Ops, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._quantise = ops.quantise
        self._matrices: list[_Matrices] = []
        super().__init__(config, weights, ops, dtype, device)

    def forward(self, tokens: torch.Tensor, attend: Attend) -> torch.Tensor:
        ops, eps, dim = self._ops, self.config.rms_norm_eps, self.config.head_dim
        n = len(tokens)
        residual = self._embedding.index_select(0, tokens)
        added = torch.zeros_like(residual)
        for i, (layer, matrices) in enumerate(zip(self._layers, self._matrices, strict=True)):
            x = ops.add_rms_norm_quantised(added, residual, layer.attention_norm, eps)
            qkv = product(x, matrices.qkv, layer.qkv_bias)
            q, k, v = (part.view(n, -1, dim) for part in torch.split(qkv, self._sizes, dim=1))
            if layer.q_norm is not None and layer.k_norm is not None:
                q, k = ops.rms_norm(q, layer.q_norm, eps), ops.rms_norm(k, layer.k_norm, eps)
            added = product(ops.quantise(attend(i, q, k, v)), matrices.output, None)
            x = ops.add_rms_norm_quantised(added, residual, layer.mlp_norm, eps)
            added = product(ops.silu_mul_quantised(product(x, matrices.gate_up, None)), matrices.down, None)
        return residual.add_(added)

    def _take_layer(self, weights: dict[str, torch.Tensor], prefix: str) -> Layer:
        layer = super()._take_layer(weights, prefix)
        made = _Matrices(*map(self._quantise, (layer.qkv, layer.output, layer.gate_up, layer.down)))
        self._matrices.append(made)
        return layer._replace(**{name: matrix.values for name, matrix in made._asdict().items()})
