"""transformers as a peer: its weights, and that its prefix cache changes nothing but time."""

import pytest
import torch
from support.tiny import tiny_config, tiny_weights

from pavane.bench.peers.hf_server import Generator
from pavane.bench.peers.hf_weights import llama_of
from pavane.models.errors import ModelError
from pavane.models.reference import ReferenceModel

SHARED = [5, 9, 2, 33, 17, 8]


@pytest.fixture(scope="module")
def model():
    return llama_of(tiny_config(), tiny_weights(tiny_config()))


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_are_the_same(tied):
    config = tiny_config(tie_word_embeddings=tied)
    weights = tiny_weights(config)
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    with torch.inference_mode():
        theirs = llama_of(config, weights)(torch.tensor([ids])).logits[0].double()
        ours = ReferenceModel(config, weights).encode(ids, 0).logits
    torch.testing.assert_close(theirs, ours, atol=1e-3, rtol=0)


def generate(generator, prompts, *, fresh):
    return generator(prompts, tokens=6, fresh=fresh)


@pytest.mark.parametrize("kept", [0, 3, 6])
def test_a_cached_prefix_changes_no_token(model, kept):
    warm, cold = Generator(model), Generator(model)
    generate(warm, [SHARED, SHARED], fresh=True)
    new = [[*SHARED[:kept], 40 + i, 50, 60, 70 + i] for i in range(2)]
    cropped = warm._shared(torch.tensor(new))
    assert (cropped.get_seq_length() if cropped else 0) == kept
    found = generate(warm, new, fresh=False)
    assert found["tokens"] == generate(cold, new, fresh=True)["tokens"]
    assert len(found["times"]) == 6
    assert found["times"] == sorted(found["times"])


def test_an_equal_prompt_leaves_one_token_to_compute(model):
    generator = Generator(model)
    first = generate(generator, [SHARED], fresh=True)
    assert generate(generator, [SHARED], fresh=False)["tokens"] == first["tokens"]


def test_a_batch_of_another_size_shares_nothing(model):
    generator = Generator(model)
    generate(generator, [SHARED], fresh=True)
    assert generator._shared(torch.tensor([SHARED, SHARED])) is None


def test_a_model_that_is_no_plain_llama_is_refused():
    config = tiny_config(architecture="qwen3", qk_norm=True)
    with pytest.raises(ModelError, match=r"qwen3 with rope 'default', qkv_bias False, qk_norm True: .* --peer none"):
        llama_of(config, tiny_weights(config))
