"""Decode rate of 1, 4 and 8 streams, against transformers and llama.cpp: equal lengths, greedy, fresh prompts."""

from __future__ import annotations

import argparse
from statistics import median

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab, interleaved, random_tokens
from pavane.bench.report import Bar, Figure, Report, at_least, say
from pavane.bench.stats import decode_rate, ratio

PEERS = ("transformers", "llama.cpp")
BARS: dict[tuple[str, int], Bar] = {
    ("transformers", 1): at_least(2.5),
    ("transformers", 4): at_least(2.5),
    ("transformers", 8): at_least(2.2),
    ("llama.cpp", 4): at_least(1),
    ("llama.cpp", 8): at_least(1),
}
QUICK = {"streams": [1, 2], "prompt": 16, "tokens": 8, "repeat": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=positive, nargs="+", default=[1, 4, 8])
    parser.add_argument("--prompt", type=positive, default=96, help="tokens of each prompt")
    parser.add_argument("--tokens", type=positive, default=64, help="of each answer, exactly")
    parser.add_argument("--repeat", type=positive, default=5)


async def measure(lab: Lab, args: argparse.Namespace) -> Report:
    rates: dict[int, dict[str, list[float]]] = {}
    for streams in args.streams:
        rates[streams] = {system.name: [] for system in lab.systems}
        for system in lab.systems:  # the first pass of a shape is slower; nobody should pay for it
            await system.stream(random_tokens(streams, args.prompt, "warm-up", system.name), 4)
        async for i, system in interleaved(lab.systems, args.repeat):
            prompts = random_tokens(streams, args.prompt, i, "decode")
            rates[streams][system.name].append(decode_rate(await system.stream(prompts, args.tokens)))
        for name, each in rates[streams].items():
            say(f"  {_what(streams)}, {name}: {median(each):.1f} tok/s")
    figures = [figure for streams, by_system in rates.items() for figure in _figures(streams, by_system)]
    return Report("decode", figures, {"prompt": args.prompt, "tokens": args.tokens, "tok_s": rates})


def _figures(streams: int, rates: dict[str, list[float]]) -> list[Figure]:
    ours = rates["pavane"]
    if len(rates) == 1:
        return [Figure(f"{_what(streams)}, tok/s", median(ours))]
    return [
        Figure.of(
            f"{_what(streams)}: Pavane / {peer}",
            ratio(ours, theirs),
            BARS.get((peer, streams)),
            f"{median(ours):.0f} tok/s",
            f"{median(theirs):.0f} tok/s",
        )
        for peer, theirs in rates.items()
        if peer != "pavane"
    ]


def _what(streams: int) -> str:
    return f"decode, {streams} stream{'s'[: streams > 1]}"
