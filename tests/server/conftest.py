"""SmolLM2's tokenizer, read once from the installed model file."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from pavane.models.default import default_model_path
from pavane.models.gguf_file import open_gguf
from pavane.models.tokenizer_spec import ByteLevelSpec, tokenizer_from_gguf_metadata
from pavane.server.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def model_path() -> Path:
    return default_model_path()


@pytest.fixture(scope="session")
def spec(model_path: Path) -> ByteLevelSpec:
    read = tokenizer_from_gguf_metadata(open_gguf(model_path).fields)
    assert isinstance(read, ByteLevelSpec)
    return read


@pytest.fixture(scope="session")
def tokenizer(spec: ByteLevelSpec) -> Tokenizer:
    return Tokenizer(spec)


@pytest.fixture(scope="session")
def hugging_face(model_path: Path, spec: ByteLevelSpec) -> Any:
    """SmolLM2's tokenizer as transformers reads it from the same file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        loaded = AutoTokenizer.from_pretrained(model_path.parent, gguf_file=model_path.name, local_files_only=True)
    loaded.chat_template = spec.chat_template
    return loaded
