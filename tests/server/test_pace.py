"""Tokens alone are told at most once in an interval; nothing is late by more, and what is told is the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from support.virtual_time import run

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.spec import (
    Closed,
    DecodeSpec,
    Ended,
    Event,
    Failure,
    Outcome,
    Receipt,
    Restarted,
    State,
    StateChanged,
    TokensAdded,
    Top,
)
from pavane.server.journal import Journal, Journals
from pavane.server.pace import Pace
from pavane.server.service import _follow
from pavane.server.text.tokenizer import Tokenizer

STEP, INTERVAL = 0.004, 0.010
WHY = Failure("RUNNER_FAILED", "the model runner failed", ("a",))


def token(id: str, number: int) -> TokensAdded:
    value = 1000 + number
    return TokensAdded(id, (value,), (-0.5 * number,), (Top((value, 7), (-0.5, -1.5)),))


def ended(id: str, count: int) -> Ended:
    tokens = tuple(1000 + number for number in range(count))
    return Ended(id, Outcome(id, State.DONE, tokens=tokens, content=(0, count), decode=True))


@dataclass
class Reader:
    """What a stream was told, and when."""

    frames: list[tuple[float, list[pb.Event]]] = field(default_factory=list)

    async def follow(
        self, journal: Journal, ids: str = "", after: int = 0, *, deltas: bool = True, rest: Sequence[float] = ()
    ) -> None:
        """`rest`: seconds that frames take to be sent, in turn."""
        async for events in _follow(journal, after, frozenset(ids), deltas=deltas):
            self.frames.append((now(), events))
            if rest:
                await asyncio.sleep(rest[len(self.frames) % len(rest)])

    def delta(self, id: str) -> pb.Delta:
        """All pieces of the current attempt as one; they follow on each other."""
        whole = pb.Delta()
        for _, events in self.frames:
            for event in (event for event in events if event.id == id):
                if event.WhichOneof("event") == "restarted":
                    whole.Clear()
                elif event.WhichOneof("event") == "delta":
                    assert (event.delta.first_token, event.delta.first_char) == (len(whole.tokens), len(whole.text))
                    whole.text += event.delta.text
                    for name in ("tokens", "logprobs", "top_logprobs"):
                        getattr(whole, name).extend(getattr(event.delta, name))
        return whole

    def kinds(self) -> list[tuple[float, list[str | None]]]:
        return [(round(at, 6), [event.WhichOneof("event") for event in events]) for at, events in self.frames]


def now() -> float:
    return asyncio.get_running_loop().time()


def opened(tokenizer: Tokenizer, ids: str = "a", interval: float = INTERVAL) -> Journal:
    journal = Journal(tokenizer, Pace(interval) if interval else None)
    for id in ids:
        journal.expect(id, DecodeSpec(seed=1))
    return journal


def test_a_stream_gets_first_tokens_and_ends_at_once_and_others_in_bunches(tokenizer: Tokenizer) -> None:
    async def play() -> tuple[Reader, Reader]:
        journal, all_of_it, states = opened(tokenizer, interval=0.011), Reader(), Reader()
        reading = [asyncio.create_task(all_of_it.follow(journal, "a"))]
        reading += [asyncio.create_task(states.follow(journal, "a", deltas=False))]
        await asyncio.sleep(1.0)
        journal.record([StateChanged("a", State.RUNNING)])
        for number in range(10):
            await asyncio.sleep(STEP)
            journal.record([token("a", number)])
        await asyncio.sleep(0.0005)
        journal.record([token("a", 10), ended("a", 11)])
        await asyncio.gather(*reading)
        return all_of_it, states

    all_of_it, states = run(play())
    ends = [(1.0, ["state"]), (1.0405, ["done"])]
    deltas = [(at, ["delta"]) for at in (1.004, 1.008, 1.019, 1.03)]
    assert all_of_it.kinds() == [ends[0], *deltas, ends[1]]
    assert states.kinds() == ends
    assert [len(events[0].delta.tokens) for _, events in all_of_it.frames[1:-1]] == [1, 1, 2, 3]
    assert all_of_it.delta("a").logprobs == [-0.5 * number for number in range(7)]


def test_what_is_held_comes_without_a_further_step_and_then_no_timer_runs(tokenizer: Tokenizer) -> None:
    async def play() -> None:
        loop = asyncio.get_running_loop()
        journal, reader = opened(tokenizer), Reader()
        reading = asyncio.create_task(reader.follow(journal, "a"))
        await asyncio.sleep(0)
        journal.record([token("a", 0)])
        journal.record([token("a", 1)])
        await asyncio.sleep(STEP)
        journal.record([token("a", 2)])
        assert len(loop._scheduled) == 1  # type: ignore[attr-defined]
        await asyncio.sleep(100.0)
        assert not loop._scheduled  # type: ignore[attr-defined]
        assert reader.delta("a").tokens == [1000, 1001, 1002]
        assert reader.frames[-1][0] == pytest.approx(INTERVAL)
        journal.record([Closed(Receipt())])
        await reading

    run(play())


def test_one_timer_releases_the_streams_of_all_workflows_together(tokenizer: Tokenizer) -> None:
    async def play() -> None:
        journals, keys = Journals(tokenizer, Pace(INTERVAL)), [("", str(i)) for i in range(5)]
        readers = [Reader() for _ in keys]
        for key in keys:
            journals.open(key).expect("a", DecodeSpec(seed=1))
        reading = [asyncio.create_task(r.follow(journals.open(k), "a")) for r, k in zip(readers, keys, strict=True)]
        for number in range(20):
            for key in keys:
                journals.record(key, [token("a", number)])
            assert len(asyncio.get_running_loop()._scheduled) <= 1  # type: ignore[attr-defined]
            await asyncio.sleep(STEP)
        for key in keys:
            journals.record(key, [ended("a", 20), Closed(Receipt())])
        await asyncio.gather(*reading)
        assert len(readers[0].frames) == 1 + 1 + 7 + 1
        assert all(reader.kinds() == readers[0].kinds() for reader in readers)

    run(play())


def test_who_asks_anew_reads_what_is_held(tokenizer: Tokenizer) -> None:
    async def play() -> None:
        journal, first, again = opened(tokenizer), Reader(), Reader()
        reading = [asyncio.create_task(first.follow(journal))]
        await asyncio.sleep(0)
        for number in range(3):
            journal.record([token("a", number)])
            await asyncio.sleep(0.001)
        reading += [asyncio.create_task(again.follow(journal, "a", 1))]
        await asyncio.sleep(0)
        assert again.kinds() == [(0.003, ["delta"])]
        assert len(first.delta("a").tokens) == 2
        journal.record([ended("a", 3), Closed(Receipt())])
        await asyncio.gather(*reading)

    run(play())


def test_who_lags_reads_on_when_a_call_that_it_waits_for_was_released(tokenizer: Tokenizer) -> None:
    async def play() -> None:
        journal, reader = opened(tokenizer, interval=1e6), Reader()
        reading = asyncio.create_task(reader.follow(journal, "a", rest=[1.0]))
        await asyncio.sleep(0)
        journal.record([token("a", 0)])
        await asyncio.sleep(0.5)
        journal.record([ended("a", 1)])
        journal.forget("a")
        await asyncio.wait_for(reading, 10.0)

    run(play())


def script(seed: int) -> list[list[Event]]:
    """Steps of some calls that begin, say something, begin again now and then, and end."""
    draw = random.Random(seed)
    counts = dict.fromkeys("abcd", -1)
    steps: list[list[Event]] = []
    while counts:
        events: list[Event] = []
        for id, count in list(counts.items()):
            if count < 0:
                if draw.random() < 0.2:
                    events.append(StateChanged(id, State.RUNNING))
                    counts[id] = 0
            elif draw.random() < 0.02:
                events.append(Restarted(id, 2, WHY))
                counts[id] = 0
            elif draw.random() < 0.9:
                events.append(token(id, count))
                counts[id] += 1
            if counts[id] > 30 and draw.random() < 0.1:
                events.append(ended(id, counts.pop(id)))
        steps.append(events)
    return steps


def asks(seed: int) -> list[tuple[str, tuple[float, ...]]]:
    """Which calls streams read, and how long they take to send a frame."""
    draw = random.Random(seed)
    slow = [draw.uniform(0.0, 0.03) for _ in range(7)]
    return [(ids, rest) for ids in ("a", "cd", "abcd", "") for rest in ((), (0.0,), (0.001,), (0.015,), tuple(slow))]


async def played(tokenizer: Tokenizer, seed: int, interval: float) -> tuple[list[Reader], dict[tuple[str, int], float]]:
    """What the streams were told; and when each token was recorded that no restart has made void, and each end (-1)."""
    journal, readers = opened(tokenizer, "abcd", interval), [Reader() for _ in asks(seed)]
    pairs = zip(readers, asks(seed), strict=True)
    reading = [asyncio.create_task(reader.follow(journal, ids, rest=rest)) for reader, (ids, rest) in pairs]
    said: dict[tuple[str, int], float] = {}
    for events in script(seed):
        await asyncio.sleep(STEP)
        journal.record(events)
        for event in events:
            if isinstance(event, Restarted):
                said = {key: at for key, at in said.items() if key[0] != event.id}
            elif isinstance(event, TokensAdded):
                said[event.id, event.tokens[0] - 1000] = now()
            elif isinstance(event, Ended):
                said[event.id, -1] = now()
    journal.record([Closed(Receipt())])
    await asyncio.gather(*reading)
    return readers, said


@pytest.mark.parametrize("seed", range(6))
def test_streams_are_told_the_same_as_without_an_interval(tokenizer: Tokenizer, seed: int) -> None:
    (paced, said), (plain, _) = run(played(tokenizer, seed, INTERVAL)), run(played(tokenizer, seed, 0))
    for reader, other, (ids, rest) in zip(paced, plain, asks(seed), strict=True):
        told = {event.id: event for _, events in reader.frames for event in events}  # the last of each call
        assert told == {event.id: event for _, events in other.frames for event in events}
        assert set(told) == set(ids or "abcd")
        for id, event in told.items():
            delta, count = reader.delta(id), len(reader.delta(id).tokens)
            assert list(delta.tokens) == list(event.done.tokens)[:count]
            assert event.done.text.startswith(delta.text)
            assert list(delta.logprobs) == [-0.5 * number for number in range(count)]
            assert [top.tokens[0] for top in delta.top_logprobs] == list(delta.tokens)
        alone = bunches(reader)
        assert 3 < len(alone) <= (alone[-1] - alone[0]) / INTERVAL + 2, "also if frames take long to be sent"
        assert lateness(reader, said, "delta") <= max([INTERVAL, *rest]) + 1e-9
        assert lateness(reader, said, "done") <= max([0.0, *rest]) + 1e-9
        if not rest:
            assert min(b - a for a, b in pairwise(alone)) >= INTERVAL - 1e-9
    assert sum(len(r.frames) for r in paced) < 0.8 * sum(len(r.frames) for r in plain)


def lateness(reader: Reader, said: dict[tuple[str, int], float], kind: str) -> float:
    """Seconds from when a token, or an end, was recorded until it was told, at most."""
    told = [(at, event) for at, events in reader.frames for event in events]
    restarted = {event.id: at for at, event in told if event.WhichOneof("event") == "restarted"}
    late = [0.0]
    for at, event in told:
        if event.WhichOneof("event") == kind and at >= restarted.get(event.id, 0.0):
            numbers = [value - 1000 for value in event.delta.tokens] or [-1]
            late += [at - said[event.id, number] for number in numbers]
    return max(late)


def bunches(reader: Reader) -> list[float]:
    """When frames of further tokens alone came."""
    return [
        at
        for at, events in reader.frames
        if all(event.WhichOneof("event") == "delta" and event.delta.first_token for event in events)
    ]
