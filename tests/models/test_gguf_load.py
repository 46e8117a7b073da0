"""A tiny model is written with the `gguf` package and read back; then it is broken in every way."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Quant
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pavane.models.errors import ModelError
from pavane.models.loader import LoadedModel, load_model

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 64, 96, 4, 2, 16, 2
TOKENS = ["<|end|>", *[chr(c) for c in range(0x21, 0x7F)], "Ġ", "ab"]

Tensors = dict[str, Any]


def tensors_of() -> Tensors:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    tensors = {"token_embd.weight": normal(len(TOKENS), HIDDEN), "output_norm.weight": normal(HIDDEN)}
    for i in range(LAYERS):
        tensors |= {
            f"blk.{i}.attn_norm.weight": normal(HIDDEN),
            f"blk.{i}.attn_q.weight": normal(HEADS * HEAD_DIM, HIDDEN),
            f"blk.{i}.attn_k.weight": normal(KV_HEADS * HEAD_DIM, HIDDEN),
            f"blk.{i}.attn_v.weight": normal(KV_HEADS * HEAD_DIM, HIDDEN),
            f"blk.{i}.attn_output.weight": normal(HIDDEN, HEADS * HEAD_DIM),
            f"blk.{i}.ffn_norm.weight": normal(HIDDEN),
            f"blk.{i}.ffn_gate.weight": normal(INNER, HIDDEN),
            f"blk.{i}.ffn_up.weight": normal(INNER, HIDDEN),
            f"blk.{i}.ffn_down.weight": normal(HIDDEN, INNER),
        }
    return tensors


def write(path: Path, tensors: Tensors, quant: Quant = Quant.F32, tokenizer: str = "gpt2", pre: str = "gpt-2") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model(tokenizer)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, *[1] * (len(TOKENS) - 1)])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    for name, tensor in tensors.items():
        if tensor.ndim > 1 and tensor.dtype == np.float32 and quant is not Quant.F32:
            writer.add_tensor(name, gguf.quantize(tensor, quant), raw_dtype=quant)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedModel]:
    def load(tensors: Tensors | None = None, dtype: torch.dtype = torch.float32, **options: Any) -> LoadedModel:
        return load_model(write(tmp_path / "tiny.gguf", tensors or tensors_of(), **options), dtype)

    return load


def test_names_shapes_and_types(load: Callable[..., LoadedModel]) -> None:
    model = load(dtype=torch.bfloat16)
    assert model.name == "tiny"
    assert model.config.tie_word_embeddings
    assert len(model.weights) == 2 + 9 * LAYERS
    for name, weight in model.weights.items():
        assert weight.is_contiguous()
        assert weight.dtype == (torch.float32 if "norm" in name else torch.bfloat16)
    assert model.weights["layers.1.mlp.down_proj.weight"].shape == (HIDDEN, INNER)
    assert model.tokenizer.tokens == tuple(TOKENS)
    assert model.tokenizer.merges == (("a", "b"),)
    assert (model.tokenizer.eos_id, model.tokenizer.bos_id, model.tokenizer.add_bos_token) == (0, None, False)


def test_values_and_the_rotary_layout(load: Callable[..., LoadedModel]) -> None:
    tensors = tensors_of()
    weights = load(tensors).weights
    for ours, theirs in [
        ("embed_tokens", "token_embd"),
        ("norm", "output_norm"),
        ("layers.1.mlp.up_proj", "blk.1.ffn_up"),
    ]:
        assert torch.equal(weights[f"{ours}.weight"], torch.from_numpy(tensors[f"{theirs}.weight"]))
    for ours, theirs, heads in [("q_proj", "attn_q", HEADS), ("k_proj", "attn_k", KV_HEADS)]:
        stored = torch.from_numpy(tensors[f"blk.0.{theirs}.weight"]).view(heads, HEAD_DIM, HIDDEN)
        loaded = weights[f"layers.0.self_attn.{ours}.weight"].view(heads, HEAD_DIM, HIDDEN)
        for i in range(HEAD_DIM // 2):
            assert torch.equal(loaded[:, i], stored[:, 2 * i])
            assert torch.equal(loaded[:, HEAD_DIM // 2 + i], stored[:, 2 * i + 1])


def test_an_output_matrix_of_its_own(load: Callable[..., LoadedModel]) -> None:
    tensors = tensors_of()
    tensors["output.weight"] = tensors["token_embd.weight"] + 1
    model = load(tensors)
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.weights["lm_head.weight"], torch.from_numpy(tensors["output.weight"]))


@pytest.mark.parametrize("quant", [Quant.F16, Quant.BF16, Quant.Q8_0, Quant.Q4_0, Quant.Q4_1, Quant.Q5_0, Quant.Q5_1])
def test_quantised_weights(load: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch, quant: Quant) -> None:
    # Small blocks, so that a matrix is read in several.
    monkeypatch.setattr("pavane.models.gguf_file._BLOCK_ELEMENTS", 10 * HIDDEN)
    tensors = tensors_of()
    stored = tensors["blk.0.ffn_gate.weight"]
    loaded = load(tensors, quant=quant).weights["layers.0.mlp.gate_proj.weight"]
    assert torch.equal(loaded, torch.from_numpy(gguf.dequantize(gguf.quantize(stored, quant), quant)))


def test_tensors_that_do_not_fit_are_named(load: Callable[..., LoadedModel]) -> None:
    tensors = tensors_of()
    with pytest.raises(ModelError, match=r"tensor blk.1.ffn_up.weight is missing"):
        load({name: tensor for name, tensor in tensors.items() if name != "blk.1.ffn_up.weight"})
    with pytest.raises(ModelError, match=r"tensor output_norm.weight has shape \(32,\)"):
        load(tensors | {"output_norm.weight": tensors["output_norm.weight"][:32]})
    with pytest.raises(ModelError, match=r"tensor blk.0.attn_q_norm.weight is not supported"):
        load(tensors | {"blk.0.attn_q_norm.weight": tensors["output_norm.weight"]})
    with pytest.raises(ModelError, match=r"tensor blk.0.attn_output.bias is not supported"):
        load(tensors | {"blk.0.attn_output.bias": tensors["output_norm.weight"]})
    with pytest.raises(ModelError, match=r"tensor token_embd.weight has type I32"):
        load(tensors | {"token_embd.weight": tensors["token_embd.weight"].astype(np.int32)})


def test_values_that_are_not_finite_are_refused(load: Callable[..., LoadedModel]) -> None:
    tensors = tensors_of()
    tensors["blk.0.ffn_up.weight"][3, 4] = 1e6
    assert load(tensors).weights["layers.0.mlp.up_proj.weight"][3, 4] == 1e6
    with pytest.raises(ModelError, match=r"blk.0.ffn_up.weight has values that are not finite in torch.float16"):
        load(tensors, torch.float16)


def test_tokenizers_that_are_not_reproduced_are_refused(load: Callable[..., LoadedModel]) -> None:
    with pytest.raises(ModelError, match=r"tokenizer.ggml.model = 't5' is not supported"):
        load(tokenizer="t5")
    with pytest.raises(ModelError, match=r"tokenizer.ggml.pre = 'default' is not supported"):
        load(pre="default")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model file"):
        load_model(tmp_path / "nothing.gguf", torch.float32)
    (tmp_path / "text.gguf").write_text("once upon a time")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        load_model(tmp_path / "text.gguf", torch.float32)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("gguf") / "good.gguf", tensors_of()).read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_a_model_error(tmp_path: Path, good: bytes, share: float) -> None:
    path = tmp_path / "truncated.gguf"
    path.write_bytes(good[: int(len(good) * share * share)])
    with pytest.raises(ModelError):
        load_model(path, torch.float32)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(4, 5000), value=st.binary(min_size=1, max_size=8))
def test_a_corrupt_file_is_a_model_error_or_loads(tmp_path: Path, good: bytes, at: int, value: bytes) -> None:
    path = tmp_path / "corrupt.gguf"
    path.write_bytes(good[:at] + value + good[at + len(value) :])
    with contextlib.suppress(ModelError):
        assert load_model(path, torch.float32).config.num_layers == LAYERS
