"""Step time of 4 calls over 10 shared parents, all but one of them moved, against 4 plain chats of the same length."""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median
from typing import Literal

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab, arrivals, interleaved, random_tokens
from pavane.bench.report import Figure, Report, at_most, say
from pavane.bench.stats import Arrival, inter_token, ratio
from pavane.clients import Message, Workflow

PEERS = None
BAR = at_most(1.1)
QUICK = {"calls": 2, "parents": 3, "length": 20, "tokens": 8, "repeat": 1}

Arm = Literal["plain", "one order", "own orders"]
ARMS: tuple[Arm, ...] = ("plain", "one order", "own orders")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=positive, default=4)
    parser.add_argument("--parents", type=positive, default=10)
    parser.add_argument("--length", type=positive, default=150, help="tokens of each parent")
    parser.add_argument("--tokens", type=positive, default=48, help="of each answer, exactly")
    parser.add_argument("--repeat", type=positive, default=5)


async def measure(lab: Lab, args: argparse.Namespace) -> Report:
    gaps: dict[Arm, list[float]] = {arm: [] for arm in ARMS}
    async with lab.pavane.client() as client, client.workflow() as wf:
        shared = [wf.prefill(tokens=ids) for ids in random_tokens(args.parents, args.length, "shared")]
        plain = [
            wf.prefill(tokens=ids, fidelity="exact")
            for ids in random_tokens(args.calls, args.parents * args.length, "plain")
        ]
        await asyncio.gather(*shared)
        for arm in ARMS:  # encodes the plain chats, which are lazy
            await _decode(wf, arm, shared, plain, 4)
        async for _, arm in interleaved(ARMS, args.repeat):
            gaps[arm].append(inter_token(await _decode(wf, arm, shared, plain, args.tokens)))
    for arm in ARMS:
        say(f"  sharing, {arm}: {median(gaps[arm]) * 1000:.1f} ms a step")
    figures = [
        Figure.of(
            f"step, {args.calls} calls: shared parents in {arm} / plain chats",
            ratio(gaps[arm], gaps["plain"]),
            BAR,
            f"{median(gaps[arm]) * 1000:.1f} ms",
            f"{median(gaps['plain']) * 1000:.1f} ms",
        )
        for arm in ARMS[1:]
    ]
    sizes = {"calls": args.calls, "parents": args.parents, "length": args.length}
    return Report("sharing", figures, {**sizes, "inter_token_s": gaps})


async def _decode(
    wf: Workflow, arm: Arm, shared: list[Message], plain: list[Message], tokens: int
) -> list[list[Arrival]]:
    """One call per plain chat, all at once: when their tokens came."""
    began = time.perf_counter()
    calls = []
    for i, chat in enumerate(plain):
        turned = i % len(shared) if arm == "own orders" else 0
        parents = [chat] if arm == "plain" else [*shared[turned:], *shared[:turned]]
        calls.append(
            wf.decode(
                *parents,
                fidelity="exact" if arm == "plain" else "reuse",
                max_tokens=tokens,
                ignore_eos=True,
                temperature=0.0,
            )
        )
    streams = await asyncio.gather(*(arrivals(call, began) for call in calls))
    for call in calls:
        used = (await call).receipt
        moved = sum(parent.tokens for parent in used.parents if parent.placed_at != parent.encoded_at)
        if arm != "plain" and moved < (len(shared) - 1) * used.parents[0].tokens:
            raise RuntimeError(
                f"only {moved} tokens of {call.id} were repositioned: this is not what is to be measured"
            )
    return streams
