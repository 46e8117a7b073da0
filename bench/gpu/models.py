"""Random weights of a shape, and what runs them: on a CPU the plain forward pass stands in for a GPU's."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from pavane.bench.gpu.engine import Model
from pavane.bench.gpu.section import NotHere
from pavane.bench.gpu.sizes import Sizes
from pavane.kernels.attention import TorchAttention
from pavane.kernels.batch import Batch, Int32, Samples
from pavane.kernels.gpu.attention import FlashInferAttention
from pavane.kernels.gpu.pieces import WHOLE
from pavane.kernels.gpu.sampling import choose, finish, sample_arrays, wishes_of
from pavane.kernels.gpu.upload import Staging, Upload
from pavane.kernels.gpu.wrappers import Attention
from pavane.kernels.kv import KVStore
from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models import gpu_check
from pavane.models.config import ModelConfig, weight_shapes
from pavane.models.cuda import Wanted, gpu_runner, this_gpu
from pavane.models.decoder import Decoder
from pavane.models.dummy import dummy_weights
from pavane.models.errors import ModelError
from pavane.models.gpu_graphs import Graphs
from pavane.models.gpu_runner import GpuModel, GpuRunner
from pavane.models.runner import ModelRunner, TorchForward

UTILIZATION = 0.9
SAMPLES = 256  # calls at a time, at most


def open_model(sizes: Sizes, device: torch.device, *, eager: bool = False) -> Model:
    """With `eager` no graphs are captured. Raises NotHere, and what the models do."""
    if device.type == "cuda":
        return _on_a_gpu(sizes, device, eager=eager)
    if sizes.float8_kv or sizes.float8_weights:
        raise NotHere("fp8 needs a GPU")
    config = sizes.config
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    rope = RopeTable(frequencies, config.max_position, scale)
    store = KVStore(config.num_layers, config.num_kv_heads, sizes.slots, config.head_dim)
    attention = TorchAttention(store, rope, config.num_heads)
    weights = dummy_weights(config, torch.float32)
    runner = ModelRunner(TorchForward(Decoder(config, weights), attention))

    def stored(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        return store.k[layer].transpose(0, 1), store.v[layer].transpose(0, 1)

    return Model(config, runner, attention, sizes.slots, 4, stored)


def _on_a_gpu(sizes: Sizes, device: torch.device, *, eager: bool = False) -> Model:
    found = gpu_check.look()
    try:
        gpu_check.check(found, float8=sizes.float8_kv or sizes.float8_weights)
    except ModelError as error:
        raise NotHere(str(error)) from None
    config = sizes.config
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    rope = RopeTable(frequencies, config.max_position, scale)
    wanted = Wanted(
        sizes.slots, UTILIZATION, sizes.prompt, SAMPLES,
        float8_kv=sizes.float8_kv, float8_weights=sizes.float8_weights,
    )  # fmt: skip
    gpu = this_gpu(eager=eager)
    runner = gpu_runner(config, _random(config, device), rope, wanted, gpu)
    model = runner.model
    plain = GpuModel(model.decoder, model.attention, model.ops, device, model.check)
    graphs = None if gpu.record is None else Graphs(model.decoder, model.attention, gpu.record)

    def stored(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        store = model.attention.store
        return store.k[layer, :-1].to(torch.bfloat16), store.v[layer, :-1].to(torch.bfloat16)

    def sample(logits: torch.Tensor, samples: Samples) -> Int32:
        there = Upload(Staging(device)).put(sample_arrays(samples))
        chosen = choose(model.ops, logits, samples, wishes_of(there))
        return finish(chosen, samples, chosen.tokens.cpu(), chosen.logprobs.cpu()).tokens

    def both(batch: Batch) -> tuple[torch.Tensor, torch.Tensor] | None:
        nothing = torch.empty(0, dtype=torch.int32, device=device)
        captured = None if graphs is None else graphs.forward(batch, nothing)
        return None if captured is None else (captured[0].float(), plain.forward(batch, nothing).hidden.float())

    return Model(config, runner, model.attention, sizes.slots, 2, stored, sample, both)


def batch_invariant(model: Model) -> Model:
    """With the same weights and the same KV pool. Raises NotHere."""
    runner, config = model.runner, model.config
    if not isinstance(runner, GpuRunner):
        raise NotHere("the kernels are a GPU's")
    gpu, there = this_gpu(eager=False), runner.model
    store, dtype = there.attention.store, there.decoder.dtype
    frequencies, scale = rope_frequencies(config.rope, config.head_dim)
    attention = FlashInferAttention(
        store, RopeTable(frequencies, config.max_position, scale),
        Attention(config.num_heads, config.num_kv_heads, config.head_dim, dtype, dtype, gpu.hopper), gpu.flashinfer,
        gpu.ops, blocks=WHOLE, scratch=0, workspace_bytes=0, tiles=gpu.tiles,
    )  # fmt: skip
    decoder = copy.copy(there.decoder)
    decoder._linear = gpu.linear
    made = GpuRunner(GpuModel(decoder, attention, gpu.ops, gpu.device, gpu.check, gpu.record), model.slots)
    return replace(model, runner=made, attention=attention)


def _random(config: ModelConfig, device: torch.device) -> dict[str, torch.Tensor]:
    """As `dummy_weights`, made on the device: of a model of billions of weights that takes a second there."""
    weights = {}
    for name, shape in weight_shapes(config).items():
        made = torch.ones(shape, device=device)
        if len(shape) == 2:
            bound = (3 / shape[1]) ** 0.5
            made = torch.empty(shape, dtype=torch.bfloat16, device=device).uniform_(-bound, bound)
        elif name.endswith(".bias"):
            made.zero_()
        weights[name] = made
    return weights
