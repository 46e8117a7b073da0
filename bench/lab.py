"""What benchmarks measure on: one Pavane server and its peers, started once, all on the same number of threads."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pavane.bench.peers.peer import StreamingPeer, check_installed, start_peer
from pavane.bench.server_process import ServerProcess
from pavane.bench.stats import Arrival
from pavane.clients import Client, Message

SETTLE_S = 0.05  # threads of the arm before stop spinning
ORDINARY = range(1000, 40_000)  # token ids without control tokens
T = TypeVar("T")


class Streaming(Protocol):
    """What can decode several prompts of token ids at once, greedily, past ends of turn, with nothing cached."""

    @property
    def name(self) -> str: ...

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        """When the tokens of each prompt's continuation arrived."""


@dataclass(frozen=True)
class Pavane:
    """The server at `target`, through the Python client over gRPC."""

    target: str
    name: str = "pavane"

    def client(self) -> Client:
        """A client in a namespace of its own: nothing that was encoded before is seen."""
        return Client(self.target, namespace=f"bench-{uuid.uuid4().hex[:12]}")

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        async with self.client() as client, client.workflow() as wf:
            began = time.perf_counter()
            messages = [
                wf.decode(header_tokens=prompt, max_tokens=tokens, ignore_eos=True, temperature=0.0)
                for prompt in prompts
            ]
            return await asyncio.gather(*(arrivals(message, began) for message in messages))


@dataclass(frozen=True)
class Lab:
    pavane: Pavane
    peers: tuple[StreamingPeer, ...]
    metrics_port: int
    threads: int

    @property
    def systems(self) -> tuple[Streaming, ...]:
        return (self.pavane, *self.peers)


@asynccontextmanager
async def open_lab(
    *, model: Path, threads: int, peers: Sequence[str], slots: int, serve: Sequence[str]
) -> AsyncIterator[Lab]:
    """Starts all and stops all. `slots`: sequences at once that peers must have room for; `serve`: more server flags.

    Raises:
        ModuleNotFoundError: a peer is not installed.
        ServerFailed: one did not come up.
    """
    check_installed(peers)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    flags = ["--metrics-port", str(port), "--model", str(model), "--threads", str(threads), *serve]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ServerProcess.serve(*flags, env={"OMP_NUM_THREADS": str(threads)}))
        started = [await stack.enter_async_context(start_peer(name, model, threads, slots)) for name in peers]
        yield Lab(Pavane(server.target), tuple(started), port, threads)


@contextmanager
def stopped_in_order() -> Iterator[None]:
    """SIGTERM stops as Ctrl-C does: the servers are in sessions of their own and would outlive this process."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def arrivals(message: Message, began: float) -> list[Arrival]:
    """When the tokens of a message came, on the client's clock, from `began` (time.perf_counter)."""
    seen: list[Arrival] = []
    async for delta in message:
        if delta.tokens:
            seen.append(Arrival(time.perf_counter() - began, len(delta.tokens) + (seen[-1].count if seen else 0)))
    return seen


async def interleaved(arms: Sequence[T], repeat: int) -> AsyncIterator[tuple[int, T]]:
    """(repetition, arm): all arms in each repetition, each beginning with the next one."""
    for i in range(repeat):
        first = i % len(arms)
        for arm in (*arms[first:], *arms[:first]):
            await asyncio.sleep(SETTLE_S)
            yield i, arm


def random_tokens(count: int, length: int, *seed: object) -> list[list[int]]:
    """`count` prompts of `length` ordinary tokens; the same for the same seed."""
    draw = random.Random(repr((count, length, *seed)))
    return [draw.choices(ORDINARY, k=length) for _ in range(count)]
