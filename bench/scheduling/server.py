"""Many workflows at once on a real server process, over gRPC: all must end, no slot may leak, memory must stay flat.

The server's runner computes nothing, so that thousands of calls take seconds; everything else is as it is served.
"""

from __future__ import annotations

import asyncio
import random
import socket
import sys
import time
import urllib.request
from contextlib import closing
from statistics import median

from prometheus_client.parser import text_string_to_metric_families

from pavane.bench.memory import resident_gb
from pavane.bench.report import Figure, at_least, at_most
from pavane.bench.scheduling.part import Found, Options, Progress
from pavane.bench.server_process import ServerProcess
from pavane.clients import Client, Message

AT_ONCE, CALLS, WAVES = 1_000, 20, 2  # workflows; calls of each; workflows that follow each other in each place
TEXTS = 6  # of a workflow's calls; the others decode
SLOTS = 262_144
FLAT_BAR = at_most(1.02)


def measure(options: Options, progress: Progress) -> Found:
    at_once, waves = (20, 2) if options.quick else (AT_ONCE, WAVES)
    return asyncio.run(_measure(at_once, waves, options.serve, progress))


async def _measure(at_once: int, waves: int, flags: tuple[str, ...], progress: Progress) -> Found:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "pavane.bench.fake_server", "--port", "0", "--metrics-port", str(port)]
    workflows = at_once * waves
    began = time.perf_counter()
    memory: list[tuple[int, float]] = []
    async with ServerProcess([*command, "--num-slots", str(SLOTS), *flags]) as server, Client(server.target) as client:
        done = 0
        every = max(1, workflows // 40)

        async def place(number: int) -> int:
            nonlocal done
            ended = 0
            for wave in range(waves):
                ended += await _workflow(client, number * waves + wave)
                done += 1
                if done % every == 0:
                    memory.append((done, resident_gb(server.pid)))
                if done % (10 * every) == 0:
                    progress(f"  server: {done} of {workflows} workflows, {memory[-1][1]:.3f} GB")
            return ended

        ended = sum(await asyncio.gather(*map(place, range(at_once))))
        seconds = time.perf_counter() - began
        left = await asyncio.to_thread(_gauges, port)
    leaked = left["pavane_token_slots"] - left["pavane_token_slots_free"] - left["pavane_token_slots_idle"]
    half = [gb for count, gb in memory if count > workflows // 2]
    growth = median(half[len(half) // 2 :]) / median(half[: max(1, len(half) // 2)])
    counts = ("pavane_num_preemptions",)  # of what was, not of what is there
    held = {name: n for name, n in left.items() if name.startswith("pavane_num_") and n and not name.startswith(counts)}
    figures = [
        Figure(f"{at_once} workflows at once, {CALLS} calls each: calls that ended well, share",
               ended / (workflows * CALLS), at_least(1.0), f"{ended}", f"{workflows * CALLS}"),
        Figure("slots leaked at the end", leaked, at_most(0), f"{leaked:.0f}", f"{left['pavane_token_slots']:.0f}"),
        Figure("resident memory, fourth quarter / third", growth, FLAT_BAR, f"{half[-1]:.3f} GB", f"{half[0]:.3f} GB"),
        Figure("calls a second, with client and server on this machine", ended / seconds),
    ]  # fmt: skip
    defect = f"after all workflows were closed the server still has {held}" if held else ""
    return Found(figures, {"seconds": seconds, "resident_gb": memory, "gauges": left}, defect)


async def _workflow(client: Client, number: int) -> int:
    """Texts, then decodes that read some of what is there, in an order of their own. How many calls ended well."""
    rng = random.Random(number)
    async with client.workflow() as wf:
        messages: list[Message] = [
            wf.prefill(tokens=rng.choices(range(1000, 40_000), k=rng.randint(8, 40))) for _ in range(TEXTS)
        ]
        for n in range(CALLS - TEXTS):
            parents = rng.sample(messages, k=rng.randint(1, min(8, len(messages))))
            messages.append(wf.decode(*parents, seed=n, max_tokens=rng.randint(2, 8), ignore_eos=True))
        await asyncio.gather(*messages)
        return len(messages)


def _gauges(port: int) -> dict[str, float]:
    """Of the server at rest: what it holds."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text = response.read().decode()
    names = ("pavane_num_", "pavane_token_slots")
    families = [family for family in text_string_to_metric_families(text) if family.type == "gauge"]
    samples = (sample for family in families for sample in family.samples)
    return {sample.name: sample.value for sample in samples if sample.name.startswith(names)}
