"""A model that is nothing but shapes and a tokenizer: for servers whose runner is a fake."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import pre_tokenizers

from support.vocabularies import byte_level_folder

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FIELDS = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 1024,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 1,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "rope_theta": 1e4,
}


def write_tiny(folder: Path) -> Path:
    """Without weights: for `--load-format dummy`. Chat is ChatML; some 590 tokens spell something."""
    (folder / "config.json").write_text(json.dumps(FIELDS))
    byte_level_folder(folder, pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|im_start|>", "<|im_end|>"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": CHATML}))
    return folder
