"""transformers as a peer: batched `generate` with its KV cache, in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pavane.bench.peers.http import Http, PeerFailed
from pavane.bench.stats import Arrival


class HuggingFace:
    name = "transformers"

    def __init__(self, http: Http, about: str) -> None:
        self._http = http
        self.about = about

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        """Times are taken where the tokens are made: no transport is charged to this peer."""
        answer = await self._generate(prompts, tokens, temperature=0.0, seed=0, fresh=True)
        return [[Arrival(at, i + 1) for i, at in enumerate(answer["times"])] for _ in prompts]

    async def answer(
        self, prompts: Sequence[Sequence[int]], tokens: int, *, temperature: float, seed: int, fresh: bool
    ) -> list[list[int]]:
        answer = await self._generate(prompts, tokens, temperature=temperature, seed=seed, fresh=fresh)
        ids: list[list[int]] = answer["tokens"]
        return ids

    async def _generate(
        self, prompts: Sequence[Sequence[int]], tokens: int, *, temperature: float, seed: int, fresh: bool
    ) -> Any:
        body = {
            "prompts": [list(prompt) for prompt in prompts],
            "tokens": tokens,
            "temperature": temperature,
            "seed": seed,
            "fresh": fresh,
        }
        answer = await self._http.post("/generate", body)
        if len(answer["times"]) != tokens or any(len(ids) != tokens for ids in answer["tokens"]):
            raise PeerFailed(f"transformers: {len(answer['times'])} tokens instead of {tokens}")
        return answer
