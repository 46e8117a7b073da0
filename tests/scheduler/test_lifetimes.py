"""What encodings are kept for, from the state of the graph; messages that are kept for a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.harness import FakeRunner, Harness, decode, digest, prefill

from pavane.cache import Keep
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import CallSpec, GroupSpec, Retention


def harness(slots: int = 400, max_running: int = 16) -> Harness:
    return Harness(FakeRunner(slots), slots, max_running=max_running)


def keep(h: Harness, name: str) -> Keep:
    return h.scheduler.graph.call(h.scheduler.graph.workflow("", "w"), name).keep


def kept(spec: CallSpec, **fields: object) -> CallSpec:
    return replace(spec, retention=Retention(**fields))  # type: ignore[arg-type]


def test_a_message_is_kept_for_those_that_will_read_it() -> None:
    h = harness(max_running=1)
    h.submit(prefill("p", [3, 4]))
    h.run()
    assert keep(h, "p") is Keep.HELD
    h.now += 10
    h.step()
    h.submit(decode("first", [5], max_tokens=3), decode("second", [6], "p", "first", max_tokens=3))
    assert keep(h, "p") is Keep.LATER, "its workflow was at rest, and waits for its turn"
    h.step()
    assert keep(h, "p") is Keep.SOON
    h.run()
    assert keep(h, "p") is Keep.HELD


def test_a_pin_holds_from_when_a_call_is_ready() -> None:
    h = harness(max_running=1)
    h.submit(decode("first", [5], max_tokens=3), kept(decode("d", [3, 4], max_tokens=3), pin=True))
    h.step()
    assert keep(h, "d") is Keep.PINNED
    call = h.scheduler.graph.workflow("", "w").calls["d"]
    h.scheduler.release("", "w", ["d"], h.now)
    assert call.keep is Keep.SOON, "nobody can ask for it when it has ended"
    h.run()


def test_a_group_keeps_members_that_have_ended_before_it_came() -> None:
    h = harness(max_running=1)
    h.submit(prefill("a", [3, 4]))
    h.run()
    later = decode("b", [5], max_tokens=9)
    h.scheduler.submit("", "w", [later], h.now, [GroupSpec("g", digest("g"), ("a", "b"), 2)])
    assert keep(h, "a") is Keep.SOON
    h.run()
    assert keep(h, "a") is Keep.HELD


def test_idle_workflows_give_way_and_come_back() -> None:
    h = harness()
    h.submit(prefill("p", [3, 4]))
    h.run()
    h.now += 10
    h.step()
    assert keep(h, "p") is Keep.IDLE
    h.audit()
    h.submit(prefill("q", [3]))
    assert keep(h, "p") is Keep.HELD
    h.audit()


def test_declared_readers_that_are_still_to_come() -> None:
    h = harness()
    h.submit(kept(prefill("p", [3, 4]), readers=2))
    assert keep(h, "p") is Keep.LATER
    h.run()
    assert keep(h, "p") is Keep.LATER
    h.submit(prefill("a", [5], "p"))
    h.run()
    assert keep(h, "p") is Keep.LATER
    h.submit(prefill("b", [6], "p"))
    h.run()
    assert keep(h, "p") is Keep.HELD


def test_members_of_an_open_group_have_readers_to_come() -> None:
    h = harness()
    members = ("a", "b")
    group = GroupSpec("g", digest("g"), members, 2)
    h.scheduler.submit("", "w", [decode("a", [3], max_tokens=2), decode("b", [4], max_tokens=9)], h.now, [group])
    while "a" not in h.ended:
        h.step()
    assert keep(h, "a") is Keep.SOON
    h.run()
    assert keep(h, "a") is Keep.HELD


def test_a_pin_holds_until_the_release_and_goes_last() -> None:
    h = harness()
    h.submit(
        kept(prefill("pinned", [3, 4, 5]), pin=True), prefill("p", [6, 7, 8]), prefill("reader", [9], "p", "pinned")
    )
    h.run()
    assert keep(h, "pinned") is Keep.PINNED
    h.cache.evict(4)
    spans = {n: h.scheduler.graph.call(h.scheduler.graph.workflow("", "w"), n).span for n in ("pinned", "p", "reader")}
    assert [n for n, span in spans.items() if span is not None and span.node.extents is not None] == ["pinned"]
    assert h.cache.evicted_pinned == 0
    h.scheduler.release("", "w", ["pinned"], h.now)
    h.audit()


def test_what_a_waiting_call_reads_outlives_what_nobody_reads() -> None:
    h = harness(slots=64, max_running=1)
    h.submit(prefill("wanted", [3] * 10), prefill("done", [4] * 10))
    h.run()
    h.submit(decode("long", [5], max_tokens=40), decode("reader", [6], "wanted", max_tokens=3))
    h.run()
    assert h.outcome("reader").receipt.reencoded == 0
    h.submit(decode("late", [7], "done", max_tokens=3))
    h.run()
    assert h.outcome("late").receipt.reencoded == 10, "the one without readers went"


def test_a_message_with_a_ttl_is_released_after_it() -> None:
    h = harness()
    h.submit(kept(prefill("p", [3, 4]), ttl=5.0), decode("reader", [5], "p", max_tokens=20))
    h.step()
    while "reader" not in h.ended:
        if "p" in h.ended and h.now < 6:
            assert h.scheduler.next_timer is not None
        h.step()
    assert h.ended["reader"].failure is None, "a reader keeps it"
    with pytest.raises(RequestError) as caught:
        h.submit(prefill("late", [6], "p"))
    assert caught.value.reason is Reason.UNKNOWN_MESSAGE
    assert h.scheduler.next_timer is None
