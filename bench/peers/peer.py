"""What a benchmark asks of a peer, and how a peer is started."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from pavane.bench.peers.answer import Answer
from pavane.bench.peers.hf import HuggingFace
from pavane.bench.peers.http import Http
from pavane.bench.peers.llama_cpp import LlamaCpp
from pavane.bench.server_process import ServerProcess
from pavane.bench.stats import Arrival

PACKAGES = {"transformers": "transformers", "llama.cpp": "xllamacpp"}
CONTEXT = 2048
MODULES = {"transformers": "hf_server", "llama.cpp": "llama_server"}


class Peer(Protocol):
    """Another system with the same weights. Prompts are token ids; decoding is greedy and ends of turn are ignored."""

    name: str

    @property
    def about(self) -> str:
        """Version and build, in one line."""

    async def complete(self, prompt: Sequence[int], tokens: int) -> Answer:
        """A continuation of exactly `tokens` tokens, through its prefix cache; any number at once.

        Raises PeerFailed.
        """


class StreamingPeer(Peer, Protocol):
    """One that this project starts, for benchmarks without a workflow as well."""

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        """Continuations of prompts of one length, all at once, nothing cached: when tokens arrived, by prompt."""


def check_installed(names: Sequence[str]) -> None:
    """Raises ModuleNotFoundError with the package that a peer lacks."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ModuleNotFoundError(f"No module named {PACKAGES[name]!r}", name=PACKAGES[name])


@asynccontextmanager
async def start_peer(
    name: str, model: Path, threads: int, slots: int, context: int = CONTEXT
) -> AsyncIterator[StreamingPeer]:
    """The peer's server for `slots` sequences of `context` tokens at once. Raises ServerFailed."""
    command = [sys.executable, "-m", f"pavane.bench.peers.{MODULES[name]}"]
    command += ["--model", str(model), "--threads", str(threads)]
    command += ["--slots", str(slots), "--context", str(context)]
    async with ServerProcess(command, env={"OMP_NUM_THREADS": str(threads)}) as server:
        http = Http(server.target)
        try:
            about = next((line for line in server.log if line.startswith("about: ")), "").removeprefix("about: ")
            yield HuggingFace(http, about) if name == "transformers" else LlamaCpp(http, about, slots)
        finally:
            http.close()
