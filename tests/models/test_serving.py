"""Servers of tiny models from folders: what the flags that name a model do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.theirs import config_fields, transformers_model
from support.tiny import tiny_config, tiny_weights
from support.vocabularies import byte_level_folder
from tokenizers import pre_tokenizers

from pavane.clients import Client
from pavane.kernels.rope import RopeParameters
from pavane.models.config import ModelConfig
from pavane.models.loader import load_model
from pavane.server.app import start
from pavane.server.config import ConfigError, ServerConfig
from pavane.server.runners import digest_of, identity_of
from pavane.server.running import Server

torch.set_num_threads(1)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPELLED = 591  # tokens that the tokenizer has; the embedding is padded, as Qwen's
QWEN = tiny_config(
    architecture="qwen2",
    qkv_bias=True,
    vocab_size=1024,
    num_layers=2,
    rope=RopeParameters(1e4, "yarn", factor=2.0, original_max_position=256, attention_factor=1.1),
)


def write(folder: Path, config: ModelConfig, **changes: Any) -> Path:
    fields = config_fields(config) | changes
    (folder / "config.json").write_text(json.dumps(fields))
    save_file(
        {n if n == "lm_head.weight" else f"model.{n}": w for n, w in tiny_weights(config).items()},
        folder / "model.safetensors",
    )
    byte_level_folder(folder, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|im_start|>", "<|im_end|>"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": CHATML}))
    return folder


async def serve(model: Path, **changes: Any) -> Server:
    fields: dict[str, Any] = {"num_slots": 2000, "threads": 1, "drain_timeout": 5.0, "dtype": "float32"} | changes
    return await start(ServerConfig(model=str(model), port=0, metrics_port=-1, **fields))


@torch.inference_mode()
def their_tokens(config: ModelConfig, line: list[int], count: int) -> list[int]:
    theirs = transformers_model(config, tiny_weights(config))
    for _ in range(count):
        line = [*line, int(theirs(torch.tensor([line])).logits[0, -1, :SPELLED].argmax())]
    return line[-count:]


async def test_a_folder_is_served_and_gives_the_tokens_of_transformers(tmp_path: Path) -> None:
    server = await serve(write(tmp_path, QWEN))
    try:
        async with Client(f"127.0.0.1:{server.port}") as client, client.workflow() as workflow:
            info = await client.server_info()
            assert (info.model, info.chat_format, info.max_model_len) == (tmp_path.name, "chatml", 512)
            assert (info.kv_cache_dtype, info.quantization) == ("auto", "auto")
            prompt = [*await client.tokenize(user="Hello there, what is 2+2?"), *range(5, 40)]
            message = workflow.prefill(tokens=prompt)
            result = await workflow.decode(
                message, header_tokens=[7], temperature=0.0, max_tokens=12, ignore_eos=True
            )  # fmt: skip
    finally:
        await server.shutdown()
    assert list(result.content) == their_tokens(QWEN, [*prompt, 7], 12)


async def test_random_weights_are_served_without_a_file_of_weights(tmp_path: Path) -> None:
    (write(tmp_path, QWEN) / "model.safetensors").unlink()
    server = await serve(tmp_path, load_format="dummy", dtype="auto")
    try:
        async with Client(f"127.0.0.1:{server.port}") as client, client.workflow() as workflow:
            message = workflow.prefill(user="Hello")
            results = [
                await workflow.decode(message, max_tokens=20, ignore_eos=True, seed=seed) for seed in range(5)
            ]  # fmt: skip
            assert [len(result.content) for result in results] == [20] * 5
            assert max(token for result in results for token in result.content) < SPELLED
            assert (await client.server_info()).vocab_size == SPELLED < QWEN.vocab_size
    finally:
        await server.shutdown()


async def test_a_window_that_cuts_is_refused_with_the_way_out(tmp_path: Path) -> None:
    config = replace(QWEN, architecture="qwen3", qkv_bias=False, qk_norm=True, window=100)
    write(tmp_path, config, use_sliding_window=True, max_window_layers=1)
    words = r"config.json: sliding_window = 100 in layer 1 is not supported .* and {} positions .* --max-model-len 100"
    with pytest.raises(ConfigError, match=words.format(512)):
        await serve(tmp_path)
    with pytest.raises(ConfigError, match=words.format(101)):
        await serve(tmp_path, max_model_len=101)
    server = await serve(tmp_path, max_model_len=100)
    await server.shutdown()


def test_what_keys_begin_with_names_the_formats(tmp_path: Path) -> None:
    loaded = load_model(write(tmp_path, QWEN), torch.float32)
    ways: list[dict[str, Any]] = [{}, {"dtype": "float32"}, {"kv_cache_dtype": "fp8"}, {"quantization": "fp8"}]
    assert len({identity_of(loaded, ServerConfig(**way)) for way in ways}) == 4
    assert identity_of(loaded, ServerConfig(dtype="bfloat16")) == identity_of(loaded, ServerConfig())


def test_the_digest_covers_whatever_decides_the_encodings(tmp_path: Path) -> None:
    write(tmp_path, QWEN)
    path, fields = tmp_path / "config.json", json.loads((tmp_path / "config.json").read_text())

    def digest(load_format: str = "auto") -> bytes:
        return digest_of(load_model(tmp_path, torch.float32, load_format))

    seen = {digest(), digest("dummy")}
    assert len(seen) == 2
    assert seen == {digest(), digest("dummy")}
    for changes in ({"rms_norm_eps": 1e-3}, {"max_position_embeddings": 1024}):
        path.write_text(json.dumps(fields | changes))
        seen |= {digest(), digest("dummy")}
    assert len(seen) == 6
    path.write_text(json.dumps(fields))
    weights = load_file(tmp_path / "model.safetensors")
    weights["model.norm.weight"][3] += 1
    save_file(weights, tmp_path / "model.safetensors")
    assert digest() not in seen
    assert digest("dummy") in seen
