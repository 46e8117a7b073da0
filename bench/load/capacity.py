"""How much a server can do: more and more workflows at the same time, until that brings no more tokens a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter

from pavane.bench.load.arrivals import Room, mean_tokens, select
from pavane.bench.load.generator import give_up
from pavane.bench.load.player import Player
from pavane.bench.load.records import Records
from pavane.bench.stats import NoMeasurement
from pavane.bench.trace import TraceWorkflow, make_trace
from pavane.clients import Client

STAGES = (4, 8, 16, 32, 64, 128)  # workflows at the same time
STAGE_S = 12.0
SETTLE_S = 3.0  # of each stage, before it counts
GROWTH = 1.05  # less than this from one stage to the next is no growth
SEED = 1_000_003  # of no load that is measured


@dataclass(frozen=True)
class Capacity:
    """`rates`: generated tokens a second by workflows at the same time; `workflows`: a second, at the best of them."""

    rates: dict[int, float]
    workflows: float


async def find_capacity(
    clients: Mapping[str, Client],
    room: Room,
    scale: float,
    stopping: asyncio.Event,
    say: Callable[[str], None],
) -> Capacity:
    """Takes up to a minute and a quarter; ends early if `stopping` is set. The workflows that are open at the end are
    closed. Raises NoMeasurement if the server fails or refuses any call."""
    records = Records()
    player = Player(records, room, SEED)
    jobs = _jobs(list(clients), scale, room)
    tasks: set[asyncio.Task[None]] = set()
    rates: dict[int, float] = {}
    try:
        for stage in STAGES:
            while len(tasks) < stage:
                tasks.add(asyncio.create_task(_place(clients, jobs, player, records)))
            await asyncio.wait([*tasks], timeout=SETTLE_S, return_when=asyncio.FIRST_COMPLETED)
            tokens, began = records.tokens, perf_counter()
            await asyncio.wait([*tasks], timeout=STAGE_S - SETTLE_S, return_when=asyncio.FIRST_COMPLETED)
            rates[stage] = (records.tokens - tokens) / (perf_counter() - began)
            say(f"capacity: {stage} workflows at the same time: {rates[stage]:.0f} tokens/s")
            if records.errors:
                reason = next(iter(records.failed + records.refused))
                raise NoMeasurement(f"{stage} workflows at the same time are too many: {reason}; give --rate")
            best = max((rate for at_once, rate in rates.items() if at_once < stage), default=0.0)
            if stopping.is_set() or rates[stage] < GROWTH * best:
                break
    finally:
        await give_up(tasks)
    mean = mean_tokens(scale, SEED, room, lambda call: call.decode)
    return Capacity(rates, max(rates.values()) / mean)


def _jobs(tenants: list[str], scale: float, room: Room) -> Iterator[TraceWorkflow]:
    """The mix, without end."""
    seed = SEED
    while True:
        trace = make_trace(seed, 200, 1.0, len(tenants))
        yield from select(trace, float("inf"), scale, room).workflows
        seed += 1


async def _place(
    clients: Mapping[str, Client], jobs: Iterator[TraceWorkflow], player: Player, records: Records
) -> None:
    """One workflow after the other, until one goes wrong."""
    while not records.errors:
        job = next(jobs)
        await player.play(clients[job.tenant], job, perf_counter())
