"""How calls end, what their ends are told as, and what may be sent again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.by_hand import A, B, C, harness, reason, rows, run
from support.fingerprint import FingerprintRunner
from support.harness import Harness, decode, prefill

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import CallSpec, Closed, Ended, Finish, ParentSpec, State, StateChanged


def test_ends_of_a_decode() -> None:
    h = harness()
    free = run(h, decode("free", [1], max_tokens=6, trailer=(1, 2)))
    content = free.tokens[1:7]
    at = next(i for i, token in enumerate(content) if i and token not in content[:i])
    ended = run(h, decode("end", [1], max_tokens=6, end_ids=frozenset({content[at]})))
    assert list(ended.tokens) == [1, *content[:at], 1, 2]
    stopped = run(h, decode("stop", [1], max_tokens=6, stop_ids=frozenset({content[at]})))
    assert stopped.tokens == ended.tokens
    forced = run(h, decode("forced", [1], forced=content, end_ids=frozenset({content[at]})))
    assert forced.tokens == free.tokens
    finishes = [out.finish for out in (free, ended, stopped, forced)]
    assert finishes == [Finish.LENGTH, Finish.END_OF_TURN, Finish.STOP, Finish.FORCED]


def test_max_tokens_is_what_fits_by_default() -> None:
    h = Harness(FingerprintRunner(200), 200, max_model_len=30)
    h.submit(prefill("a", A), decode("d", [1, 2], "a"))
    h.run()
    out = h.outcome("d")
    assert out.receipt.generated == 30 - 3 - 2 - 2
    assert out.finish is Finish.LENGTH
    small = Harness(FingerprintRunner(20), 20, max_model_len=100)
    small.submit(prefill("a", A), decode("d", [1, 2], "a"))
    small.run()
    assert small.outcome("d").receipt.generated == 20 - 3 - 2 - 2


def test_a_context_that_is_too_long_fails_when_it_is_known() -> None:
    h = Harness(FingerprintRunner(200), 200, max_model_len=20)
    h.submit(prefill("a", [3] * 12), prefill("b", [4] * 12, "a"), decode("d", [1], "a", max_tokens=6))
    h.run()
    assert reason(h.outcome("b")) == reason(h.outcome("d")) == Reason.CONTEXT_TOO_LONG


def test_deadlines_cover_waiting() -> None:
    h = harness(running=1)
    h.submit(
        decode("long", [3], max_tokens=30),
        prefill("queued", A, timeout=3.0),
        prefill("blocked", A, "long", timeout=4.0),
        prefill("patient", A, "long", timeout=1000.0),
    )
    assert h.scheduler.next_timer == 3.0
    h.run()
    for name, words in (("queued", "queued"), ("blocked", "waiting for parents")):
        failure = h.outcome(name).failure
        assert failure is not None
        assert failure.reason == Reason.DEADLINE_EXCEEDED
        assert words in failure.text
    assert h.outcome("patient").state is State.DONE
    assert h.scheduler.next_timer is None


def test_budgets() -> None:
    h = harness()
    h.scheduler.open("", "small", 12, 1e9, 0.0)
    h.submit(decode("d", A, max_tokens=50), prefill("c", A, "d"), workflow="small")
    h.run()
    out = h.outcome("d", "small")
    assert reason(out) == Reason.BUDGET_EXHAUSTED
    assert reason(h.outcome("c", "small")) == Reason.BUDGET_EXHAUSTED
    assert 8 <= out.receipt.generated <= 10
    with pytest.raises(RequestError) as error:
        h.submit(prefill("more", A), workflow="small")
    assert error.value.reason is Reason.BUDGET_EXHAUSTED
    assert h.scheduler.open("", "small", 100, 1e9, 0.0)
    h.submit(prefill("more", A), workflow="small")
    h.run()
    assert h.outcome("more", "small").state is State.DONE


def test_every_submission_can_be_sent_again() -> None:
    h = harness()
    calls = [prefill("a", A), decode("d", [1], "a", max_tokens=3)]
    h.submit(*calls, *calls)
    h.submit(calls[1])
    h.step()
    h.submit(*calls)
    h.run()
    before = rows(h)
    h.submit(*calls)
    assert not h.step()
    assert rows(h) == before
    with pytest.raises(RequestError) as error:
        h.submit(prefill("a", B), prefill("new", B))
    assert error.value.reason is Reason.ID_REUSED
    h.scheduler.release("", "w", ["a", "d"], h.now)
    h.scheduler.release("", "w", ["a", "d"], h.now)
    h.submit(*calls)  # released, and yet they were done
    with pytest.raises(RequestError, match="no message 'new'"):
        h.outcome("new")
    with pytest.raises(RequestError, match="was released"):
        h.outcome("a")


def test_last_use_releases_when_the_reader_ends() -> None:
    h = harness()
    run(h, prefill("a", A), prefill("b", B))
    h.submit(decode("d", [1], ParentSpec("a", last_use=True), max_tokens=3), prefill("c", C, "a"))
    h.step()
    assert h.outcome("a").state is State.DONE
    h.run()
    assert h.outcome("c").state is State.DONE
    with pytest.raises(RequestError, match="was released"):
        h.outcome("a")


def events_of(h: Harness, spec: Sequence[CallSpec]) -> list[tuple[str, str]]:
    h.scheduler.submit("", "w", spec, h.now)
    seen: list[tuple[str, str]] = []
    while True:
        for event in h.scheduler.take_events().get(("", "w"), []):
            if isinstance(event, StateChanged):
                seen.append((event.id, event.state.value))
            elif isinstance(event, Ended):
                seen.append((event.id, event.outcome.state.value))
        batch = h.scheduler.schedule(h.now)
        if batch is None:
            return seen
        h.scheduler.commit(h.runner.execute(batch), h.now)


def test_states_are_told_in_order() -> None:
    h = harness()
    seen = events_of(h, [prefill("a", A), decode("d", [1], "a", max_tokens=2), prefill("z", A, exact=True)])
    told = {name: [state for i, state in seen if i == name] for name in "adz"}
    assert told == {
        "a": ["queued", "running", "done"],
        "d": ["blocked", "queued", "running", "done"],
        "z": ["done"],
    }


def test_cancel_reaches_descendants_through_calls_that_have_ended() -> None:
    h = harness()
    h.submit(prefill("root", A), prefill("mid", A, "root"))
    h.run()
    h.submit(decode("leaf", [3], "mid", max_tokens=50), prefill("copy", [], copy_of="leaf"), prefill("other", A))
    h.step()
    assert set(h.scheduler.cancel("", "w", ["root"], True, h.now)) == {"leaf", "copy"}
    h.run()
    assert h.outcome("other").state is State.DONE


def test_of_a_workflow_closed_and_opened_again_all_is_told_in_one_list() -> None:
    h = harness()
    h.scheduler.submit("", "w", [decode("a", [1], max_tokens=3)], h.now)
    h.scheduler.close("", "w", h.now)
    h.scheduler.open("", "w", 0, 1e9, h.now)
    h.scheduler.submit("", "w", [decode("b", [1], max_tokens=3)], h.now)
    events = h.scheduler.take_events()
    assert list(events) == [("", "w")]
    kinds = [type(event) for event in events["", "w"]]
    assert kinds.index(Ended) < kinds.index(Closed) < len(kinds) - 1
    assert isinstance(events["", "w"][-1], StateChanged)
    assert h.scheduler.take_events() == {}
