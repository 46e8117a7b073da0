"""A text under SmolLM2's real weights: what a format of KV or weights does to the distributions of the GPU's runner.

`python -m support.gpu_text` prints a table.

e4m3 has 3 bits of mantissa: rounding to nearest is off by at most 2**-4 of a number, and by 2.6 % of it in the mean of
squares where mantissas are spread evenly.

KV: with keys off by that, independently in each dimension, a score of size s (a sum of products) is off by about 0.026
s / sqrt(dimensions that matter), which leaves weights within a few per cent; values that are off by 0.026 each leave
their weighted mean off by less. So each layer's attention is off by about 3 %, thirty layers of two contributions each
add up in the residual stream as their squares do: logits off by 3 to 5 % of their spread (of about 3), hence a KL of
half the square of 3 * 0.04, 0.007 nats. bfloat16 alone gives 1.3 % and 0.0009.

Weights: a product whose two sides are each off by 2.6 % is off by 3.7 %. Gate and up, off by that, multiply to 5 %, and
with the next product to 6.4 %. Contributions to the residual stream that are off by 4 to 6 %, and by what the stream
was off before them, leave it off by 7 to 9 %: 0.02 to 0.03 nats. With both the squares add, and the KV hardly counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from pavane.kernels.batch import Batch
from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.ops import TorchOps
from pavane.kernels.gpu.scaled import FLOAT8
from pavane.kernels.gpu.store import DeviceKV
from pavane.kernels.gpu.wrappers import Attention
from pavane.models.cpu import cpu_forward
from pavane.models.default import default_model_path
from pavane.models.gpu_decoder import GpuDecoder
from pavane.models.gpu_float8 import Float8Decoder
from pavane.models.gpu_runner import GpuModel, GpuRunner
from pavane.models.loader import LoadedModel, load_model
from pavane.server.text.tokenizer import Tokenizer
from support.flashinfer_standin import STAND_IN
from support.gpu_attention import CPU
from support.gpu_smollm2 import SLOTS, Compared, compared, rope_of
from support.samples import greedy
from tests.kernels.test_attention import Segment, make_batch

PARENTS = (
    "The harbour master kept two books. In the first he wrote the names of the ships, their cargo and the hour at "
    "which they came in; in the second, which nobody else had ever seen, he wrote what their crews had told him. ",
    "A tide table is an old kind of computer program. Someone adds up a dozen slow waves, one for the moon, one for "
    "the sun, others for the shape of the coast, and prints the sum for every day of a year that has not begun. ",
    "Bread needs four things: flour, water, salt and time. The first three can be bought. Most recipes that fail do "
    "so because the cook was told how many minutes to wait, and not what the dough should look like afterwards. ",
    "In 1986 the village had eleven telephones, and by some accident all of them shared one line. To call the doctor "
    "one turned the crank three times, and then asked everybody who had picked up to be quiet. ",
)
CHILD = (
    "The following spring a young engineer came to measure the depth of the channel. She had brought a new "
    "instrument, a grey box with a cable of forty metres, and she did not believe in tables. For three weeks she went "
    "out every morning with the pilot boat, and every evening she drew what she had found on a large sheet of paper, "
    "which she pinned to the wall of the only hotel. People came to look at it after dinner. They saw that the "
    "sandbank, where two boats had been lost, was not where their fathers had said; it had moved north by more than "
    "half a mile. The old pilots were not surprised. They had always steered by the church tower and the smell of "
    "the kelp, and the tower had been moved as well, after the fire, when the parish bought a cheaper piece of land. "
    "So both mistakes had cancelled out, and for sixty years nobody noticed that the map was wrong."
)
ORDER = (2, 0, 3, 1)  # in which the child reads its parents


class Formats(NamedTuple):
    """Of a runner."""

    kv: torch.dtype = torch.bfloat16
    weights: type[GpuDecoder] = GpuDecoder


def runner_of(loaded: LoadedModel, formats: Formats) -> GpuRunner:
    """The GPU's runner on the CPU, FlashInfer stood in for."""
    config = loaded.config
    store = DeviceKV(config.num_layers, SLOTS, config.num_kv_heads, config.head_dim, formats.kv, CPU)
    decoder = formats.weights(config, dict(loaded.weights), TorchOps(), torch.bfloat16, CPU)
    what = Attention(config.num_heads, config.num_kv_heads, config.head_dim, torch.bfloat16, formats.kv, True)
    attention = FlashInferAttention(
        store, rope_of(config), what, STAND_IN, TorchOps(), blocks=264, scratch=SLOTS, workspace_bytes=64 << 20
    )  # fmt: skip
    return GpuRunner(GpuModel(decoder, attention, TorchOps(), CPU, lambda: None), SLOTS)


