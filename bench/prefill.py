"""Time to first token of 512 and 1024 new tokens, no cache hit, against transformers and llama.cpp."""

from __future__ import annotations

import argparse
from statistics import median

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab, interleaved, random_tokens
from pavane.bench.report import Figure, Report, at_least, say
from pavane.bench.stats import ratio

PEERS = ("transformers", "llama.cpp")
BARS = {"transformers": at_least(1.3)}
QUICK = {"prompts": [32], "repeat": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompts", type=positive, nargs="+", default=[512, 1024], help="lengths in tokens")
    parser.add_argument("--repeat", type=positive, default=5)


async def measure(lab: Lab, args: argparse.Namespace) -> Report:
    times: dict[int, dict[str, list[float]]] = {}
    for length in args.prompts:
        times[length] = {system.name: [] for system in lab.systems}
        for system in lab.systems:
            await system.stream(random_tokens(1, length, "warm-up"), 1)
        async for i, system in interleaved(lab.systems, args.repeat):
            (stream,) = await system.stream(random_tokens(1, length, i, "prefill"), 1)
            times[length][system.name].append(stream[0].at)
        for name, each in times[length].items():
            say(f"  prefill, {length} tokens, {name}: {median(each):.3f} s")
    figures = [figure for length, by_system in times.items() for figure in _figures(length, by_system)]
    return Report("prefill", figures, {"first_token_s": times})


def _figures(length: int, times: dict[str, list[float]]) -> list[Figure]:
    what, ours = f"first token of {length} new tokens", times["pavane"]
    if len(times) == 1:
        return [Figure(f"{what}, s", median(ours))]
    return [
        Figure.of(
            f"{what}: {peer} / Pavane",
            ratio(theirs, ours),
            BARS.get(peer),
            f"{median(ours):.3f} s",
            f"{median(theirs):.3f} s",
        )
        for peer, theirs in times.items()
        if peer != "pavane"
    ]
