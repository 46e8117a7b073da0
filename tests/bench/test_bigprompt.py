"""The prompts of a megabyte, and the model that takes them."""

from support.tiny import tiny_config
from support.tiny_gguf import write_gguf

from pavane.bench.big_prompts import SIZE, text
from pavane.bench.bigprompt import POSITIONS, longer_context
from pavane.models.gguf_file import open_gguf


def test_prompts_are_as_long_as_they_should_be_and_begin_differently():
    first, second = text(1), text(2)
    assert len(first.encode()) == len(second.encode()) == SIZE
    assert first[:20] != second[:20]


def test_a_copy_of_a_model_with_a_longer_context(tmp_path):
    model = write_gguf(tmp_path / "m.gguf", tiny_config(), {})
    before = model.read_bytes()
    copy = longer_context(model, tmp_path / "copy.gguf")
    lengths = [value for path in (model, copy) for name, value in open_gguf(path).fields.items() if "context_l" in name]
    assert lengths[0] != lengths[1] == POSITIONS
    assert model.read_bytes() == before
    assert len(copy.read_bytes()) == len(before)
