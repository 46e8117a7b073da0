"""Random message graphs with biases, normalised heads and scaled rotations, against the float64 oracle."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.graphs import graphs
from support.harness import BACKENDS, Harness, decode, prefill, tiny_runner
from support.oracle import GraphOracle
from support.tiny import tiny_config, tiny_weights

from pavane.kernels.rope import RopeParameters
from pavane.models.config import ModelConfig
from pavane.models.reference import ReferenceModel
from pavane.scheduler.spec import CallSpec, ParentSpec, State

torch.set_num_threads(1)

BIASED = tiny_config(
    architecture="qwen2",
    qkv_bias=True,
    rope=RopeParameters(1e4, "yarn", factor=4.0, original_max_position=64, beta_fast=8.0, attention_factor=1.2),
)
NORMED = tiny_config(
    architecture="qwen3",
    qk_norm=True,
    head_dim=16,
    tie_word_embeddings=False,
    rope=RopeParameters(5e5, "llama3", factor=8.0, original_max_position=64),
)
EACH = pytest.mark.parametrize("config", [BIASED, NORMED], ids=["biased", "normed"])
REFERENCES = {config: ReferenceModel(config, tiny_weights(config)) for config in (BIASED, NORMED)}


@EACH
@given(
    calls=graphs(),
    backend=st.sampled_from(BACKENDS),
    bos=st.sampled_from([None, 0]),
    budget=st.sampled_from([3, 17, 200]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_graphs_equal_the_oracle(
    config: ModelConfig, calls: list[CallSpec], backend: str, bos: int | None, budget: int
) -> None:
    harness = Harness(
        tiny_runner(config, tiny_weights(config), 2000, backend=backend), 2000, bos_id=bos, token_budget=budget
    )
    harness.submit(*calls)
    harness.run()
    oracle = GraphOracle(REFERENCES[config], bos)
    for call in calls:
        outcome = harness.outcome(call.id)
        assert outcome.state is State.DONE
        assert list(outcome.tokens) == oracle.add(call).tokens
        if call.decode is not None:
            got = torch.tensor(outcome.logprobs, dtype=torch.float64)
            assert (got - oracle.logprobs(call.id)).abs().max() < 1e-4


@EACH
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_parents_far_apart_and_reordered(config: ModelConfig, backend: str, batch_invariant: bool) -> None:
    calls = [
        prefill("a", [5, 6, 7, 8]),
        prefill("b", [9, 10, 11], "a"),
        decode(
            "d", [3], ParentSpec("b", offset=0), ParentSpec("a", offset=400), forced=(4, 5, 6), logprobs=True
        ),
    ]  # fmt: skip
    harness = Harness(
        tiny_runner(config, tiny_weights(config), 400, backend=backend, batch_invariant=batch_invariant),
        400,
        batch_invariant=batch_invariant,
    )
    harness.submit(*calls)
    harness.run()
    oracle = GraphOracle(REFERENCES[config])
    for call in calls:
        oracle.add(call)
    got = torch.tensor(harness.outcome("d").logprobs, dtype=torch.float64)
    assert (got - oracle.logprobs("d")).abs().max() < 1e-4
    assert harness.outcome("d").receipt.repositioned == 7
