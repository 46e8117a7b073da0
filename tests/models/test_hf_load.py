"""Folders that transformers saves, read back; then broken in every way."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.theirs import config_fields, transformers_model
from support.tiny import tiny_config, tiny_weights
from support.vocabularies import byte_level_folder
from tokenizers import pre_tokenizers

from pavane.kernels.rope import RopeParameters
from pavane.models.config import ModelConfig
from pavane.models.errors import ModelError
from pavane.models.loader import LoadedModel, load_model
from pavane.models.reference import ReferenceModel

torch.set_num_threads(1)
CONFIGS = {
    "llama": tiny_config(tie_word_embeddings=False),
    "llama 3, tied": tiny_config(rope=RopeParameters(5e5, "llama3", factor=8.0, original_max_position=64)),
    "mistral": tiny_config(architecture="mistral", head_dim=16, tie_word_embeddings=False, window=600),
    "qwen2": tiny_config(architecture="qwen2", qkv_bias=True, rope=RopeParameters(1e6)),
    "qwen3": tiny_config(architecture="qwen3", qk_norm=True, head_dim=16, tie_word_embeddings=False),
}
UNTIED = CONFIGS["llama"]


def write_tokenizer(folder: Path) -> None:
    byte_level_folder(folder, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|end|>"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a folder with transformers."""

    def save(config: ModelConfig, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("folder")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transformers_model(config, tiny_weights(config)).save_pretrained(folder, **options)
        write_tokenizer(folder)
        return folder

    return save


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("shard", ["50KB", "5GB"])
@torch.inference_mode()
def test_what_transformers_saves_is_read_back(name: str, shard: str, saved: Callable[..., Path]) -> None:
    config, weights = CONFIGS[name], tiny_weights(CONFIGS[name])
    folder = saved(config, max_shard_size=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard == "50KB")
    loaded = load_model(folder, torch.float32)
    assert loaded.config == config
    assert loaded.weights.keys() == weights.keys()
    for weight in weights:
        assert torch.equal(loaded.weights[weight], weights[weight]), weight
    line = list(range(3, 60))
    got = ReferenceModel(loaded.config, loaded.weights).encode(line, 0).logits
    expected = transformers_model(config, weights)(torch.tensor([line])).logits[0].double()
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert loaded.name == folder.name
    assert {path.name for path in loaded.files} == {
        "config.json",
        *(path.name for path in folder.glob("*safetensors*")),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Untied, one file, names as in a checkpoint."""
    tensors = {n if n == "lm_head.weight" else f"model.{n}": w for n, w in tiny_weights(UNTIED).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config_fields(UNTIED)))
    write_tokenizer(tmp_path)
    return tmp_path


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Put tensors in, or take them out; names with __ for a dot."""
    stored = load_file(folder / "model.safetensors")
    stored |= {name.replace("__", "."): tensor for name, tensor in tensors.items()}  # type: ignore[dict-item]
    save_file({n: tensor for n, tensor in stored.items() if tensor is not None}, folder / "model.safetensors")


def load(folder: Path, dtype: torch.dtype = torch.float32) -> LoadedModel:
    return load_model(folder, dtype)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_converted(folder: Path, stored: torch.dtype) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.to(stored) for name, weight in weights.items()}, folder / "model.safetensors")
    loaded = load(folder, torch.bfloat16).weights
    for name, weight in loaded.items():
        assert weight.dtype == (torch.float32 if "norm" in name else torch.bfloat16)
        assert weight.is_contiguous()
        full = name if name == "lm_head.weight" else f"model.{name}"
        assert torch.equal(weight, weights[full].to(stored).to(weight.dtype))


def test_memory_is_its_own(folder: Path) -> None:
    weights = load(folder).weights
    before = weights["norm.weight"].clone()
    (folder / "model.safetensors").write_bytes(b"\0" * (folder / "model.safetensors").stat().st_size)
    assert torch.equal(weights["norm.weight"], before)


def test_tensors_that_do_not_fit_are_named(folder: Path) -> None:
    change(folder, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(ModelError, match=r"tensor model.layers.1.mlp.up_proj.weight is missing"):
        load(folder)
    change(folder, model__layers__1__mlp__up_proj__weight=torch.zeros(80, 47))
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.up_proj.weight has shape \(80, 47\), .* \(80, 48\)"):
        load(folder)
    change(folder, model__layers__1__mlp__up_proj__weight=torch.zeros(80, 48, dtype=torch.int8))
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.up_proj.weight is torch.int8"):
        load(folder)
    change(folder, model__layers__1__mlp__up_proj__weight=torch.full((80, 48), float("nan")))
    with pytest.raises(ModelError, match=r"model.layers.1.mlp.up_proj.weight has values that are not finite"):
        load(folder)
    change(folder, model__layers__1__mlp__up_proj__weight=torch.zeros(80, 48), model__layers__0__x=torch.zeros(2))
    with pytest.raises(ModelError, match=r"tensor model.layers.0.x is not supported"):
        load(folder)


def test_frequencies_of_old_checkpoints_are_passed_over(folder: Path) -> None:
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(4))
    assert load(folder).weights.keys() == tiny_weights(UNTIED).keys()


def test_a_head_that_is_said_to_be_tied(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(config_fields(UNTIED) | {"tie_word_embeddings": True}))
    with pytest.raises(ModelError, match=r"tie_word_embeddings = true, but tensor lm_head.weight is not the embedding"):
        load(folder)
    change(folder, lm_head__weight=tiny_weights(UNTIED)["embed_tokens.weight"])
    assert "lm_head.weight" not in load(folder).weights


def test_files_that_are_missing_or_broken(folder: Path) -> None:
    path, whole = folder / "model.safetensors", (folder / "model.safetensors").read_bytes()
    for size in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"model.safetensors is truncated or corrupt"):
            load(folder)
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"neither model.safetensors nor .* only pytorch_model.bin; convert"):
        load(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "model-1.safetensors"}}))
    with pytest.raises(ModelError, match=r"there is no .*model-1.safetensors"):
        load(folder)
    save_file({"lm_head.weight": torch.zeros(2)}, folder / "model-1.safetensors")
    with pytest.raises(ModelError, match=r"index.json: tensor model.norm.weight is not in model-1.safetensors"):
        load(folder)
    for weight_map in (None, {"model.norm.weight": "../model-1.safetensors"}, {"model.norm.weight": 1}):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError, match=r"index.json: weight_map must map"):
            load(folder)
    for text in ("", "[1]", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelError, match=r"config.json (cannot be read|is not a JSON object)"):
            load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config.json; give a GGUF file or a Hugging Face folder"):
        load(folder)


def test_without_a_tokenizer_it_is_told(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    for load_format in ("auto", "dummy"):
        with pytest.raises(ModelError, match=r"has no tokenizer.json"):
            load_model(folder, torch.float32, load_format)