def plain(ids: list[int]) -> list[Batch]:
    """One message, and nothing before it."""
    slots = list(range(len(ids)))
    return [_batch(ids, slots, [Segment(slots, [(i, 0) for i in slots], own=True)], slots)]


def reordered(parents: Sequence[list[int]], child: list[int]) -> list[Batch]:
    """Parents encoded each for itself, all from position 0, in one step; then a message that reads them one behind the
    other in ORDER."""
    ends = np.cumsum([0, *map(len, parents)]).tolist()
    spans = [list(range(a, b)) for a, b in pairwise(ends)]
    alone = [Segment(span, [(row, 0) for row in span], own=True) for span in spans]
    positions = [i for ids in parents for i in range(len(ids))]
    first = _batch([t for ids in parents for t in ids], positions, alone, list(range(ends[-1])))
    own, at, segments = list(range(ends[-1], ends[-1] + len(child))), 0, []
    for which in ORDER:
        segments.append(Segment(spans[which], [(row, at) for row in range(len(child))]))
        at += len(spans[which])
    segments.append(Segment(own, [(row, 0) for row in range(len(child))], own=True))
    return [first, _batch(child, own, segments, own)]


def texts(loaded: LoadedModel) -> tuple[list[list[int]], list[int]]:
    """Tokens of the parents and of the child."""
    tokenizer = Tokenizer(loaded.tokenizer)
    return [tokenizer.encode(text, special=False) for text in PARENTS], tokenizer.encode(CHILD, special=False)


@torch.inference_mode()
def measured(loaded: LoadedModel, batches: list[Batch], ways: Sequence[Formats]) -> list[Compared]:
    """The last batch's rows against the CPU's in float32, for each of `ways`; `loaded` in float32."""
    mine = replace(loaded, weights=dict(loaded.weights))
    reference = cpu_forward(mine, rope_of(loaded.config), SLOTS, dtype=torch.float32, batch_invariant=False)
    expected = [reference.logits(batch, batch.tokens) for batch in batches][-1]
    found = []
    for way in ways:
        runner = runner_of(loaded, way)
        found.append(compared(expected, [runner.logits(batch) for batch in batches][-1]))
    return found


def _batch(ids: list[int], positions: list[int], segments: list[Segment], slots: list[int]) -> Batch:
    batch = make_batch(positions, slots, segments)
    return replace(batch, tokens=np.array(ids, dtype=np.int32), samples=greedy(list(range(len(ids)))))


def main() -> None:
    loaded = load_model(default_model_path(), torch.float32)
    parents, child = texts(loaded)
    ways = {
        "bfloat16": Formats(),
        "fp8 KV": Formats(kv=FLOAT8),
        "fp8 weights": Formats(weights=Float8Decoder),
        "both": Formats(FLOAT8, Float8Decoder),
    }
    whole = [token for ids in (*parents, child) for token in ids]
    for name, batches in (("plain", plain(whole)), ("reordered", reordered(parents, child))):
        for way, each in zip(ways, measured(loaded, batches, list(ways.values())), strict=True):
            rows = batches[-1].n_rows
            print(f"{name}, {rows} rows, {way}: {each.likeliest:.1%} {each.kl:.5f} nats, logits {each.error:.2%}")


if __name__ == "__main__":
    main()
