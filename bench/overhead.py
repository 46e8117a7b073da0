"""The share of a serving step that is not the forward pass: scheduling, sampling, text and gRPC together."""

from __future__ import annotations

import argparse
import asyncio
import socket
import time
import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from pavane.bench.report import emit, say, verdict
from pavane.bench.server_process import ServerProcess
from pavane.clients import Client, Message

BAR = 0.15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--steps", type=int, default=250, help="steady steps to measure, at least 200")


def run(args: argparse.Namespace) -> int:
    steps, forward, wall = asyncio.run(_bench(args))
    overhead = 1 - forward / wall
    result = {
        "bench": "overhead", "streams": args.streams, "steps": steps, "forward_s": forward, "wall_s": wall,
        "overhead": overhead, "tok_s": steps * args.streams / wall,
    }  # fmt: skip
    emit(result, args.json)
    say(f"{steps} steps of {args.streams} streams: {steps * args.streams / wall:.1f} tok/s")
    say(verdict("1 - forward / wall", overhead, f"<= {BAR}", overhead <= BAR))
    return 0


async def _bench(args: argparse.Namespace) -> tuple[int, float, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with (
        ServerProcess.serve("--metrics-port", str(port), *args.serve) as server,
        Client(server.target) as client,
        client.workflow() as wf,
    ):
        margin = 20  # steps before and after, when streams come and go
        root = wf.prefill(system="You tell long stories.", user="Tell me one about a lighthouse.")
        streams = [
            wf.decode(root, seed=i, max_tokens=args.steps + 3 * margin, ignore_eos=True) for i in range(args.streams)
        ]
        readers = [asyncio.create_task(_read(stream)) for stream in streams]
        first = await asyncio.to_thread(_sample, port)
        while first[0] < margin:
            await asyncio.sleep(0.05)
            first = await asyncio.to_thread(_sample, port)
        last = first
        while last[0] < first[0] + args.steps:
            await asyncio.sleep(0.25)
            last = await asyncio.to_thread(_sample, port)
        await asyncio.gather(*readers)
    return int(last[0] - first[0]), last[1] - first[1], last[2] - first[2]


async def _read(stream: Message) -> None:
    async for _ in stream:
        pass


def _sample(port: int) -> tuple[float, float, float]:
    """Steps so far, seconds of their forward passes, and the clock."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    values = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    return values["pavane_forward_seconds_count"], values["pavane_forward_seconds_sum"], time.perf_counter()
