"""The parallel debate, all-EXACT and REUSE and on peers, interleaved, each repetition afresh, equal lengths."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab, interleaved
from pavane.bench.peers.debate import Turns, debate_on
from pavane.bench.peers.peer import Peer
from pavane.bench.prediction import counted, predict
from pavane.bench.report import Figure, Report, at_least, say
from pavane.bench.stats import ratio
from pavane.clients import Client, Fidelity
from pavane.clients.workflows import Setting
from pavane.clients.workflows.debate import PROMPTS, Debate, DebateSizes
from pavane.clients.workflows.debate import run as run_debate
from pavane.clients.workflows.outcome import header
from pavane.clients.workflows.problem import TextProblem

PEERS: tuple[str, ...] = ()
PROBLEM = "A bakery fills 14 trays with 12 rolls each and sells 95 rolls before noon. How many rolls are left?"
ARMS: tuple[Fidelity, ...] = ("exact", "reuse")
FIRST_TOKEN_BAR = at_least(10)
EXACT_BAR = at_least(1.3)
PEER_BAR = at_least(3)
QUICK = {"agents": 2, "rounds": 2, "tokens": 4, "repeat": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=2, help="after the first one")
    parser.add_argument("--tokens", type=positive, default=96, help="of each answer, exactly")
    parser.add_argument("--repeat", type=positive, default=3, help="of all arms, interleaved")
    parser.add_argument("--problem", default=PROBLEM)


@dataclass(frozen=True)
class _Debate:
    problem: TextProblem
    sizes: DebateSizes


async def measure(lab: Lab, args: argparse.Namespace) -> Report:
    debate = _Debate(TextProblem(args.problem), _sizes(args.agents, args.rounds, args.tokens))
    warm_up = _Debate(debate.problem, _sizes(args.agents, 1, 4))
    outcomes: dict[Fidelity, list[Debate]] = {arm: [] for arm in ARMS}
    walls: dict[str, list[float]] = {peer.name: [] for peer in lab.peers}
    async with Client(lab.pavane.target) as client:
        turns = await _turns(client, debate)
    arms: tuple[Fidelity | Peer, ...] = (*ARMS, *lab.peers)
    for arm in arms:  # the first pass of a process is slower; nobody should pay for it
        await _once(lab, arm, warm_up, turns)
    async for _, arm in interleaved(arms, args.repeat):
        outcome = await _once(lab, arm, debate, turns)
        if isinstance(outcome, Debate):
            assert isinstance(arm, str)
            outcomes[arm].append(outcome)
        else:
            assert not isinstance(arm, str)
            walls[arm.name].append(outcome)
    modes = {arm: _mode(outcomes[arm], predict(outcomes[arm][0], arm)) for arm in ARMS}
    for arm in ARMS:
        say(f"  debate, {arm}: {modes[arm]['wall_s']:.2f} s  {modes[arm]['tokens']}")
    for name, each in walls.items():
        say(f"  debate, {name}: {median(each):.2f} s")
    data = {"agents": args.agents, "rounds": args.rounds, "tokens": args.tokens, "modes": modes, "peer_walls_s": walls}
    counted = all(mode["tokens"] == mode["predicted"] for mode in modes.values())
    defect = "" if counted else f"the debate's tokens are not as predicted: {modes}"
    return Report("debate", _figures(modes, walls), data, defect)


def _sizes(agents: int, rounds: int, tokens: int) -> DebateSizes:
    return DebateSizes(agents=agents, rounds=rounds, answer_tokens=tokens, last_tokens=tokens)


async def _once(lab: Lab, arm: Fidelity | Peer, debate: _Debate, turns: Turns) -> Debate | float:
    if not isinstance(arm, str):
        return await debate_on(arm, turns, debate.sizes, Setting())
    async with lab.pavane.client() as client:
        return await run_debate(client, debate.problem, debate.sizes, Setting(fidelity=arm, equal_lengths=True))


def _figures(modes: dict[Fidelity, dict[str, Any]], walls: dict[str, list[float]]) -> list[Figure]:
    exact, reuse = (modes[arm] for arm in ARMS)
    first = [fmean(run) for run in exact["first_tokens_s"]], [fmean(run) for run in reuse["first_tokens_s"]]
    wall = f"{reuse['wall_s']:.2f} s"
    figures = [
        Figure.of(
            "debate, first token after round 0: EXACT / REUSE",
            ratio(*first),
            FIRST_TOKEN_BAR,
            *(f"{median(each):.3f} s" for each in reversed(first)),
        ),
        Figure.of(
            "debate, wall: EXACT / REUSE",
            ratio(exact["walls_s"], reuse["walls_s"]),
            EXACT_BAR,
            wall,
            f"{exact['wall_s']:.2f} s",
        ),
    ]
    for name, each in walls.items():
        times = ratio(each, reuse["walls_s"])
        figures.append(Figure.of(f"debate, wall: {name} / REUSE", times, PEER_BAR, wall, f"{median(each):.2f} s"))
    return figures


async def _turns(client: Client, debate: _Debate) -> Turns:
    start = await client.tokenize(system=PROMPTS["start_system"], user=debate.problem.problem)
    instruction = await client.tokenize(user=PROMPTS["debate"])
    async with client.workflow() as wf:
        answer = await wf.decode(wf.prefill(user="Hi"), max_tokens=1, ignore_eos=True)
    trailer = answer.tokens[len(answer.tokens) - answer.receipt.trailer :]
    return Turns(start, instruction, header(answer), trailer)


def _mode(runs: Sequence[Debate], predicted: dict[str, int]) -> dict[str, Any]:
    calls = [[answer for row in run.answers_by_round for answer in row] for run in runs]
    after_round_0 = len(runs[0].answers_by_round[0])
    generated = sum(call.receipt.generated for call in calls[0])
    wall = median(run.wall for run in runs)
    return {
        "wall_s": wall,
        "walls_s": [run.wall for run in runs],
        "first_tokens_s": [[call.receipt.first_token for call in run[after_round_0:]] for run in calls],
        "first_tokens_from_start_s": [[c.receipt.blocked + c.receipt.first_token for c in run] for run in calls],
        "decode_tok_s": generated / wall,
        "tokens": counted(runs[0].total),
        "predicted": predicted,
    }
