"""A load from beginning to end: look at the server, find its capacity if asked, send, account."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pavane.bench.load.account import Memory, at_rest, check, first_look, open_admin
from pavane.bench.load.arrivals import Arrivals, Room, draw, select
from pavane.bench.load.capacity import find_capacity
from pavane.bench.load.generator import give_up, open_clients, send, watch_own_loop
from pavane.bench.load.player import Player
from pavane.bench.load.records import Records
from pavane.bench.load.report import Load
from pavane.bench.stats import NoMeasurement
from pavane.bench.trace import TraceWorkflow
from pavane.clients import TLS

MEMORY_SAMPLES = 240  # of a run, at most two a second


@dataclass(frozen=True)
class Options:
    """`rate`: workflows a second; or `utilisation` of what the server can do, found first; or `trace`'s own times.
    Lengths are `scale` times those of the mix. `patience`: seconds for those that are open at the end."""

    target: str
    tls: TLS | bool | None = None
    api_key: str = ""
    rate: float | None = None
    utilisation: float | None = None
    trace: Sequence[TraceWorkflow] = ()
    duration: float = 60.0
    scale: float = 0.25
    tenants: int = 4
    seed: int = 1
    patience: float = 120.0
    pid: int | None = None  # of the server, if it runs on this machine


@dataclass
class Progress:
    """What a live line may look at while a load runs."""

    say: Callable[[str], None]
    began: float = 0.0
    records: Records | None = None
    memory: Memory | None = None


async def run(options: Options, stopping: asyncio.Event, progress: Progress) -> Load:
    """Ends early, in order, when `stopping` is set.

    Raises:
        PavaneError: nobody answers there, or not to us.
        NoMeasurement: there is nothing that could be sent.
    """
    async with open_clients(_namespaces(options), options.target, options.tls, options.api_key) as clients:
        info = await next(iter(clients.values())).server_info()
        room = Room(info.max_model_len, info.token_slots, info.vocab_size)
        rate, capacity = options.rate, None
        if options.utilisation is not None:
            capacity = await find_capacity(clients, room, options.scale, stopping, progress.say)
            rate = capacity.workflows * options.utilisation
            progress.say(f"capacity: {capacity.workflows:.2f} workflows/s; sending {rate:.2f}/s")
        arrivals = _arrivals(options, rate, room)
        if not arrivals.workflows:
            raise NoMeasurement(_nothing(options, arrivals))
        async with open_admin(options.target, tls=options.tls, api_key=options.api_key) as admin:
            before = await first_look(admin)
            records = progress.records = Records()
            memory = progress.memory = Memory(options.pid, []) if options.pid is not None else None
            watching = {asyncio.create_task(watch_own_loop(records))}
            if memory is not None:
                watching.add(asyncio.create_task(memory.watch(max(0.5, options.duration / MEMORY_SAMPLES))))
            player = Player(records, room, options.seed)
            progress.began, cpu = time.perf_counter(), time.process_time()
            try:
                seconds = await send(
                    arrivals.workflows, clients, player, records, stopping, _last(options), options.patience
                )
            finally:
                await give_up(watching)
            cpu = time.process_time() - cpu
            after = await at_rest(admin, before) if before is not None else None
    due = [job for job in arrivals.workflows if job.at <= seconds] if stopping.is_set() else arrivals.workflows
    return Load(
        records=records,
        rate=rate,
        due=len(due),
        left_out=arrivals.left_out,
        sent_s=min(_last(options), seconds),
        seconds=seconds,
        own_cpu_s=cpu,
        interrupted=stopping.is_set(),
        before=before,
        after=after,
        memory=memory,
        capacity=capacity,
        wrong=check(before, after, records) if before is not None and after is not None else [],
    )


def _namespaces(options: Options) -> dict[str, str]:
    """By tenant of the trace. Of one tenant alone it is the key's own, or none."""
    if options.trace:
        return {name: name for name in sorted({workflow.tenant for workflow in options.trace})}
    if options.tenants == 1:
        return {"t0": ""}
    return {f"t{i}": f"t{i}" for i in range(options.tenants)}


def _last(options: Options) -> float:
    """Seconds after which nothing more is sent."""
    return min(options.duration, options.trace[-1].at) if options.trace else options.duration


def _arrivals(options: Options, rate: float | None, room: Room) -> Arrivals:
    if options.trace:
        return select(options.trace, options.duration, options.scale, room)
    assert rate is not None
    return draw(rate, options.duration, options.scale, options.tenants, options.seed, room)


def _nothing(options: Options, arrivals: Arrivals) -> str:
    if arrivals.left_out:
        return (
            f"the server has no room for any of {arrivals.left_out} workflows: give a smaller --scale than "
            f"{options.scale:g}"
        )
    return f"no workflow is due within {options.duration:g} s: give a higher --rate or a longer --duration"
