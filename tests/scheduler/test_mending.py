"""Calls whose parents have to be encoded again piece by piece, in a pool that has not room for all pieces' inputs."""

import random
from collections import Counter

from support.contention import World
from support.fingerprint import FingerprintRunner
from support.harness import Harness, decode, prefill

from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import State

WORLDS = 160


def forgotten(slots: int, *notes: tuple[str, int, int], max_running: int = 4) -> Harness:
    """Notes, each of which was written beside a document: (name, tokens of the document, of the note). Nothing has KV
    any more, and documents have no names."""
    h = Harness(FingerprintRunner(slots), slots, max_running=max_running)
    for i, (name, document, length) in enumerate(notes):
        h.submit(prefill("doc " + name, [3 + 2 * i] * document), prefill(name, [4 + 2 * i] * length, "doc " + name))
        h.run()
        h.scheduler.release("", "w", ["doc " + name], h.now)
    h.cache.evict(slots)
    return h


def test_waiting_for_room_does_not_use_up_attempts() -> None:
    """Each of two parents saw a long document; other calls hold the pool for many steps before the first is mended."""
    h = forgotten(150, ("a", 60, 30), ("b", 60, 30), max_running=3)
    h.submit(*(decode(f"other{i}", [7 + i] * 10, max_tokens=60, seed=i, trailer=()) for i in range(4)))
    h.submit(decode("c", [9] * 10, "a", "b", max_tokens=2, trailer=()))
    h.run()
    outcome = h.outcome("c")
    assert outcome.state is State.DONE
    assert outcome.receipt.reencoded == 2 * (60 + 30), "each piece once"


def test_what_needs_most_room_is_mended_first() -> None:
    """With the first note locked, there would be no room for the second one's document."""
    h = forgotten(150, ("a", 100, 15), ("b", 130, 10))
    h.submit(decode("c", [40] * 5, "a", "b", max_tokens=2, trailer=()))
    h.run()
    assert h.outcome("c").state is State.DONE
    assert h.outcome("c").receipt.reencoded == 100 + 15 + 130 + 10


def test_what_is_locked_already_counts_when_the_next_is_chosen() -> None:
    """The first note needs most room, the second needs little more once that is there, and the third would have none if
    both were."""
    h = Harness(FingerprintRunner(100), 100)
    h.submit(prefill("x", [3] * 60), prefill("a", [4] * 22, "x"))
    h.run()
    h.submit(prefill("b", [5] * 30, "a"), prefill("y", [6] * 45), prefill("c", [7] * 10, "y"))
    h.run()
    h.scheduler.release("", "w", ["x", "y"], h.now)
    h.cache.evict(100)
    h.submit(decode("d", [8] * 5, "b", "a", "c", max_tokens=2, trailer=()))
    h.run()
    assert h.outcome("d").state is State.DONE
    assert h.outcome("d").receipt.reencoded == 60 + 22 + 45 + 10 + 30


def test_nothing_starts_while_a_call_is_mended() -> None:
    h = forgotten(150, ("a", 60, 30), ("b", 60, 30))
    h.submit(decode("c", [40] * 10, "a", "b", max_tokens=2, trailer=()))
    h.submit(*(decode(f"other{i}", [41 + i] * 10, max_tokens=20, trailer=()) for i in range(3)))
    waited = 0
    while h.outcome("c").state is State.QUEUED or not h.outcome("c").receipt.generated:
        assert h.step()
        held = [span for call in h.scheduler.graph.workflow("", "w").calls.values() for span in call.needs]
        if held and h.outcome("c").state is State.QUEUED:
            assert not h.scheduler.running
            waited += 1
    assert waited
    h.run()
    assert all(h.outcome(f"other{i}").state is State.DONE for i in range(3))


def test_two_that_are_mended_take_turns() -> None:
    """Neither has room for the pieces of the other."""
    h = forgotten(150, *((name, 60, 30) for name in "abcd"))
    h.submit(decode("ab", [40] * 10, "a", "b", max_tokens=5, trailer=()))
    h.submit(decode("cd", [41] * 10, "c", "d", max_tokens=5, trailer=()))
    h.run()
    for name in ("ab", "cd"):
        assert h.outcome(name).state is State.DONE
        assert h.outcome(name).receipt.reencoded == 2 * (60 + 30)


def test_a_call_that_is_cancelled_between_its_pieces_makes_way() -> None:
    h = forgotten(150, ("a", 60, 30), ("b", 60, 30))
    h.submit(decode("c", [40] * 10, "a", "b", max_tokens=5, trailer=()))
    h.submit(decode("other", [41] * 10, max_tokens=80, trailer=()))
    call = h.scheduler.graph.workflow("", "w").calls["c"]
    while call.state is not State.QUEUED or not call.needs:
        assert h.step()
    h.scheduler.cancel("", "w", ["c"], False, h.now)
    h.audit()
    h.run()
    assert h.outcome("c").state is State.CANCELLED
    assert h.outcome("other").state is State.DONE


def test_what_completes_alone_completes_beside_others() -> None:
    seen: Counter[str] = Counter()
    for seed in range(1000, 1000 + WORLDS):
        world = World(random.Random(seed))
        together = world.together()
        for workflow, calls in world.calls.items():
            for outcome in [together[call.id] for call in calls]:
                if outcome is not None and outcome.state is State.DONE:
                    seen["done"] += 1
                    seen["encoded again"] += outcome.receipt.reencoded > 0
                elif outcome is not None and outcome.failure is not None:
                    seen[outcome.failure.reason] += 1
                    alone = world.alone(workflow, outcome.id)
                    assert alone.failure is not None, f"seed {seed}: {outcome.failure.text}; alone it completes"
                    assert alone.failure.reason == outcome.failure.reason
    assert seen["done"] > 10 * WORLDS
    assert seen["encoded again"] > 3 * WORLDS
    assert seen[Reason.NEVER_FITS] > 5
