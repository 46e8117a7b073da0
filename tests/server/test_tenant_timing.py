"""How long a first token takes says nothing about what another tenant has had computed."""

from __future__ import annotations

import random
import time
from pathlib import Path
from statistics import median

from support.secured import FIRST, FakeRunner, KeyFile, served, tiny_model

from pavane.clients import Client
from pavane.kernels.batch import Batch, StepResult

ROUNDS = 40
LENGTH = 400
ROW_S = 25e-6


class PacedRunner(FakeRunner):
    """Takes its time for every row, as a model does: what is cached is quick."""

    def execute(self, batch: Batch) -> StepResult:
        time.sleep(ROW_S * batch.n_rows)
        return super().execute(batch)


def prompt(number: int) -> list[int]:
    """No two begin alike."""
    draw = random.Random(number)
    return [FIRST + number, *(FIRST + draw.randrange(100) for _ in range(LENGTH - 1))]


async def ask(client: Client, tokens: list[int]) -> tuple[float, int]:
    """Seconds until the first token was here, and what the server says that it has encoded."""
    async with client.workflow() as workflow:
        began = time.perf_counter()
        answer = workflow.decode(workflow.prefill(tokens=tokens), header_tokens=[FIRST], max_tokens=1, ignore_eos=True)
        await anext(aiter(answer))
        seconds = time.perf_counter() - began
        await answer
    return seconds, workflow.total.encoded


def chance(first: list[float], second: list[float], shuffles: int = 2000) -> float:
    """How often, if nothing but chance divided the times, their medians would differ so much (a permutation test)."""
    draw, seen = random.Random(1), abs(median(first) - median(second))
    both, more = first + second, 0
    for _ in range(shuffles):
        draw.shuffle(both)
        more += abs(median(both[: len(first)]) - median(both[len(first) :])) >= seen
    return more / shuffles


async def test_nobody_sees_by_the_clock_what_others_have_asked(tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys")
    theirs, ours = keys.add("a"), keys.add("b")
    times: dict[str, list[float]] = {"seen by others": [], "seen by nobody": [], "seen by us": []}
    encoded: dict[str, set[int]] = {kind: set() for kind in times}
    async with served(tiny_model(tmp_path), PacedRunner, api_keys=str(keys.path), num_slots=100_000) as server:
        target = f"127.0.0.1:{server.port}"
        async with Client(target, api_key=theirs) as a, Client(target, api_key=ours) as b:
            for number in range(ROUNDS):
                await ask(a, prompt(3 * number))
                await ask(b, prompt(3 * number + 2))
                trials = list(zip(times, (prompt(3 * number + i) for i in range(3)), strict=True))
                random.Random(number).shuffle(trials)
                for kind, tokens in trials:
                    seconds, computed = await ask(b, tokens)
                    times[kind].append(seconds)
                    encoded[kind].add(computed)
    assert encoded["seen by others"] == encoded["seen by nobody"] == {LENGTH + 1}
    assert encoded["seen by us"] == {1}  # the header
    # What was cached for us is told from what was not: the clock is good enough to see it.
    effect = median(times["seen by nobody"]) - median(times["seen by us"])
    assert effect > 0.5 * ROW_S * LENGTH
    others, nobody = times["seen by others"], times["seen by nobody"]
    print({kind: f"{median(found) * 1e3:.2f} ms" for kind, found in times.items()}, "p =", chance(others, nobody))
    assert abs(median(others) - median(nobody)) < 0.25 * effect
