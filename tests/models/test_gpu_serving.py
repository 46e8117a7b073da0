"""A server on a GPU that is stood in for: the flags reach the runner, and what it serves is right."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from support.row_by_row import RowByRow, RowOps
from support.tiny import tiny_config

from pavane.clients import Client
from pavane.kernels.gpu.wrappers import Library
from pavane.models import cuda, gpu_check
from pavane.models.gpu_memory import Used
from tests.models.test_cuda import FINE, GB, standing
from tests.models.test_serving import serve, their_tokens, write

torch.set_num_threads(1)
CONFIG = tiny_config(
    architecture="qwen2", vocab_size=1024, hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=64,
    qkv_bias=True,
)  # fmt: skip
PROMPTS = [list(range(5 + i, 30 + 3 * i)) for i in range(4)]


async def answers(client: Client, prompts: list[list[int]]) -> list[tuple[list[int], list[float]]]:
    """Of one workflow, all at once: tokens and log-probabilities."""
    async with client.workflow() as workflow:
        calls = [
            workflow.decode(
                workflow.prefill(tokens=prompt), header_tokens=[7], temperature=0.0, max_tokens=6, ignore_eos=True,
                logprobs=1,
            )
            for prompt in prompts
        ]  # fmt: skip
        results = await asyncio.gather(*calls)
    return [(list(result.content), list(result.logprobs)) for result in results]


async def test_batch_invariance_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a kernel of FlashInfer."""
    seen: list[dict[str, Any]] = []

    def stand_in(**given: Any) -> cuda.Device:
        seen.append(given)
        return standing(Used(GB, 0, 0, 0))._replace(flashinfer=Library(None, None), ops=RowOps(), tiles=RowByRow)

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu_check, "look", lambda: FINE)
    monkeypatch.setattr(cuda, "this_gpu", stand_in)
    folder = write(tmp_path, CONFIG)
    server = await serve(folder, device="cuda", batch_invariant=True, max_num_batched_tokens=64, max_num_seqs=8)
    try:
        async with Client(f"127.0.0.1:{server.port}") as client:
            alone = [(await answers(client, [prompt]))[0] for prompt in PROMPTS]
            assert await answers(client, PROMPTS) == alone
    finally:
        await server.shutdown()
    assert seen == [{"eager": False}]
    assert [tokens for tokens, _ in alone] == [their_tokens(CONFIG, [*prompt, 7], 6) for prompt in PROMPTS]
