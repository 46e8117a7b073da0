"""Resident memory of a server: when it is ready, and while calls come and go."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from pavane.bench.report import emit, say, verdict
from pavane.bench.server_process import ServerProcess
from pavane.clients import Client

BAR_GB = 1.5
PER_WORKFLOW = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=16_384)


def run(args: argparse.Namespace) -> int:
    ready, samples = asyncio.run(_bench(args))
    peak = max(ready, *(gb for _, gb in samples))
    half = next(gb for calls, gb in samples if calls >= args.calls // 2)
    growth = samples[-1][1] - half
    emit({"bench": "memory", "slots": args.slots, "ready_gb": ready, "after": samples, "peak_gb": peak}, args.json)
    say(f"ready {ready:.2f} GB; " + ", ".join(f"{calls} calls {gb:.2f}" for calls, gb in samples))
    say(verdict(f"resident GB with {args.slots} slots", peak, f"< {BAR_GB}", peak < BAR_GB))
    say(f"growth over the second half of the calls: {growth * 1000:.1f} MB")
    return 0


async def _bench(args: argparse.Namespace) -> tuple[float, list[tuple[int, float]]]:
    samples: list[tuple[int, float]] = []
    async with (
        ServerProcess.serve("--num-slots", str(args.slots), *args.serve) as server,
        Client(server.target) as client,
    ):
        ready = _resident(server.pid)
        filler = "The quick brown fox jumps over the lazy dog. " * 40
        for done in range(0, args.calls, PER_WORKFLOW):
            async with client.workflow() as wf:
                root = wf.prefill(system=filler, user=f"Question {done}?")
                calls = [wf.decode(root, seed=i, max_tokens=4, ignore_eos=True) for i in range(PER_WORKFLOW - 1)]
                await asyncio.gather(root, *calls)
            if (done + PER_WORKFLOW) % max(PER_WORKFLOW, args.calls // 10) == 0:
                samples.append((done + PER_WORKFLOW, _resident(server.pid)))
    return ready, samples


def _resident(pid: int) -> float:
    """GB, from /proc (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024 / 1e9
