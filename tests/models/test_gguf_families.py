"""Tiny models of each architecture and quantisation, written as GGUF and read back."""

import warnings
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest
import torch
from gguf import GGMLQuantizationType as Quant
from support.tiny import tiny_config, tiny_weights
from support.tiny_gguf import stored, write_gguf
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from pavane.kernels.rope import RopeParameters
from pavane.models.errors import ModelError
from pavane.models.loader import load_model
from pavane.models.reference import ReferenceModel

torch.set_num_threads(1)
CONFIGS = {
    "llama": tiny_config(),
    "llama, untied": tiny_config(tie_word_embeddings=False),
    "llama with biases": tiny_config(qkv_bias=True),
    "qwen2": tiny_config(architecture="qwen2", qkv_bias=True, rope=RopeParameters(1e6)),
    "qwen2, untied": tiny_config(architecture="qwen2", qkv_bias=True, head_dim=16, tie_word_embeddings=False),
    "qwen3": tiny_config(architecture="qwen3", qk_norm=True, head_dim=16, rope=RopeParameters(1e6)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_weight_comes_back(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    weights = tiny_weights(config)
    loaded = load_model(write_gguf(tmp_path / "m.gguf", config, stored(config, weights)), torch.float32)
    assert loaded.config.rms_norm_eps == pytest.approx(config.rms_norm_eps)
    assert {**vars(loaded.config), "rms_norm_eps": 0} == {**vars(config), "rms_norm_eps": 0}
    assert loaded.weights.keys() == weights.keys()
    for weight in weights:
        assert torch.equal(loaded.weights[weight], weights[weight]), weight


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen2, untied", "qwen3"])
@torch.inference_mode()
def test_the_file_means_to_transformers_what_it_means_here(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]
    path = write_gguf(tmp_path / "m.gguf", config, stored(config, tiny_weights(config)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = AutoConfig.from_pretrained(tmp_path, gguf_file=path.name, local_files_only=True)
        read.head_dim = config.head_dim  # which transformers does not read from GGUF
        theirs = AutoModelForCausalLM.from_config(read, attn_implementation="eager")  # type: ignore[no-untyped-call]
        tensors = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=theirs)["tensors"]  # type: ignore[no-untyped-call]
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"] if config.tie_word_embeddings else [], [])
    theirs.tie_weights()
    line = list(range(3, 40))
    loaded = load_model(path, torch.float32)
    got = ReferenceModel(loaded.config, loaded.weights).encode(line, 0).logits
    expected = theirs.float().eval()(torch.tensor([line])).logits[0].double()
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_missing_biases_and_norms_are_named(tmp_path: Path) -> None:
    for name, missing in [("qwen2", "blk.2.attn_v.bias"), ("qwen3", "blk.1.attn_k_norm.weight")]:
        config = CONFIGS[name]
        tensors = stored(config, tiny_weights(config))
        del tensors[missing]
        with pytest.raises(ModelError, match=f"tensor {missing} is missing"):
            load_model(write_gguf(tmp_path / "m.gguf", config, tensors), torch.float32)


def test_the_frequencies_of_llama_3(tmp_path: Path) -> None:
    config = CONFIGS["llama"]
    tensors = stored(config, tiny_weights(config)) | {"rope_freqs.weight": np.float32([1, 1.5, 4, 8])}
    loaded = load_model(write_gguf(tmp_path / "m.gguf", config, tensors), torch.float32)
    assert loaded.config.rope == RopeParameters(1e4, divisors=(1.0, 1.5, 4.0, 8.0))
    assert loaded.weights.keys() == tiny_weights(config).keys()


def test_yarn_and_a_window_come_with_the_file(tmp_path: Path) -> None:
    config = CONFIGS["qwen2"]
    path = write_gguf(
        tmp_path / "m.gguf",
        config,
        stored(config, tiny_weights(config)),
        rope__scaling__type="yarn",
        rope__scaling__factor=4.0,
        rope__scaling__original_context_length=128,
        attention__sliding_window=256,
    )
    loaded = load_model(path, torch.float32).config
    assert loaded.rope.type == "yarn"
    assert (loaded.rope.factor, loaded.rope.original_max_position, loaded.window) == (4.0, 128, 256)


# ---- quantisation

WIDE = tiny_config(hidden_size=256, intermediate_size=256, num_layers=1, num_heads=4, head_dim=16)


def dequantised_by_the_package() -> list[Quant]:
    kinds = []
    for kind in Quant:
        _, size = gguf.GGML_QUANT_SIZES[kind]
        try:
            gguf.dequantize(np.zeros((1, size), dtype=np.uint8), kind)
        except (NotImplementedError, AttributeError):
            continue
        if kind is not Quant.F32:
            kinds.append(kind)
    return kinds


def blocks_of(kind: Quant, rows: int, columns: int) -> npt.NDArray[np.uint8]:
    """Random blocks whose values are finite and not huge."""
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(int(kind))
    needed, blocks = rows * columns // elements, np.zeros((0, size), dtype=np.uint8)
    while len(blocks) < needed:
        drawn = rng.integers(0, 256, (needed, size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            sane = np.abs(gguf.dequantize(drawn, kind)).max(axis=1) < 1e3
        blocks = np.concatenate([blocks, drawn[sane]])
    return blocks[:needed].reshape(rows, -1)


@pytest.mark.parametrize("kind", dequantised_by_the_package(), ids=lambda kind: kind.name)
def test_every_type_that_can_be_dequantised_loads(kind: Quant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Small blocks, so that a matrix is read in several.
    monkeypatch.setattr("pavane.models.gguf_file._BLOCK_ELEMENTS", 10 * WIDE.hidden_size)
    tensors = stored(WIDE, tiny_weights(WIDE))
    name = "blk.0.ffn_gate.weight"
    blocks = blocks_of(kind, *tensors[name].shape)
    path = write_gguf(tmp_path / "m.gguf", WIDE, {**tensors, name: blocks}, {name: kind})
    loaded = load_model(path, torch.float32).weights["layers.0.mlp.gate_proj.weight"]
    assert torch.equal(loaded, torch.from_numpy(gguf.dequantize(blocks, kind)).view(256, 256))
    assert loaded.std() > 0


def test_the_types_that_are_loaded() -> None:
    names = {kind.name for kind in dequantised_by_the_package()}
    assert names >= {"F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}
    assert names >= {"IQ4_NL", "IQ4_XS", "IQ3_XXS", "IQ2_XS", "IQ1_S", "TQ1_0", "TQ2_0", "MXFP4"}


def test_rows_that_the_tokenizer_cannot_spell_are_cut_off(tmp_path: Path) -> None:
    """Of dense weights and of blocks that stay as the file has them."""
    tensors = stored(WIDE, tiny_weights(WIDE))
    embedding = gguf.quantize(tensors["token_embd.weight"], Quant.Q8_0)
    path = write_gguf(
        tmp_path / "m.gguf",
        replace(WIDE, tie_word_embeddings=False),
        {**tensors, "token_embd.weight": embedding, "output.weight": tensors["token_embd.weight"]},
        {"token_embd.weight": Quant.Q8_0},
    )
    whole = load_model(path, torch.bfloat16, keep_blocks=True)
    cut = whole.cut_vocabulary(90)
    assert cut.config == replace(whole.config, vocab_size=90)
    assert torch.equal(cut.weights["lm_head.weight"], whole.weights["lm_head.weight"][:90])
    expected = torch.from_numpy(gguf.dequantize(embedding, Quant.Q8_0))[:90]
    assert torch.equal(cut.blocks["embed_tokens.weight"].to(torch.float32), expected)
    assert whole.cut_vocabulary(97) is whole
