"""A model's name becomes a path, and a path a model: config, weights under Hugging Face's names, tokenizer."""

from pathlib import Path

import torch

from pavane.models.default import default_model_path
from pavane.models.dummy import SEED, dummy_weights
from pavane.models.errors import ModelError
from pavane.models.gguf_file import open_gguf
from pavane.models.gguf_loader import gguf_name, gguf_window, load_gguf
from pavane.models.gguf_loader import read_config as config_of_gguf
from pavane.models.hf_folder import folder_name
from pavane.models.hf_folder import read_config as config_of_folder
from pavane.models.hub import download, is_hub_id
from pavane.models.loaded import LoadedModel
from pavane.models.tokenizer_folder import tokenizer_from_folder
from pavane.models.tokenizer_spec import tokenizer_from_gguf_metadata

__all__ = ["LoadedModel", "find_model", "load_model"]


def find_model(model: str, revision: str = "", load_format: str = "auto") -> Path:
    """The GGUF file or folder that `model` names: a path, a hub id (then it is fetched), or nothing for the default.

    Raises:
        ModelError: it is not there; the text says what to do.
    """
    if not model:
        return default_model_path()
    return download(model, revision, weights=load_format == "auto") if is_hub_id(model) else Path(model)


def load_model(path: Path, dtype: torch.dtype, load_format: str = "auto", *, keep_blocks: bool = False) -> LoadedModel:
    """Load the model at `path`.

    Args:
        path: a GGUF file; a Hugging Face folder; a folder with nothing but one GGUF file.
        dtype: floating type of all weights but norms and biases.
        load_format: auto reads the weights; dummy needs only config and tokenizer, and the weights are random.
        keep_blocks: leave quantised matrices as the file has them where the kernels can read that.

    Raises:
        ModelError: a file is missing or corrupt, or the model is not supported; the text says what to change.
    """
    if not path.is_dir():
        return _dummy_gguf(path, dtype) if load_format == "dummy" else load_gguf(path, dtype, keep_blocks=keep_blocks)
    if not (path / "config.json").is_file():
        found = sorted(path.glob("*.gguf"))
        if len(found) == 1:
            return load_model(found[0], dtype, load_format, keep_blocks=keep_blocks)
        raise ModelError(f"{path} has no config.json{_gguf_hint(found)}; give a GGUF file or a Hugging Face folder")
    if load_format == "dummy":
        return _dummy_folder(path, dtype)
    # Only folders need the package safetensors.
    from pavane.models.hf_loader import load_folder

    return load_folder(path, dtype)


def _dummy_gguf(path: Path, dtype: torch.dtype) -> LoadedModel:
    file = open_gguf(path)
    config = config_of_gguf(file)
    return LoadedModel(
        config,
        dummy_weights(config, dtype),
        tokenizer_from_gguf_metadata(file.fields),
        gguf_name(file, path),
        files=(),
        seed=SEED,
        window=gguf_window(config),
    )


def _dummy_folder(path: Path, dtype: torch.dtype) -> LoadedModel:
    config, window = config_of_folder(path)
    tokenizer = tokenizer_from_folder(path)
    weights = dummy_weights(config, dtype)
    return LoadedModel(config, weights, tokenizer, folder_name(path), files=(), seed=SEED, window=window)


def _gguf_hint(found: list[Path]) -> str:
    names = ", ".join(path.name for path in found[:3]) + (", ..." if len(found) > 3 else "")
    return f", but {len(found)} GGUF files ({names})" if found else ""
