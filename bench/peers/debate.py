"""The parallel debate as a peer runs it: one prompt per answer, the same tokens in the same order as all-EXACT."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pavane.bench.peers.peer import Peer
from pavane.clients.workflows import Setting
from pavane.clients.workflows.debate import DebateSizes


@dataclass(frozen=True)
class Turns:
    """The debate's fixed parts as token ids, made by the chat template; an answer is header, content, trailer."""

    start: Sequence[int]
    instruction: Sequence[int]
    header: Sequence[int]
    trailer: Sequence[int]


def prompt(turns: Turns, answers: Sequence[Sequence[Sequence[int]]], agent: int) -> list[int]:
    """What `agent` reads after `answers` (by round and agent, whole messages), up to its own header."""
    own = [row[agent] for row in answers]
    others = [message for i, message in enumerate(answers[-1]) if i != agent] if answers else []
    instruction = [turns.instruction] if answers else []
    return [token for part in (turns.start, *own, *instruction, *others, turns.header) for token in part]


async def debate_on(peer: Peer, turns: Turns, sizes: DebateSizes, setting: Setting) -> float:
    """Runs it, the agents of a round at once, from an empty cache. Returns its time on the clock in seconds."""
    began = time.perf_counter()
    answers: list[list[list[int]]] = []
    for r in range(sizes.rounds + 1):
        contents = await peer.answer(
            [prompt(turns, answers, agent) for agent in range(sizes.agents)],
            sizes.answer_tokens,
            temperature=setting.temperature,
            seed=setting.seed * 1000 + r * sizes.agents,
            fresh=r == 0,
        )
        answers.append([[*turns.header, *content, *turns.trailer] for content in contents])
    return time.perf_counter() - began
