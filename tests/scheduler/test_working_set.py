"""How much a workflow needs at a time: against a count wave by wave, and as its calls come and end."""

from __future__ import annotations

import random

from support.harness import FakeRunner, Harness, decode, digest, prefill

from pavane.scheduler.calls import Call
from pavane.scheduler.spec import GroupSpec
from pavane.scheduler.working_set import most_at_once


def by_waves(calls: list[Call], sizes: dict[Call, int]) -> int:
    """Plays the graph: in each wave all run that can; then what no other call is to read is forgotten."""
    left = list(calls)
    held = {message for call in calls for message in reads(call) if message not in calls}
    most = 0
    while left:
        run = [call for call in left if not any(parent in left for parent in reads(call))]
        held |= set(run)
        most = max(most, sum(sizes[message] for message in held))
        left = [call for call in left if call not in run]
        held = {message for message in held if any(message in reads(call) for call in left)}
    return most


def reads(call: Call) -> list[Call]:
    return [*call.parents, *(member for group in call.groups if group.open for member in group.members)]


def test_most_at_once_on_random_graphs() -> None:
    rng = random.Random(0)
    for _ in range(150):
        h = Harness(FakeRunner(10_000), 10_000, max_unfinished=10_000)
        specs, groups, names = [], [], []
        for i in range(rng.randint(1, 14)):
            parents = rng.sample(names, min(len(names), rng.choice([0, 1, 2, 4])))
            specs.append(decode(f"m{i}", [3], *parents, max_tokens=9))
            names.append(f"m{i}")
            if rng.random() < 0.2:
                members = tuple(rng.sample([n for n in names if n[0] == "m"], min(i + 1, 3)))
                groups.append(GroupSpec(f"g{i}", digest(i), members, 1))
                names.append(f"g{i}")
        h.scheduler.submit("", "w", specs, 0.0, groups)
        for _ in range(rng.randint(0, 30)):
            h.step()
        workflow = h.scheduler.graph.workflow("", "w")
        open_calls = list(workflow.open)
        sizes = {call: rng.randint(1, 100) for call in workflow.calls.values()}
        assert most_at_once(open_calls, sizes.__getitem__) == by_waves(open_calls, sizes)


def test_what_a_workflow_needs_shrinks_as_its_messages_lose_their_readers() -> None:
    h = Harness(FakeRunner(1000), 1000)
    chain = [decode(f"m{i}", [3], *([f"m{i - 1}"] if i else []), max_tokens=10) for i in range(9)]
    h.submit(prefill("long", [4] * 300), decode("reader", [3], "long", max_tokens=3), *chain)
    workflow = h.scheduler.graph.workflow("", "w")
    sets = h.scheduler._states.order._sets
    whole = sets.need(workflow)
    assert 300 < whole < 360, "of the chain two at a time"
    while "reader" not in h.ended:
        h.step()
    sets.changed(workflow)
    assert sets.need(workflow) < 60
    assert sets.excess(workflow, []) < -900
    h.run()
    assert sets.need(workflow) == 0


def test_what_was_sent_in_pieces_needs_all_that_it_has() -> None:
    h = Harness(FakeRunner(1000), 1000)
    h.submit(prefill("text", [4] * 100))
    h.run()
    workflow = h.scheduler.graph.workflow("", "w")
    sets = h.scheduler._states.order._sets
    sets.changed(workflow)
    assert sets.need(workflow) == 0
    h.submit(decode("a", [3], "text", max_tokens=10))
    h.run()
    assert workflow.resting == 100 + 13
    h.submit(prefill("more", [5] * 50))
    assert sets.need(workflow) == 163
    h.run()
    h.scheduler.release("", "w", ["text"], h.now)
    sets.forget(workflow)
    assert sets.need(workflow) == 63


def test_what_is_replaced_call_by_call_is_estimated_again() -> None:
    """The number of unfinished calls stays, and yet they are others."""
    h = Harness(FakeRunner(5000), 5000, check=False)
    h.submit(*(decode(f"small{i}", [3], max_tokens=2 + i) for i in range(20)))
    workflow = h.scheduler.graph.workflow("", "w")
    sets = h.scheduler._states.order._sets
    assert sets.need(workflow) < 20 * 25
    for i in range(20):
        while f"small{i}" not in h.ended:
            h.step()
        h.submit(decode(f"large{i}", [3], max_tokens=400))
        assert sets.need(workflow) <= 20 * 403
    now = sets.need(workflow)
    sets.forget(workflow)
    assert now > 0.8 * sets.need(workflow) > 20 * 100
