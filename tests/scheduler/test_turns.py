"""Which workflows begin where not all that they need fits at once, and which wait."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from support.harness import FakeRunner, Harness, decode, prefill

from pavane.scheduler.calls import Workflow
from pavane.scheduler.scheduler import Scheduler
from pavane.scheduler.spec import CallSpec, State
from pavane.scheduler.tenants import Tenants
from pavane.scheduler.turns import SLICE_S, Turns


def harness(slots: int, *, load_control: bool = True, policy: str = "graph", max_running: int = 16) -> Harness:
    h = Harness(FakeRunner(slots), slots, max_running=max_running)
    h.scheduler = Scheduler(
        h.cache,
        h.scheduler.graph.limits,
        h.text,
        max_running=max_running,
        policy=policy,
        load_control=load_control,
        tenants=Tenants(),
    )
    return h


def submit(h: Harness, workflow: str, *calls: CallSpec, tenant: str = "", priority: int | None = None) -> None:
    h.scheduler.open(tenant, workflow, 0, 1e9, h.now, priority=priority)
    h.scheduler.submit(tenant, workflow, [replace(c, id=f"{workflow}.{c.id}") for c in calls], h.now)
    h.collect()


def team(workflow: str, text: int, answer: int = 20) -> list[CallSpec]:
    """A text, two that read it, and one that reads these."""
    first = 3 + sum(map(ord, workflow)) % 80
    return [
        prefill("text", [first] * text),
        decode("a", [5], f"{workflow}.text", max_tokens=answer),
        decode("b", [6], f"{workflow}.text", max_tokens=answer),
        decode("end", [7], f"{workflow}.text", f"{workflow}.a", f"{workflow}.b", max_tokens=answer),
    ]


def begun(h: Harness) -> list[str]:
    return [w.id for w in workflows(h) if w.begun_at is not None]


def workflows(h: Harness) -> list[Workflow]:
    return list(h.scheduler.graph.workflows.values())


def reencoded(h: Harness) -> int:
    return sum(outcome.receipt.reencoded for outcome in h.ended.values())


def test_what_does_not_fit_together_goes_one_after_the_other() -> None:
    again = {}
    for load_control in (True, False):
        h = harness(310, load_control=load_control)
        for name in ("u", "v", "w"):
            submit(h, name, *team(name, 120))
        h.step()
        assert begun(h) == (["u"] if load_control else ["u", "v"])
        h.run()
        assert all(outcome.state is State.DONE for outcome in h.ended.values())
        again[load_control] = reencoded(h)
    assert again[True] == 0
    assert again[False] > 120, again


def test_what_fits_together_begins_together() -> None:
    h = harness(1000)
    for name in ("u", "v", "w"):
        submit(h, name, *team(name, 120))
    h.step()
    assert begun(h) == ["u", "v", "w"]


def test_one_alone_begins_whatever_it_needs() -> None:
    h = harness(200)
    submit(h, "u", *team("u", 120), *(replace(c, id=f"{c.id}2", parents=()) for c in team("u", 60, 60)))
    h.run()
    assert len(h.ended) == 8
    assert all(outcome.state is State.DONE for outcome in h.ended.values())


def test_smaller_ones_do_not_pass_the_one_that_waits_for_room() -> None:
    """Else it might wait for ever. Those under way go on."""
    h = harness(300)
    submit(h, "first", *team("first", 150))
    h.step()
    h.now += 5
    submit(h, "large", *team("large", 180, 2), priority=1)
    h.now += 5
    submit(h, "small", decode("a", [9], max_tokens=4))
    h.step()
    assert begun(h) == ["first"]
    while "first.end" not in h.ended:
        h.step()
    h.scheduler.close("", "first", h.now)
    h.step()
    assert begun(h)[0] == "large"
    h.run()
    assert reencoded(h) == 0


def test_a_workflow_at_rest_gives_up_its_place() -> None:
    h = harness(300)
    submit(h, "first", *team("first", 150))
    submit(h, "second", *team("second", 150))
    while "first.end" not in h.ended:
        h.step()
    assert h.scheduler.graph.workflow("", "first").unfinished == 0
    h.run()
    assert h.ended["second.end"].state is State.DONE
    h.now += 10
    h.step()
    assert begun(h) == []


def test_a_text_that_all_of_them_read_counts_once() -> None:
    most = {}
    for shared in (True, False):
        h = harness(400)
        for i in range(5):
            before = [f"w{i}.text", *(f"w{i}.a{turn}" for turn in range(3))]
            turns = [decode(f"a{turn}", [5], *before[: turn + 1], max_tokens=4) for turn in range(4)]
            submit(h, f"w{i}", prefill("text", [8 if shared else 20 + i] * 200), *turns)
        most[shared] = 0
        while h.step():
            most[shared] = max(most[shared], sum(w.unfinished > 0 and w.begun_at is not None for w in workflows(h)))
        assert reencoded(h) == 0
    assert most == {True: 5, False: 1}


def test_one_that_is_sent_in_pieces_keeps_its_messages_until_it_has_had_its_slice() -> None:
    h = harness(300)
    submit(h, "pieces", prefill("text", [4] * 150), decode("a0", [5], "pieces.text", max_tokens=10))
    while "pieces.a0" not in h.ended:
        h.step()
    submit(h, "pieces", decode("a1", [5], "pieces.text", "pieces.a0", max_tokens=10))
    h.step()
    submit(h, "other", *team("other", 150, 10))
    for turn in range(1, 4):
        while f"pieces.a{turn}" not in h.ended:
            h.step()
        assert begun(h) == ["pieces"]
        submit(h, "pieces", decode(f"a{turn + 1}", [5], "pieces.text", f"pieces.a{turn}", max_tokens=10))
    assert reencoded(h) == 0
    h.now += SLICE_S
    h.step()
    assert begun(h) == ["other"]
    h.run()
    assert all(outcome.state is State.DONE for outcome in h.ended.values())


@pytest.mark.parametrize("priority", [0, 1])
def test_a_whole_one_waits_after_its_slice_for_one_that_comes_before_it_in_the_order(priority: int) -> None:
    h = harness(400)
    submit(h, "old", *team("old", 200))
    h.step()
    submit(h, "other", *team("other", 200), priority=priority)
    h.step()
    assert begun(h) == ["old"]
    h.now += SLICE_S
    h.step()
    assert begun(h) == ([] if priority else ["old"]), "its calls that run go on"
    while not begun(h):
        h.step()
    assert begun(h) == (["other"] if priority else ["old"])
    assert "old.end" not in h.ended
    h.run()
    assert all(outcome.state is State.DONE for outcome in h.ended.values())


@pytest.mark.parametrize("policy", ["graph", "fcfs"])
def test_without_control_of_the_load_all_begin(policy: str) -> None:
    h = harness(320, load_control=policy == "fcfs", policy=policy)
    for name in ("u", "v"):
        submit(h, name, *team(name, 120, 60))
    h.step()
    assert begun(h) == ["u", "v"]
    h.run()
    assert all(outcome.state is State.DONE for outcome in h.ended.values())


def test_nobody_waits_while_nothing_runs() -> None:
    """One that is sent in pieces rests between two of them, with all it has; it is not waited for."""
    h = harness(300)
    submit(h, "pieces", prefill("text", [4] * 150), decode("a0", [5], "pieces.text", max_tokens=10))
    h.run()
    submit(h, "pieces", decode("a1", [5], "pieces.text", "pieces.a0", max_tokens=10))
    h.run()
    submit(h, "other", *team("other", 150, 10))
    assert h.scheduler.schedule(h.now) is not None
    assert begun(h) == ["pieces", "other"]


def test_texts_of_one_workflow_are_encoded_when_those_that_read_them_can_follow() -> None:
    """More texts than fit at once, and each is read once: a text comes right before its reader, and does not drop
    another that is still to be read."""
    again = {}
    for load_control in (True, False):
        h = harness(600, load_control=load_control)
        texts = [prefill(f"text{i}", [3 + i] * 60) for i in range(20)]
        readers = [decode(f"a{i}", [5], f"w.text{i}", max_tokens=12) for i in range(20)]
        submit(h, "w", *texts, *readers, decode("end", [7], *(f"w.a{i}" for i in range(20)), max_tokens=12))
        h.run()
        assert all(outcome.state is State.DONE for outcome in h.ended.values())
        again[load_control] = reencoded(h)
    assert again[True] == 0
    assert again[False] > 120, again


def test_who_was_refused_would_be_refused_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is remembered of a refusal, against asking anew whenever somebody wants to know."""
    fits, asked = Turns._fits, Counter[str]()

    def checked(turns: Turns, workflow: Workflow) -> bool:
        remembered = turns._refused is workflow
        answer = fits(turns, workflow)
        asked["remembered" if remembered else "refused" if not answer else "fits"] += 1
        if remembered:
            assert turns._sets.excess(workflow, turns._under_way) > 0
        return answer

    monkeypatch.setattr(Turns, "_fits", checked)
    rng = random.Random(0)
    for case in range(6):
        h = harness(rng.choice([400, 700]), max_running=6)
        h.check = False
        for i in range(60):
            name = f"{case}w{rng.randint(0, 9)}"
            if rng.random() < 0.4 and not any(f"{name}.{i}" in h.ended for i in range(60)):
                parts = [decode(f"{i}x{k}", [5, k], max_tokens=rng.randint(5, 40)) for k in range(rng.randint(1, 8))]
                submit(h, name, prefill(f"{i}", [9] * rng.randint(20, 120)), *parts)
            h.step()
        h.run()
    assert asked["remembered"] > 200
    assert asked["refused"] > 30
    assert asked["fits"] > 10
