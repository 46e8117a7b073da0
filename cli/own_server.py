"""A server for one command: started, warmed up, and stopped whatever happens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from rich.console import Console

from pavane.bench.server_process import ServerProcess
from pavane.clients import Client


@asynccontextmanager
async def own_server(console: Console, model: str | None) -> AsyncIterator[str]:
    """Where it listens. `model` as in pavane serve; None is the small default model. Raises ServerFailed."""
    server = ServerProcess.serve(*(["--model", model] if model else []))
    with console.status("starting a server ..."):
        await server.__aenter__()
    try:
        # The first forward pass of a process allocates and is slower; nothing that is shown should pay for that.
        async with Client(server.target, namespace="warm-up") as client, client.workflow() as wf:
            await wf.decode(wf.prefill(user="Count to three."), max_tokens=4)
        yield server.target
    finally:
        await server.__aexit__(None, None, None)


def stop_in_order() -> None:
    """Signals that end a program cancel the running task, as Ctrl-C does: they must not leave the server behind."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
