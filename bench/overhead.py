"""The share of a serving step that is not the forward pass: scheduling, sampling, text and gRPC together."""

from __future__ import annotations

import argparse
import asyncio
import time

from pavane.bench.arguments import positive
from pavane.bench.lab import Lab
from pavane.bench.metrics import scrape
from pavane.bench.report import Figure, Report, at_most, say
from pavane.clients import Message

PEERS = None
BAR = at_most(0.10)
QUICK = {"streams": 2, "steps": 20}
MARGIN = 20  # steps before and after, when streams come and go


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=positive, default=8)
    parser.add_argument("--steps", type=positive, default=250, help="steady steps to measure, at least 200")


async def measure(lab: Lab, args: argparse.Namespace) -> Report:
    steps, forward, wall = await _steady(lab, args.streams, args.steps)
    overhead = 1 - forward / wall
    say(f"  overhead: {steps} steps of {args.streams} streams, {steps * args.streams / wall:.1f} tok/s")
    figure = Figure(
        f"step, {args.streams} streams: share outside the forward pass",
        overhead,
        BAR,
        f"{wall / steps * 1000:.1f} ms",
        f"{forward / steps * 1000:.1f} ms",
    )
    data = {
        "streams": args.streams,
        "steps": steps,
        "forward_s": forward,
        "wall_s": wall,
        "tok_s": steps * args.streams / wall,
    }
    return Report("overhead", [figure], data)


async def _steady(lab: Lab, count: int, steps: int) -> tuple[int, float, float]:
    """Steps, seconds of their forward passes and seconds on the clock while `count` streams decode."""
    async with lab.pavane.client() as client, client.workflow() as wf:
        root = wf.prefill(system="You tell long stories.", user="Tell me one about a lighthouse.")
        streams = [wf.decode(root, seed=i, max_tokens=steps + 3 * MARGIN, ignore_eos=True) for i in range(count)]
        before = (await _sample(lab.metrics_port))[0]
        readers = [asyncio.create_task(_read(stream)) for stream in streams]
        first = await _sample(lab.metrics_port)
        while first[0] < before + MARGIN:
            await asyncio.sleep(0.05)
            first = await _sample(lab.metrics_port)
        last = first
        while last[0] < first[0] + steps:
            await asyncio.sleep(0.1)
            last = await _sample(lab.metrics_port)
        await asyncio.gather(*readers)
    return int(last[0] - first[0]), last[1] - first[1], last[2] - first[2]


async def _read(stream: Message) -> None:
    async for _ in stream:
        pass


async def _sample(port: int) -> tuple[float, float, float]:
    """Steps so far, seconds of their forward passes, and the clock."""
    values = await scrape(port)
    return values["pavane_forward_seconds_count"], values["pavane_forward_seconds_sum"], time.perf_counter()
