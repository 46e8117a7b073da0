"""Resident memory of a server: when it is ready, with every slot used, and while calls come and go."""

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
    ready, full, samples = asyncio.run(_bench(args))
    peak = max(full, *(gb for _, gb in samples))
    growth = samples[-1][1] - full
    result = {"ready_gb": ready, "full_gb": full, "after": samples, "peak_gb": peak, "growth_gb": growth}
    emit({"bench": "memory", "slots": args.slots, **result}, args.json)
    say(f"ready {ready:.2f} GB, all slots used {full:.2f}; " + ", ".join(f"{n} calls {gb:.2f}" for n, gb in samples))
    say(verdict(f"resident GB with {args.slots} slots", peak, f"< {BAR_GB}", peak < BAR_GB))
    say(f"growth over {args.calls} calls: {growth * 1000:.1f} MB")
    return 0


async def _bench(args: argparse.Namespace) -> tuple[float, float, list[tuple[int, float]]]:
    samples: list[tuple[int, float]] = []
    async with (
        ServerProcess.serve("--num-slots", str(args.slots), *args.serve) as server,
        Client(server.target) as client,
    ):
        ready = resident_gb(server.pid)
        async with client.workflow() as wf:
            length = 500
            tokens = (
                [3 + (i * 7919 + j * 31) % 40_000 for j in range(length)] for i in range(args.slots // length + 1)
            )
            await asyncio.gather(*(wf.prefill(tokens=each) for each in tokens))
        full = resident_gb(server.pid)
        filler = "The quick brown fox jumps over the lazy dog. " * 40
        for done in range(0, args.calls, PER_WORKFLOW):
            async with client.workflow() as wf:
                root = wf.prefill(system=filler, user=f"Question {done}?")
                calls = [wf.decode(root, seed=i, max_tokens=4, ignore_eos=True) for i in range(PER_WORKFLOW - 1)]
                await asyncio.gather(root, *calls)
            if (done + PER_WORKFLOW) % max(PER_WORKFLOW, args.calls // 10) == 0:
                samples.append((done + PER_WORKFLOW, resident_gb(server.pid)))
    return ready, full, samples


def resident_gb(pid: int) -> float:
    """GB of a process, from /proc (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024 / 1e9
