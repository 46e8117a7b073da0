"""transformers as a peer: batched `generate` with its KV cache, in a process of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pavane.bench.peers.answer import Answer
from pavane.bench.peers.http import Http, PeerFailed
from pavane.bench.stats import Arrival

GATHER_S = 0.002  # what is ready at the same time comes within this


@dataclass(eq=False)
class _Asked:
    prompt: list[int]
    tokens: int
    at: float
    answer: asyncio.Future[Answer]

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.prompt), self.tokens


class HuggingFace:
    name = "transformers"

    def __init__(self, http: Http, about: str) -> None:
        self._http = http
        self.about = about
        self._waiting: list[_Asked] = []
        self._worker: asyncio.Task[None] | None = None

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        """Times are taken where the tokens are made: no transport is charged to this peer."""
        answer = await self._generate(prompts, tokens, fresh=True)
        return [[Arrival(at, i + 1) for i, at in enumerate(answer["times"])] for _ in prompts]

    async def complete(self, prompt: Sequence[int], tokens: int) -> Answer:
        """What comes while it is at work makes the next batches, each of one length of prompt and answer."""
        asked = _Asked(list(prompt), tokens, time.perf_counter(), asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await asked.answer

    async def _work(self) -> None:
        while True:
            await asyncio.sleep(GATHER_S)
            if not self._waiting:
                return
            shape, tokens = self._waiting[0].shape, self._waiting[0].tokens
            batch = [asked for asked in self._waiting if asked.shape == shape]
            self._waiting = [asked for asked in self._waiting if asked.shape != shape]
            began = time.perf_counter()
            try:
                found = await self._generate([asked.prompt for asked in batch], tokens, fresh=False)
            except PeerFailed as error:
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(error)
                continue
            now = time.perf_counter()
            for asked, ids in zip(batch, found["tokens"], strict=True):
                if not asked.answer.done():
                    asked.answer.set_result(Answer(began + found["times"][0] - asked.at, now - asked.at, ids))

    async def _generate(self, prompts: Sequence[Sequence[int]], tokens: int, *, fresh: bool) -> Any:
        body = {"prompts": [list(prompt) for prompt in prompts], "tokens": tokens, "fresh": fresh}
        answer = await self._http.post("/generate", body)
        if len(answer["times"]) != tokens or any(len(ids) != tokens for ids in answer["tokens"]):
            raise PeerFailed(f"transformers: {len(answer['times'])} tokens instead of {tokens}")
        return answer
