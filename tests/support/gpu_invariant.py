"""SmolLM2 as `--batch-invariant` has it on a device: each call alone, and all of them in company."""

from __future__ import annotations

import torch

from pavane.kernels.batch import Runner
from pavane.models.cpu import cpu_forward
from pavane.models.cuda import Device, Wanted, gpu_runner
from pavane.models.default import default_model_path
from pavane.models.loader import load_model
from pavane.models.runner import ModelRunner
from pavane.scheduler.spec import CallSpec
from support.gpu_smollm2 import POSITIONS, rope_of
from support.harness import Harness, decode, prefill

SLOTS, VOCABULARY = 4096, 49_152
Told = dict[str, tuple[tuple[int, ...], tuple[float, ...]]]  # tokens and log-probabilities


def runner_of(device: Device, dtype: torch.dtype) -> Runner:
    loaded = load_model(default_model_path(), dtype)
    wanted = Wanted(SLOTS, 0.9, 512, 16, dtype, batch_invariant=True)
    return gpu_runner(loaded.config, loaded.weights, rope_of(loaded.config), wanted, device)


def plain_runner() -> Runner:
    """On the CPU in float32."""
    loaded = load_model(default_model_path(), torch.float32)
    rope = rope_of(loaded.config)
    return ModelRunner(cpu_forward(loaded, rope, SLOTS, dtype=torch.float32, batch_invariant=True))


def story(answer: int) -> list[CallSpec]:
    """Three texts, and greedy answers of `answer` tokens to them in several orders."""
    texts = [f"t{i}" for i in range(3)]
    calls = [prefill(name, line(40 + 60 * i, i)) for i, name in enumerate(texts)]
    for i in range(3):
        parents = [*texts[i:], *texts[:i], *([f"a{i - 1}"] if i else [])]
        calls.append(decode(f"a{i}", line(5, 9 + i), *parents, max_tokens=answer, temperature=0.0, logprobs=True))
    return calls


def line(count: int, seed: int) -> list[int]:
    return torch.randint(3, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def harness(runner: Runner, budget: int) -> Harness:
    return Harness(
        runner, SLOTS, POSITIONS - 1, VOCABULARY, batch_invariant=True, check=False, token_budget=budget, ahead=True
    )


def alone(runner: Runner, calls: list[CallSpec]) -> Told:
    there = harness(runner, 512)
    for call in calls:
        there.submit(call)
        there.run()
    return told(there, calls)


def in_company(runner: Runner, calls: list[CallSpec], budget: int) -> Told:
    """In chunks of at most `budget` rows, among answers of other lengths."""
    there = harness(runner, budget)
    there.submit(*[decode(f"x{i}", line(7 + 9 * i, 30 + i), max_tokens=9 + 5 * i, seed=i) for i in range(7)])
    there.step()
    there.submit(*calls)
    there.run()
    return told(there, calls)


def told(there: Harness, calls: list[CallSpec]) -> Told:
    answers = [there.outcome(call.id) for call in calls if call.decode is not None]
    return {answer.id: (tuple(answer.tokens), tuple(answer.logprobs)) for answer in answers}
