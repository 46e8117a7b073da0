"""Plans of graphs with groups come true where those are first that were assumed to be."""

from __future__ import annotations

import random
from collections import Counter

from support.harness import Harness, decode, digest, prefill
from support.plans import Watched, counts, roomy
from support.structure import structure

from pavane.scheduler.preview import Plan
from pavane.scheduler.spec import CallSpec, GroupSpec, ParentSpec, State


def group(name: str, members: tuple[str, ...], need: int, *, cancel_rest: bool = False) -> GroupSpec:
    return GroupSpec(name, digest(name, members, need, cancel_rest), members, need, cancel_rest)


def plan(h: Harness, calls: list[CallSpec], groups: list[GroupSpec]) -> Plan:
    """A plan, and nothing else has changed."""
    before, unfinished = structure(h.cache), h.scheduler.graph.unfinished
    planned = h.scheduler.plan("", "w", calls, h.now, groups)
    h.audit()
    assert (structure(h.cache), h.scheduler.graph.unfinished) == (before, unfinished)
    return planned


def drawn(rng: random.Random) -> tuple[list[CallSpec], list[GroupSpec]]:
    """Decodes begin differently: answers that are equal by chance are what no plan can know."""
    calls: list[CallSpec] = []
    groups: list[GroupSpec] = []
    for i in range(rng.randint(3, 9)):
        names = [*(call.id for call in calls), *(g.id for g in groups)]
        edges = [
            ParentSpec(name, exact=rng.random() < 0.2)
            for name in rng.sample(names, min(len(names), rng.choice([0, 1, 2])))
        ]
        tokens = [3, 4, 5, 6, 7][: rng.randint(1, 5)]
        if rng.random() < 0.3:
            calls.append(prefill(f"m{i}", tokens, *edges, exact=rng.random() < 0.3))
        else:
            length = (
                {"max_tokens": rng.choice([1, 2, 4, 40])}
                if rng.random() < 0.8
                else {"forced": (8, 9), "one_pass": rng.random() < 0.5}
            )
            calls.append(
                decode(
                    f"m{i}",
                    [20 + i, *tokens],
                    *edges,
                    seed=rng.randrange(3),
                    trailer=rng.choice([(), (1, 2)]),
                    **length,
                )
            )
        if rng.random() < 0.5:
            members = tuple(call.id for call in rng.sample(calls, min(len(calls), rng.randint(1, 3))))
            groups.append(group(f"g{i}", members, rng.randint(1, len(members)), cancel_rest=rng.random() < 0.5))
    return calls, groups


def test_plans_come_true_if_those_win() -> None:
    seen: Counter[str] = Counter()
    for seed in range(150):
        rng = random.Random(seed)
        calls, groups = drawn(rng)
        h = roomy(rng.choice([None, 0]), policy=rng.choice(["graph", "fcfs"]))
        split, steps = rng.choice([0, 0, 3]), rng.randrange(5)
        early = {call.id for call in calls[:split]}
        first = [g for g in groups if early.issuperset(g.members) and g.id < f"g{split}"]
        h.scheduler.submit("", "w", calls[:split], h.now, first)
        for _ in range(steps if split else 0):
            h.step()
        settled = {name for name, found in h.scheduler.graph.workflow("", "w").groups.items() if not found.open}
        rest = [g for g in groups if g not in first]
        planned = plan(h, calls[split:], rest)
        h.scheduler.submit("", "w", calls[split:], h.now, rest)
        h.run()
        workflow = h.scheduler.graph.workflow("", "w")
        won = {g.id: tuple(w.id for w in workflow.groups[g.id].winners) for g in groups if g.id not in settled}
        if {name: winners for name, winners in won.items() if winners} != planned.winners:
            seen["other winners"] += 1
            continue
        assert [counts(o) for o in planned.calls] == [counts(h.outcome(c.id)) for c in calls[split:]], seed
        if not split:
            assert isinstance(h.runner, Watched)
            assert (planned.peak_slots, planned.slots_read) == (h.runner.peak, h.runner.read), seed
        seen["as planned"] += 1
        seen["with groups"] += bool(planned.winners)
        seen["cancelled"] += any(o.state is State.CANCELLED for o in planned.calls)
    assert seen["with groups"] > 40, seen
    assert seen["cancelled"] > 10, seen


def test_the_first_members_are_assumed_to_win() -> None:
    h = roomy()
    calls = [decode(f"d{i}", [3, 4 + i], max_tokens=9 + 5 * (i == 2)) for i in range(3)]
    reader = decode("r", [5], "g", max_tokens=2)
    planned = plan(h, [*calls, reader], [group("g", ("d0", "d1", "d2"), 2, cancel_rest=True)])
    assert planned.winners == {"g": ("d0", "d1")}
    receipt = planned.calls[3].receipt
    assert (receipt.in_place, receipt.repositioned) == (2 + 9 + 2, 2 + 9 + 2)
    assert [call.state for call in planned.calls] == [State.DONE, State.DONE, State.CANCELLED, State.DONE]
