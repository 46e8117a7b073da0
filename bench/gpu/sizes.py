"""What is measured: the shape of Llama 3.1 8B, and one that any machine runs in moments."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pavane.kernels.rope import RopeParameters
from pavane.models.config import ModelConfig

LLAMA_8B = ModelConfig(
    architecture="llama",
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rms_norm_eps=1e-5,
    rope=RopeParameters(500_000.0, "llama3", factor=8.0, original_max_position=8192),
    max_position=65_536,
    tie_word_embeddings=False,
    qkv_bias=False,
    qk_norm=False,
    window=None,
)


@dataclass(frozen=True)
class Sizes:
    """Lengths are tokens."""

    config: ModelConfig
    slots: int
    calls: tuple[int, ...]  # that decode at once
    context: int  # of each, its own
    sharing: int  # calls that read the same messages
    messages: int
    message: int
    short: int  # own context that a step with sharing is held against
    steps: int  # timed, of each kind
    prompt: int  # prefilled at once
    document: int  # of those that parents are, where many are read
    documents: int
    new: int  # tokens behind them
    busy: int  # calls of the step whose host time is measured
    busy_parents: int
    debate_agents: tuple[int, ...]
    debate_rounds: int
    answer: int  # of a debate
    trees: tuple[tuple[int, int], ...]  # branches, votes
    thought: int
    vote: int
    rag_agents: int
    rag_documents: int
    rag_document: int
    rag_answer: int
    float8_kv: bool = False
    float8_weights: bool = False


FULL = Sizes(
    config=LLAMA_8B,
    slots=320_000,  # 42 GB
    calls=(1, 16, 64),
    context=1024,
    sharing=16,
    messages=16,
    message=512,
    short=512,
    steps=24,
    prompt=8192,
    document=1024,
    documents=16,
    new=2048,
    busy=64,
    busy_parents=8,
    debate_agents=(3, 4, 5, 6, 7, 8),
    debate_rounds=3,
    answer=512,
    trees=((8, 4), (16, 8)),
    thought=256,
    vote=32,
    rag_agents=8,
    rag_documents=8,
    rag_document=1024,
    rag_answer=64,
)

SMALL = replace(
    FULL,
    config=replace(
        LLAMA_8B,
        vocab_size=128,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_position=2048,
    ),
    slots=8192,
    context=12,
    sharing=4,
    messages=4,
    message=6,
    short=6,
    steps=3,
    prompt=32,
    document=8,
    documents=4,
    new=8,
    busy=6,
    busy_parents=3,
    calls=(1, 3, 6),
    debate_agents=(3,),
    debate_rounds=2,
    answer=4,
    trees=((3, 2),),
    thought=4,
    vote=3,
    rag_agents=3,
    rag_documents=3,
    rag_document=8,
    rag_answer=3,
)
