"""How much a server can do: more and more workflows at the same time, until that brings no more tokens a second; then
for longer with that many."""

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
STAGE_S = 8.0
GROWTH = 1.05  # less than this from one stage to the next is no growth
MEASURE_S = 60.0  # so long that texts and answers are in it as the mix has them
SEED = 1_000_003  # of no load that is measured


@dataclass(frozen=True)
class Capacity:
    """`rates`: generated tokens a second by workflows at the same time, in a few seconds each; `rate`: the same with
    the most of them, for a minute; `workflows`: how many of the mix that makes a second."""

    rates: dict[int, float]
    rate: float
    workflows: float


class Saturation:
    """A closed loop: each place begins its next workflow when the one before has ended."""

    def __init__(self, clients: Mapping[str, Client], room: Room, scale: float) -> None:
        self._records = Records()
        self._clients = clients
        self._player = Player(self._records, room, SEED)
        self._jobs = _jobs(len(clients), scale, room)
        self._tasks: set[asyncio.Task[None]] = set()

    def widen(self, places: int) -> None:
        while len(self._tasks) < places:
            self._tasks.add(asyncio.create_task(self._place()))

    async def rate(self, seconds: float, stop: asyncio.Task[bool]) -> float:
        """Tokens a second that arrive meanwhile. Raises NoMeasurement if a call fails or is refused."""
        records = self._records
        tokens, began = records.tokens, perf_counter()
        await asyncio.wait([*self._tasks, stop], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if records.errors:
            reason = next(iter(records.failed + records.refused))
            raise NoMeasurement(
                f"{len(self._tasks)} workflows at the same time are too many for the server ({reason}); give --rate"
            )
        return (records.tokens - tokens) / (perf_counter() - began)

    async def close(self) -> None:
        await give_up(self._tasks)

    async def _place(self) -> None:
        while not self._records.errors:
            job = next(self._jobs)
            await self._player.play(self._clients[job.tenant], job, perf_counter())


async def find_capacity(
    clients: Mapping[str, Client],
    room: Room,
    scale: float,
    stopping: asyncio.Event,
    say: Callable[[str], None],
) -> Capacity:
    """Takes up to two minutes; ends early if `stopping` is set. The workflows that are open at the end are closed.
    Raises NoMeasurement if the server fails or refuses any call."""
    saturation = Saturation(clients, room, scale)
    stop = asyncio.create_task(stopping.wait())
    rates: dict[int, float] = {}
    try:
        for stage in STAGES:
            saturation.widen(stage)
            best = max(rates.values(), default=0.0)
            rates[stage] = await saturation.rate(STAGE_S, stop)
            say(f"capacity: {stage} workflows at the same time: {rates[stage]:.0f} tokens/s")
            if stopping.is_set() or rates[stage] < GROWTH * best:
                break
        rate = await saturation.rate(MEASURE_S, stop)
    finally:
        stop.cancel()
        await saturation.close()
    return Capacity(rates, rate, rate / mean_tokens(scale, SEED, room, lambda call: call.decode))


def _jobs(tenants: int, scale: float, room: Room) -> Iterator[TraceWorkflow]:
    """The mix, without end."""
    seed = SEED
    while True:
        yield from select(make_trace(seed, 200, 1.0, tenants), float("inf"), scale, room).workflows
        seed += 1
