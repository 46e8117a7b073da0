"""llama.cpp as a peer, over its native HTTP API (`/completion`), prompts as token ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from pavane.bench.peers.answer import Answer
from pavane.bench.peers.http import Http, PeerFailed
from pavane.bench.prediction import common
from pavane.bench.stats import Arrival


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, http: Http, about: str, slots: int = 8) -> None:
        self._http = http
        self.about = about
        # Each slot is the prefix cache of one sequence: a prompt goes where most of it is.
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self._idle = [*range(slots)]
        self._free = asyncio.Semaphore(slots)

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        began = time.perf_counter()
        bodies = [
            {**_body(prompt, tokens), "stream": True, "cache_prompt": False, "temperature": 0.0} for prompt in prompts
        ]
        streams = await asyncio.gather(*(self._http.events("/completion", body) for body in bodies))
        return [_arrivals(events, began, tokens) for events in streams]

    async def complete(self, prompt: Sequence[int], tokens: int) -> Answer:
        async with self._free:
            slot = max(self._idle, key=lambda slot: common(self._held[slot], prompt))
            self._idle.remove(slot)
            began = time.perf_counter()
            try:
                body = {**_body(prompt, tokens), "id_slot": slot, "cache_prompt": True, "return_tokens": True}
                answer = await self._http.post("/completion", {**body, "temperature": 0.0})
                total = time.perf_counter() - began
                ids = [int(id) for id in answer["tokens"]]
                _check(len(ids), tokens)
                self._held[slot] = [*prompt, *ids]
            finally:
                self._idle.append(slot)
            # Its own clock runs from the first token on; streamed events would not tell all tokens.
            return Answer(total - answer["timings"]["predicted_ms"] / 1000, total, ids)


def _body(prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    return {"prompt": list(prompt), "n_predict": tokens, "ignore_eos": True}


def _arrivals(events: Sequence[tuple[float, Any]], began: float, tokens: int) -> list[Arrival]:
    """An event may carry no token (the last) or several (after an unfinished character): the counter says."""
    arrivals: list[Arrival] = []
    for at, event in events:
        if "error" in event:
            raise PeerFailed(f"llama.cpp: {event['error']}")
        count = event["tokens_predicted"]
        if count > (arrivals[-1].count if arrivals else 0):
            arrivals.append(Arrival(at - began, count))
    _check(arrivals[-1].count if arrivals else 0, tokens)
    return arrivals


def _check(got: int, tokens: int) -> None:
    if got != tokens:
        raise PeerFailed(f"llama.cpp: {got} tokens instead of {tokens}")
