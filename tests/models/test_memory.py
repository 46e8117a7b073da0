"""What asks for more memory than there is is refused before any of it is filled."""

from pathlib import Path

import pytest
import torch
from support.theirs import config_fields
from support.tiny import tiny_config, tiny_weights
from support.tiny_gguf import stored, write_gguf
from support.vocabularies import write_json

from pavane.kernels.rope import RopeTable, rope_frequencies
from pavane.models import memory
from pavane.models.config import weight_shapes
from pavane.models.dummy import dummy_weights
from pavane.models.errors import ModelError
from pavane.models.loader import load_model
from pavane.server.config import ServerConfig
from pavane.server.runners import check_tables

CONFIG = tiny_config(tie_word_embeddings=False)


@pytest.fixture
def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with 1 GB, of which 409600 bytes are available."""
    (tmp_path / "meminfo").write_text("MemTotal: 1000000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\n")
    monkeypatch.setattr(memory, "_SYSTEM", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    return tmp_path


def test_the_smaller_of_system_and_group_counts(free: Path) -> None:
    assert memory.available_memory() == 409_600
    (free / "memory.current").write_text("700000\n")
    (free / "memory.stat").write_text("anon 1\ninactive_file 90000\n")
    (free / "memory.max").write_text("max\n")
    assert memory.available_memory() == 409_600
    (free / "memory.max").write_text("1000000\n")
    assert memory.available_memory() == 390_000
    (free / "meminfo").unlink()
    (free / "memory.max").unlink()
    assert memory.available_memory() is None
    memory.check_fits("a terabyte takes", 10**12, "")


@pytest.mark.usefixtures("free")
def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    huge = tiny_config(num_layers=10**9)
    with pytest.raises(
        ModelError, match=r"weights take, in bfloat16, \d+\.\d GB of memory, and 0.0 GB are available; "
    ):
        dummy_weights(huge, torch.bfloat16)
    write_json(tmp_path / "config.json", **config_fields(huge))
    with pytest.raises(ModelError, match=r"weights take, in float32, "):
        load_model(tmp_path, torch.float32)
    path = write_gguf(tmp_path / "m.gguf", CONFIG, stored(CONFIG, tiny_weights(CONFIG)))
    assert load_model(path, torch.float32).weights
    with pytest.raises(ModelError, match=r"weights take"):
        load_model(path, torch.float64)


def test_sizes_are_those_of_the_tensors(free: Path) -> None:
    weights = dummy_weights(CONFIG, torch.float32)
    size = sum(weight.nbytes for weight in weights.values())
    assert weights.keys() == weight_shapes(CONFIG).keys()
    for group, fits in ((size, True), (size - 1, False)):
        for name, value in (("max", group), ("current", 0), ("stat", "x 1")):
            (free / f"memory.{name}").write_text(f"{value}\n")
        if fits:
            memory.check_weights_fit(CONFIG, torch.float32)
        else:
            with pytest.raises(ModelError, match="weights take"):
                memory.check_weights_fit(CONFIG, torch.float32)


@pytest.mark.usefixtures("free")
def test_tables_that_do_not_fit() -> None:
    check_tables(CONFIG, ServerConfig(num_slots=1000), 1000)
    for slots, positions in ((10_000, 1000), (1000, 10_000)):
        words = rf"--num-slots {slots} and {positions} positions take .* lower --num-slots .* or --max-model-len"
        with pytest.raises(ModelError, match=words):
            check_tables(CONFIG, ServerConfig(num_slots=slots), positions)
    with pytest.raises(
        ModelError, match=r"with --host-cache-gb 3 take 3.0 GB .* GB., --host-cache-gb or --max-model-len"
    ):
        check_tables(CONFIG, ServerConfig(num_slots=1000, host_cache_gb=3), 1000)
    table = RopeTable(rope_frequencies(CONFIG.rope, CONFIG.head_dim)[0], 11)
    assert RopeTable.nbytes(11, CONFIG.head_dim) == table.cos.nbytes + table.sin.nbytes
