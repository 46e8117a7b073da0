"""The parallel debate, all-EXACT and REUSE, interleaved, each repetition in a fresh namespace, equal lengths."""

from __future__ import annotations

import argparse
import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from pavane.bench.report import emit, say, verdict
from pavane.bench.server_process import ServerProcess
from pavane.clients import Client, Fidelity, Message, Receipt
from pavane.clients.workflows.debate import DEBATE, SYSTEM, Debate, Outcome, run_debate

PROBLEM = "A bakery fills 14 trays with 12 rolls each and sells 95 rolls before noon. How many rolls are left?"
ARMS: tuple[Fidelity, ...] = ("exact", "reuse")
CLASSES = ("in_place", "repositioned", "encoded", "generated", "trailer")


@dataclass(frozen=True)
class Lengths:
    """Tokens of the parts of a debate, and how many two of them begin with in common."""

    start: int
    instruction: int
    header: int
    content: int
    trailer: int
    header_and_instruction: int
    start_and_instruction: int

    @property
    def message(self) -> int:
        return self.header + self.content + self.trailer


def predict(n: Lengths, agents: int, rounds: int, fidelity: Fidelity) -> dict[str, int]:
    """The tokens of the whole debate by class, from the counting rule alone."""
    m = n.message
    total = dict.fromkeys(CLASSES, 0)
    total["generated"] = agents * (rounds + 1) * n.content
    total["trailer"] = agents * (rounds + 1) * n.trailer
    if fidelity == "exact":
        # Roots are lazy. Round 0: the first agent encodes the start, all their headers. Round r reads the longest
        # stored prefix: the start and, of its own answers, those that stood there in the round before; then what the
        # newest own answer and the instruction that stood in its place begin with in common.
        total["encoded"] = n.start + agents * n.header
        total["in_place"] = (agents - 1) * n.start
        for r in range(1, rounds + 1):
            visible = n.start + r * m + n.instruction + (agents - 1) * m + n.header
            shared = n.start + m if r == 1 else n.start + (r - 1) * m + n.header_and_instruction
            total["in_place"] += agents * shared
            total["encoded"] += agents * (visible - shared)
        return total
    # Both roots see nothing: what they begin with in common is one encoding.
    total["encoded"] = n.start + n.instruction - n.start_and_instruction + agents * (rounds + 1) * n.header
    total["in_place"] = agents * n.start + n.start_and_instruction

    def begins(r: int) -> int:  # offset at which the answers of round r are encoded
        return n.start if r == 0 else n.start + r * m + n.instruction + (agents - 1) * m

    for r in range(1, rounds + 1):
        placed = [(0, 0, n.start), *((n.start + k * m, begins(k), m) for k in range(r))]
        at = n.start + r * m
        placed.append((at, 0, n.instruction))
        placed += [(at + n.instruction + j * m, begins(r - 1), m) for j in range(agents - 1)]
        for where, encoded_at, length in placed:
            total["in_place" if where == encoded_at else "repositioned"] += agents * length
    return total


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2, help="after the first one")
    parser.add_argument("--tokens", type=int, default=96, help="of each answer, exactly")
    parser.add_argument("--repeat", type=int, default=3, help="of both arms, interleaved")
    parser.add_argument("--problem", default=PROBLEM)


def run(args: argparse.Namespace) -> int:
    result = asyncio.run(_bench(args))
    emit(result, args.json)
    exact, reuse = (result["modes"][arm] for arm in ARMS)
    for arm in ARMS:
        mode = result["modes"][arm]
        say(f"{arm:6}  wall {mode['wall_s']:6.2f} s  TTFT {mode['mean_ttft_after_round_0_s']:.3f} s  {mode['tokens']}")
    ttft = exact["mean_ttft_after_round_0_s"] / reuse["mean_ttft_after_round_0_s"]
    wall = exact["wall_s"] / reuse["wall_s"]
    say(verdict("TTFT after round 0, exact / reuse", ttft, ">= 10", ttft >= 10))
    say(verdict("wall, exact / reuse", wall, "> 1", wall > 1))
    predicted = all(result["modes"][arm]["tokens"] == result["modes"][arm]["predicted"] for arm in ARMS)
    say(f"tokens as predicted: {'yes' if predicted else 'NO'}")
    return 0 if predicted else 1


async def _bench(args: argparse.Namespace) -> dict[str, Any]:
    debate = Debate(args.problem, args.agents, args.rounds, args.tokens, equal_lengths=True)
    outcomes: dict[Fidelity, list[Outcome]] = {arm: [] for arm in ARMS}
    async with ServerProcess.serve(*args.serve) as server:
        async with Client(server.target) as client:
            lengths = await _lengths(client, debate)
            for arm in ARMS:  # the first pass of a process is slower; nobody should pay for it
                await run_debate(client, Debate(args.problem, 2, 1, 4, equal_lengths=True), arm, _follow)
        for i in range(args.repeat):
            for arm in ARMS if i % 2 == 0 else ARMS[::-1]:
                async with Client(server.target, namespace=f"bench-{uuid.uuid4().hex[:8]}") as client:
                    outcomes[arm].append(await run_debate(client, debate, arm, _follow))
                say(f"  {arm:6} {outcomes[arm][-1].wall:.2f} s")
    modes = {arm: _mode(outcomes[arm], predict(lengths, args.agents, args.rounds, arm)) for arm in ARMS}
    return {"bench": "debate", "agents": args.agents, "rounds": args.rounds, "tokens": args.tokens, "modes": modes}


async def _follow(r: int, agent: int, message: Message) -> None:
    await message


async def _lengths(client: Client, debate: Debate) -> Lengths:
    start = await client.tokenize(turns=[("system", SYSTEM), ("user", debate.problem)])
    instruction = await client.tokenize(user=DEBATE)
    async with client.workflow() as wf:
        answer = await wf.decode(wf.prefill(user="Hi"), max_tokens=1, ignore_eos=True)
    trailer = answer.receipt.trailer
    header = list(answer.tokens[: len(answer.tokens) - len(answer.content) - trailer])
    return Lengths(
        len(start),
        len(instruction),
        len(header),
        debate.max_tokens,
        trailer,
        _common(header, instruction),
        _common(start, instruction),
    )


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _mode(runs: Sequence[Outcome], predicted: dict[str, int]) -> dict[str, Any]:
    calls = [[answer for row in run.answers for answer in row] for run in runs]
    ttft = [median(call.receipt.first_token for call in same) for same in zip(*calls, strict=True)]
    from_start = [median(c.receipt.blocked + c.receipt.first_token for c in same) for same in zip(*calls, strict=True)]
    generated = sum(call.receipt.generated for call in calls[0])
    wall = median(run.wall for run in runs)
    return {
        "wall_s": wall,
        "walls_s": [run.wall for run in runs],
        "ttft_s": ttft,
        "ttft_from_start_s": from_start,
        "mean_ttft_after_round_0_s": fmean(ttft[len(runs[0].answers[0]) :]),
        "decode_tok_s": generated / wall,
        "tokens": _tokens(runs[0].total),
        "predicted": predicted,
    }


def _tokens(total: Receipt) -> dict[str, int]:
    return {
        "in_place": total.reused_in_place,
        "repositioned": total.repositioned,
        "encoded": total.encoded,
        "generated": total.generated,
        "trailer": total.trailer,
    }
