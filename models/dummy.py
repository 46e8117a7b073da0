"""Random weights of a model's shapes: to try a configuration, or to measure, without its weights."""

import torch

from pavane.models.config import ModelConfig, weight_shapes
from pavane.models.memory import check_weights_fit

SEED = 0


def dummy_weights(config: ModelConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """As `LoadedModel.weights`: the norms 1, biases 0, matrices uniform with variance 1/columns, so that activations
    keep their size and logits are finite. The same for every call. Raises ModelError if they do not fit the memory."""
    check_weights_fit(config, dtype)
    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, shape in weight_shapes(config).items():
        if len(shape) == 1:
            weights[name] = torch.zeros(shape) if name.endswith(".bias") else torch.ones(shape)
        else:
            bound = (3 / shape[1]) ** 0.5
            weights[name] = torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=generator)
    return weights
