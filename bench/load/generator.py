"""Open-loop load: each workflow is sent when it is due, whether or not those before it have ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter

from pavane.bench.load.player import Player
from pavane.bench.load.records import Records
from pavane.bench.trace import TraceWorkflow
from pavane.clients import TLS, Client, RetryPolicy

PROBE_S = 0.02  # how often our own loop is looked at
ONCE = RetryPolicy(give_up_after=0.0)  # what is refused under load is a result


@asynccontextmanager
async def open_clients(
    namespaces: Mapping[str, str], target: str, tls: TLS | bool | None, api_key: str
) -> AsyncIterator[dict[str, Client]]:
    """A connection for each tenant, to the namespace that its workflows are in."""
    async with AsyncExitStack() as stack:
        clients = {
            tenant: Client(target, namespace=namespace, tls=tls, api_key=api_key, retry=ONCE)
            for tenant, namespace in namespaces.items()
        }
        for client in clients.values():
            await stack.enter_async_context(client)
        yield clients


async def watch_own_loop(records: Records) -> None:
    """Without end: how much later than asked this process wakes up. Latencies contain what it sleeps too long."""
    while True:
        due = perf_counter() + PROBE_S
        await asyncio.sleep(PROBE_S)
        records.stalls.append(max(0.0, perf_counter() - due))


async def send(
    jobs: Sequence[TraceWorkflow],
    clients: Mapping[str, Client],
    player: Player,
    records: Records,
    stopping: asyncio.Event,
    duration: float,
    patience: float,
) -> float:
    """Sends every job `at` seconds from now, and waits for `duration` seconds in all and then for those that are open,
    but at most `patience` seconds; what is open then, or when `stopping` is set, is given up: its workflow is closed.
    Returns the seconds that all of it took."""
    began = perf_counter()
    playing: set[asyncio.Task[None]] = set()
    stop = asyncio.create_task(stopping.wait())
    try:
        for job in jobs:
            due = began + job.at
            await asyncio.wait([stop], timeout=max(0.0, due - perf_counter()))
            if stopping.is_set():
                break
            records.lag.append(perf_counter() - due)
            task = asyncio.create_task(player.play(clients[job.tenant], job, due))
            playing.add(task)
            task.add_done_callback(playing.discard)
        await asyncio.wait([stop], timeout=max(0.0, began + duration - perf_counter()))
        if playing and not stopping.is_set():
            ends = asyncio.create_task(asyncio.wait(set(playing)))
            await asyncio.wait([stop, ends], timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            ends.cancel()
    finally:
        stop.cancel()
        await give_up(playing)
    return perf_counter() - began


async def give_up(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels what still plays; each closes its workflow. Raises what one failed with, which is a defect of ours."""
    left = set(tasks)
    for task in left:
        task.cancel()
    for end in await asyncio.gather(*left, return_exceptions=True):
        if isinstance(end, Exception):
            raise end
