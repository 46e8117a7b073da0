"""Products in float8: what they compute, and the layers around them."""

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.gpu_attention import CPU
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.gpu.scaled import FLOAT8, Scaled, product, torch_quantise
from pavane.models import gpu_float8
from pavane.models.gpu_decoder import GpuDecoder
from pavane.models.gpu_float8 import Float8Decoder

torch.set_num_threads(1)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("biased", [False, True])
def test_products_are_those_of_the_rounded_matrices(rows: int, biased: bool) -> None:
    """Sums in float32, rounded once to bfloat16."""
    x, weight = random(rows, 96) * torch.logspace(-3, 3, rows)[:, None], random(64, 96, seed=1)
    bias = random(64, seed=2).bfloat16() if biased else None
    a, b = torch_quantise(x.bfloat16()), torch_quantise(weight.bfloat16())
    wide = [(each.values.double() * each.scales) for each in (a, b)]
    exact = F.linear(*wide, None if bias is None else bias.double())
    got = product(a, b, bias)
    assert got.dtype is torch.bfloat16
    largest = (wide[0].abs() @ wide[1].abs().T) * 2**-18
    assert ((got.double() - exact).abs() <= exact.abs() * 2**-8 + largest).all()


def test_rounding_is_to_three_bits_of_mantissa_within_fifteen_binades() -> None:
    x = random(50, 500).bfloat16()
    x[3, 1:] = 0
    x[4] = 0
    made = torch_quantise(x)
    kept = made.values.float() * made.scales
    least = made.scales * 2.0**-6
    assert ((kept - x.float()).abs() <= 2.0**-4 * x.float().abs().maximum(least) * 1.001).all()
    torch.testing.assert_close(kept.abs().amax(dim=1), x.float().abs().amax(dim=1), rtol=1e-6, atol=0)
    error = float((kept - x.float()).norm() / x.float().norm())
    assert 0.02 < error < 0.03, "2.6 % is what evenly spread mantissas lose"


def test_what_is_no_number_stays_none() -> None:
    for wrong in (torch.nan, torch.inf):
        x = torch.ones(2, 16)
        x[1, 3] = wrong
        got = product(torch_quantise(x), torch_quantise(torch.ones(16, 16)), None)
        assert got[0].isfinite().all()
        assert got[1].isnan().all()


class Unrounded(TorchOps):
    """Quantises to what is given, so that layers can be compared."""

    def quantise(self, x: torch.Tensor) -> Scaled:
        return Scaled(x / 2, torch.full((len(x), 1), 2.0))

    def add_rms_norm_quantised(self, *given: Any) -> Scaled:
        return self.quantise(self.add_rms_norm(*given))

    def silu_mul_quantised(self, gate_up: torch.Tensor) -> Scaled:
        return self.quantise(self.silu_mul(gate_up))


@pytest.mark.parametrize("changes", [{}, {"qkv_bias": True}, {"qk_norm": True}, {"tie_word_embeddings": False}])
def test_the_layers_are_those_of_the_plain_decoder(
    changes: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(gpu_float8, "product", lambda x, w, b: F.linear(x.values * x.scales, w.values * w.scales, b))
    config = tiny_config(**changes)
    weights = tiny_weights(config)
    decoders = [
        kind(config, dict(weights), Unrounded(), torch.float32, CPU) for kind in (GpuDecoder, Float8Decoder)
    ]  # fmt: skip
    tokens = torch.tensor([5, 9, 2, 2, 7], dtype=torch.int32)

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        kv = torch.cat([k, v], dim=1).sum(dim=1, keepdim=True)
        return (q * (1 + layer) + kv).flatten(1)

    plain, float8 = (decoder.logits(decoder.forward(tokens, attend)) for decoder in decoders)
    torch.testing.assert_close(float8, plain, atol=1e-4, rtol=0)


def test_layers_are_quantised_one_after_the_other() -> None:
    config = tiny_config(num_layers=3)
    arrived: list[weakref.ref[torch.Tensor]] = []
    most = 0

    class Watching(TorchOps):
        def quantise(self, x: torch.Tensor) -> Scaled:
            nonlocal most
            arrived.append(weakref.ref(x))
            gc.collect()
            most = max(most, sum(ref() is not None for ref in arrived))
            return super().quantise(x)

    made = Float8Decoder(config, tiny_weights(config), Watching(), torch.bfloat16, CPU)
    assert len(arrived) == 4 * config.num_layers
    assert most <= 4
    for layer in made._layers:
        assert {each.dtype for each in (layer.qkv, layer.output, layer.gate_up, layer.down)} == {FLOAT8}
        assert {each.dtype for each in (layer.attention_norm, layer.mlp_norm)} == {torch.bfloat16}
    assert made._embedding.dtype is made._head.dtype is torch.bfloat16
