"""A cold chat (system, user, header): time to first token with REUSE against EXACT, new texts in each repetition."""

from __future__ import annotations

import argparse
import random
import time
from statistics import median

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab, interleaved
from pavane.bench.report import Figure, Report, at_most, say
from pavane.bench.stats import ratio
from pavane.clients import Fidelity

PEERS = None
BAR = at_most(1.05)
QUICK = {"repeat": 2}
ARMS: tuple[Fidelity, ...] = ("reuse", "exact")
WORDS = ("river", "stone", "winter", "letter", "garden", "music", "window", "copper", "morning", "engine", "paper")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--system", type=positive, default=60, help="words of the system turn")
    parser.add_argument("--user", type=positive, default=40, help="words of the user's turn")
    parser.add_argument("--repeat", type=positive, default=21)


async def measure(lab: Lab, args: argparse.Namespace) -> Report:
    times: dict[Fidelity, list[float]] = {arm: [] for arm in ARMS}
    for arm in ARMS:
        await _first_token(lab, arm, "system", "user")
    async for i, arm in interleaved(ARMS, args.repeat):
        draw = random.Random(i)
        system, user = (" ".join(draw.choices(WORDS, k=count)) for count in (args.system, args.user))
        times[arm].append(await _first_token(lab, arm, system, user))
    for arm in ARMS:
        say(f"  chat, {arm}: {median(times[arm]) * 1000:.1f} ms")
    figure = Figure.of(
        "first token of a cold chat: REUSE / EXACT",
        ratio(times["reuse"], times["exact"]),
        BAR,
        f"{median(times['reuse']) * 1000:.1f} ms",
        f"{median(times['exact']) * 1000:.1f} ms",
    )
    return Report("chat", [figure], {"first_token_s": times})


async def _first_token(lab: Lab, arm: Fidelity, system: str, user: str) -> float:
    """Seconds from submission to the first token, on the client's clock."""
    async with lab.pavane.client() as client, client.workflow() as wf:
        began = time.perf_counter()
        rules = wf.prefill(system=system, fidelity=arm)
        question = wf.prefill(rules, user=user, fidelity=arm)
        answer = wf.decode(rules, question, fidelity=arm, max_tokens=1, ignore_eos=True, temperature=0.0)
        async for delta in answer:
            if delta.tokens:
                return time.perf_counter() - began
        raise RuntimeError("the answer had no token")
