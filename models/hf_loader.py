"""The weights of Hugging Face folders: safetensors in one file or in shards."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from pavane.models.config import ModelConfig, weight_shapes
from pavane.models.errors import ModelError
from pavane.models.hf_folder import folder_name, read_config, read_json
from pavane.models.loaded import LoadedModel
from pavane.models.memory import check_weights_fit
from pavane.models.tokenizer_folder import tokenizer_from_folder

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_HEAD, _EMBEDDING = "lm_head.weight", "embed_tokens.weight"


def load_folder(folder: Path, dtype: torch.dtype) -> LoadedModel:
    """Load a folder, tensor by tensor out of mapped files, so that the peak stays near the size of the result.

    Raises:
        ModelError: a file is missing or corrupt, or the model is not supported; the text says what to change.
    """
    config, window = read_config(folder)
    check_weights_fit(config, dtype)
    tokenizer = tokenizer_from_folder(folder)
    places, decisive = _places(folder)
    _check_names(config, places)
    weights = _read(config, places, dtype)
    return LoadedModel(
        config, weights, tokenizer, folder_name(folder), files=(folder / "config.json", *decisive), window=window
    )


def _places(folder: Path) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """The file of every tensor by its name without "model.", and all files that decide the weights."""
    single, index = folder / _SINGLE, folder / _INDEX
    if single.is_file():
        names = dict.fromkeys(_names(single), single)
        files: tuple[Path, ...] = (single,)
    elif index.is_file():
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(
            isinstance(shard, str) and shard == Path(shard).name for shard in shards.values()
        ):
            raise ModelError(f"{index}: weight_map must map tensors to files beside it; download it again")
        used = sorted({folder / shard for shard in shards.values()})
        names = {name: path for path in used for name in _names(path)}
        for name, shard in shards.items():
            if names.get(name) != folder / shard:
                raise ModelError(f"{index}: tensor {name} is not in {shard}; download both again")
        files = (index, *used)
    else:
        other = sorted(path.name for pattern in ("*.bin", "*.pth", "*.safetensors") for path in folder.glob(pattern))
        found = f", only {', '.join(other[:3])}; convert the weights to safetensors" if other else "; download it again"
        raise ModelError(f"{folder} has neither {_SINGLE} nor {_INDEX}{found}")
    return {name.removeprefix("model."): path for name, path in names.items()}, files


def _names(path: Path) -> list[str]:
    if not path.is_file():
        raise ModelError(f"there is no {path}, which the index names; download it again")
    with _open(path) as file:
        return list(file.keys())


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or corrupt ({error}); download it again") from error


def _check_names(config: ModelConfig, places: dict[str, Path]) -> None:
    expected = weight_shapes(config).keys()
    for name in expected:
        if name not in places:
            raise ModelError(f"tensor {_full(name)} is missing; the folder is incomplete, download it again")
    # Old checkpoints keep the frequencies of RoPE, which follow from the config.
    extra = sorted(name for name in places.keys() - expected - {_HEAD} if not name.endswith("rotary_emb.inv_freq"))
    if extra:
        raise ModelError(f"tensor {_full(extra[0])} is not supported: nothing would use it; choose another model")


def _read(config: ModelConfig, places: dict[str, Path], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    shapes = weight_shapes(config)
    weights: dict[str, torch.Tensor] = {}
    for path in sorted(set(places.values())):
        with _open(path) as file:
            stored = {name.removeprefix("model."): name for name in file.keys()}  # noqa: SIM118
            for name, shape in shapes.items():
                if places[name] == path:
                    weights[name] = _tensor(file, stored[name], shape, torch.float32 if len(shape) == 1 else dtype)
    if _HEAD in places and config.tie_word_embeddings:
        with _open(places[_HEAD]) as file:
            head = _tensor(file, _HEAD, shapes[_EMBEDDING], dtype)
        if not torch.equal(head, weights[_EMBEDDING]):
            raise ModelError(
                f"config.json: tie_word_embeddings = true, but tensor {_HEAD} is not the embedding; set it to false"
            )
    return weights


def _tensor(file: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    stored: torch.Tensor = file.get_tensor(name)
    if tuple(stored.shape) != shape:
        raise ModelError(f"tensor {name} has shape {tuple(stored.shape)}, but config.json says {shape}; download again")
    if stored.dtype not in _DTYPES:
        raise ModelError(f"tensor {name} is {stored.dtype}, quantised; choose a folder in bfloat16, float16 or float32")
    out = torch.empty(shape, dtype=dtype).copy_(stored)
    # The sum is finite in all but rare cases, and then every value is.
    if not bool(torch.isfinite(out.sum(dtype=torch.float32))) and not bool(torch.isfinite(out).all()):
        raise ModelError(
            f"tensor {name} has values that are not finite in {dtype}; download it again, or use a wider dtype"
        )
    return out


def _full(name: str) -> str:
    return name if name == _HEAD else f"model.{name}"
