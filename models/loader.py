"""A path becomes a model: config, weights under Hugging Face's names, tokenizer."""

from pathlib import Path

import torch

from pavane.models.gguf_loader import load_gguf
from pavane.models.loaded import LoadedModel

__all__ = ["LoadedModel", "load_model"]


def load_model(path: Path, dtype: torch.dtype) -> LoadedModel:
    """Load the model at `path`.

    Args:
        path: a GGUF file.
        dtype: floating type of all weights but norms and biases.

    Raises:
        ModelError: a file is missing or corrupt, or the model is not supported; the text says what to change.
    """
    return load_gguf(path, dtype)
