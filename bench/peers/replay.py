"""A recorded workflow on a peer: each call's prompt as one text of tokens, through the peer's own prefix cache."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import replace

from pavane.bench.peers.http import PeerFailed
from pavane.bench.peers.peer import Peer
from pavane.bench.workflows.records import RecordedCall, Recording, TimedCall

ORDINARY = range(1000, 40_000)  # token ids without control tokens


def prompt(calls: Mapping[str, RecordedCall], call: RecordedCall) -> list[int]:
    """What `call` reads if all its edges are EXACT: its parents one after the other, then its header."""
    return [token for parent in call.parents for token in calls[parent].tokens] + [*call.header]


def width(recording: Recording) -> int:
    """Decodes that may run at the same time: the most on one level of the graph."""
    levels: dict[str, int] = {}
    counts: dict[int, int] = {}
    for call in recording.calls:
        level = max((levels[parent] for parent in call.parents), default=0) + call.decode
        levels[call.id] = level
        counts[level] = counts.get(level, 0) + call.decode
    return max(counts.values(), default=1)


def longest(recording: Recording) -> int:
    """Tokens of the longest prompt with its answer."""
    calls = {call.id: call for call in recording.calls}
    return max(len(prompt(calls, call)) + len(call.content) for call in recording.calls if call.decode)


async def replay(
    peer: Peer, recording: Recording, repetition: int, *, bos: int | None
) -> tuple[list[TimedCall], float]:
    """Runs it with calls that start when their parents are done. Returns the calls, and the time on the clock in s.

    A peer's answers are as long as the recorded ones, but its own. Later prompts hold them if the peer tells its
    tokens, so that its prefix cache finds what it has generated; else the recorded ones. The first token of all prompts
    is another one in each repetition: what one has left in a cache is of no use to the next. Raises PeerFailed.
    """
    calls = {call.id: call for call in recording.calls}
    salt = random.Random(f"{recording.case} {repetition}").choice(ORDINARY)
    ended = {call.id: asyncio.Event() for call in recording.calls}
    timed: list[TimedCall] = []
    began = time.perf_counter()

    async def one(call: RecordedCall) -> None:
        for parent in call.parents:
            await ended[parent].wait()
        ready = time.perf_counter() - began
        if call.decode:
            tokens = prompt(calls, call)
            tokens[0] = salt
            if bos is not None:
                tokens.insert(0, bos)
            answer = await peer.complete(tokens, len(call.content))
            if answer.tokens is not None:
                calls[call.id] = replace(call, content=tuple(answer.tokens))
            timed.append(
                TimedCall(
                    call.id, call.parents, True, ready, 0.0, answer.first_token, answer.total,
                    visible=(answer.read or len(tokens)) - (bos is not None), generated=len(call.content),
                )
            )  # fmt: skip
        ended[call.id].set()

    try:
        async with asyncio.TaskGroup() as tasks:
            for call in recording.calls:
                tasks.create_task(one(call))
    except BaseExceptionGroup as group:
        if (failed := group.subgroup(PeerFailed)) is None:
            raise
        raise failed.exceptions[0] from None
    wall = time.perf_counter() - began
    place = {call.id: i for i, call in enumerate(recording.calls)}
    return sorted(timed, key=lambda call: place[call.id]), wall
