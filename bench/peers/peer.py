"""What a benchmark asks of a peer, and how a peer is started."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from pavane.bench.peers.hf import HuggingFace
from pavane.bench.peers.http import Http
from pavane.bench.peers.llama_cpp import LlamaCpp
from pavane.bench.server_process import ServerProcess
from pavane.bench.stats import Arrival

PACKAGES = {"transformers": "transformers", "llama.cpp": "xllamacpp"}
MODULES = {"transformers": "hf_server", "llama.cpp": "llama_server"}


class Peer(Protocol):
    """Another system with the same weights. Prompts are token ids, all of one length; ends of turn are ignored."""

    name: str

    @property
    def about(self) -> str:
        """Version and build, in one line."""

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        """Greedy continuations, all at once, nothing cached: when tokens arrived, by prompt."""

    async def answer(
        self, prompts: Sequence[Sequence[int]], tokens: int, *, temperature: float, seed: int, fresh: bool
    ) -> list[list[int]]:
        """Sampled continuations of exactly `tokens` tokens, all at once, by prompt.

        Prompt i goes through the prefix cache of what prompt i of the call before left behind, unless `fresh`.
        """


def check_installed(names: Sequence[str]) -> None:
    """Raises ModuleNotFoundError with the package that a peer lacks."""
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ModuleNotFoundError(f"No module named {PACKAGES[name]!r}", name=PACKAGES[name])


@asynccontextmanager
async def start_peer(name: str, model: Path, threads: int, slots: int) -> AsyncIterator[Peer]:
    """The peer's server for `slots` sequences at once, on `threads` threads. Raises ServerFailed."""
    command = [sys.executable, "-m", f"pavane.bench.peers.{MODULES[name]}"]
    command += ["--model", str(model), "--threads", str(threads), "--slots", str(slots)]
    async with ServerProcess(command, env={"OMP_NUM_THREADS": str(threads)}) as server:
        http = Http(server.target)
        try:
            kind: type[HuggingFace | LlamaCpp] = HuggingFace if name == "transformers" else LlamaCpp
            yield kind(
                http, next((line for line in server.log if line.startswith("about: ")), "").removeprefix("about: ")
            )
        finally:
            http.close()
