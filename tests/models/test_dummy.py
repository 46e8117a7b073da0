"""Random weights from a configuration alone, and which files a model is found in."""

import json
from pathlib import Path

import pytest
import torch
from support.theirs import config_fields
from support.tiny import tiny_config, tiny_weights
from support.tiny_gguf import stored, write_gguf
from support.vocabularies import byte_level_folder
from tokenizers import pre_tokenizers

from pavane.models.config import ModelConfig, weight_shapes
from pavane.models.dummy import SEED, dummy_weights
from pavane.models.errors import ModelError
from pavane.models.loader import find_model, load_model
from pavane.models.reference import ReferenceModel

torch.set_num_threads(1)
CONFIGS = [
    tiny_config(architecture="qwen2", qkv_bias=True),
    tiny_config(architecture="qwen3", qk_norm=True, head_dim=16, tie_word_embeddings=False, num_layers=12),
    tiny_config(architecture="mistral", hidden_size=256, intermediate_size=1024, num_layers=24),
]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_random_weights_are_the_same_each_time_and_give_sane_logits(config: ModelConfig, dtype: torch.dtype) -> None:
    weights, again = dummy_weights(config, dtype), dummy_weights(config, dtype)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == weight_shapes(config)
    for name, weight in weights.items():
        assert torch.equal(weight, again[name])
        assert weight.dtype == (torch.float32 if weight.dim() == 1 else dtype)
    logits = ReferenceModel(config, weights).encode(list(range(3, 40)), 0).logits
    assert logits.isfinite().all()
    assert 0.2 < logits.std() < 5


def test_a_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_fields(CONFIGS[0])))
    byte_level_folder(tmp_path, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|end|>"])
    loaded = load_model(tmp_path, torch.float32, "dummy")
    assert loaded.config == CONFIGS[0]
    assert (loaded.files, loaded.seed) == ((), SEED)
    with pytest.raises(ModelError, match=r"neither model.safetensors nor"):
        load_model(tmp_path, torch.float32)


def test_a_gguf_of_metadata_alone(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", CONFIGS[0], {})
    loaded = load_model(path, torch.float32, "dummy")
    assert (loaded.config.architecture, loaded.config.qkv_bias) == ("qwen2", True)
    assert loaded.weights.keys() == dummy_weights(CONFIGS[0], torch.float32).keys()
    assert (loaded.files, loaded.seed) == ((), SEED)
    with pytest.raises(ModelError, match=r"block_count = 3 is more than the file has"):
        load_model(path, torch.float32)


def test_a_folder_of_one_gguf_file(tmp_path: Path) -> None:
    config = tiny_config()
    path = write_gguf(tmp_path / "a.gguf", config, stored(config, tiny_weights(config)))
    assert load_model(tmp_path, torch.float32).files == (path,)
    path.with_name("b.gguf").write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match=r"has no config.json, but 2 GGUF files \(a.gguf, b.gguf\)"):
        load_model(tmp_path, torch.float32)


def test_what_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, bool]] = []

    def download(model: str, revision: str, *, weights: bool) -> Path:
        asked.append((model, revision, weights))
        return tmp_path

    monkeypatch.setattr("pavane.models.loader.download", download)
    assert find_model("").suffix == ".gguf"
    assert find_model(str(tmp_path)) == tmp_path
    assert asked == []
    assert find_model("org/model", "v1") == find_model("org/model", load_format="dummy") == tmp_path
    assert asked == [("org/model", "v1", True), ("org/model", "", False)]
