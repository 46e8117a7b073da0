"""What fp8 costs, with SmolLM2's real weights on a real text, against the CPU in float32.

e4m3 has 3 bits of mantissa: rounding to nearest is off by at most 2**-4 of a number, and by 2.6 % of it in the mean of
squares where mantissas are spread evenly. Parents are moved, so this is also where fp8 meets rotation.

KV: with keys off by that, independently in each dimension, a score of size s (a sum of products) is off by about 0.026
s / sqrt(dimensions that matter), which leaves weights within a few per cent; values that are off by 0.026 each leave
their weighted mean off by less. So each layer's attention is off by about 3 %, thirty layers of two contributions each
add up in the residual stream as their squares do: logits off by 3 to 5 % of their spread (of about 3), hence a KL of
half the square of 3 * 0.04, 0.007 nats. bfloat16 alone gives 1.3 % and 0.0009.

Weights: a product whose two sides are each off by 2.6 % is off by 3.7 %, and the MLP, whose gates are off by as much
where they are multiplied, by twice that. In the residual stream contributions that are off by 4 to 8 %, independently,
are 5 to 9 % of its size together: 0.02 to 0.03 nats. With both, the squares add: the KV hardly counts.
"""

import torch
from support.gpu_text import Formats, measured, reordered, texts

from pavane.kernels.gpu.scaled import FLOAT8
from pavane.models.default import default_model_path
from pavane.models.gpu_float8 import Float8Decoder
from pavane.models.loader import load_model

torch.set_num_threads(1)


def test_distributions_in_fp8_stay_near_those_of_float32() -> None:
    """A part of what `python -m support.gpu_text` measures; about twice its figures are the bounds."""
    loaded = load_model(default_model_path(), torch.float32)
    parents, child = texts(loaded)
    batches = reordered([ids[:16] for ids in parents], child[:48])
    kv, both = measured(loaded, batches, [Formats(kv=FLOAT8), Formats(FLOAT8, Float8Decoder)])
    assert 0.02 < kv.error < 0.08
    assert kv.kl < 0.014
    assert kv.likeliest > 0.85
    assert kv.error < both.error < 0.16
    assert both.kl < 0.05
    assert both.likeliest > 0.75
