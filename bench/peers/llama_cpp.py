"""llama.cpp as a peer, over its native HTTP API (`/completion`), prompts as token ids."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from pavane.bench.peers.http import Http, PeerFailed
from pavane.bench.stats import Arrival


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, http: Http, about: str) -> None:
        self._http = http
        self.about = about

    async def stream(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[Arrival]]:
        began = time.perf_counter()
        bodies = [
            {**_body(prompt, tokens), "stream": True, "cache_prompt": False, "temperature": 0.0} for prompt in prompts
        ]
        streams = await asyncio.gather(*(self._http.events("/completion", body) for body in bodies))
        return [_arrivals(events, began, tokens) for events in streams]

    async def answer(
        self, prompts: Sequence[Sequence[int]], tokens: int, *, temperature: float, seed: int, fresh: bool
    ) -> list[list[int]]:
        requests = [
            self._http.post(
                "/completion",
                {
                    **_body(prompt, tokens),
                    "id_slot": i,  # a slot is a prefix cache: each prompt goes where its predecessor was
                    "cache_prompt": not fresh,
                    "temperature": temperature,
                    "samplers": ["temperature"],
                    "seed": seed + i,
                    "return_tokens": True,
                },
            )
            for i, prompt in enumerate(prompts)
        ]
        answers: list[list[int]] = [answer["tokens"] for answer in await asyncio.gather(*requests)]
        for ids in answers:
            _check(len(ids), tokens)
        return answers


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
