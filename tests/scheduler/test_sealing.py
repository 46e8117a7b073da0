"""Decodes that are sealed early, and decodes that get another attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.harness import FakeRunner, Harness, decode, prefill

from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import Finish, Restarted, State, TokensAdded


@pytest.mark.parametrize("ahead", [False, True])
def test_a_sealed_decode_is_a_shorter_valid_message(ahead: bool) -> None:
    h = Harness(FakeRunner(400), 400, ahead=ahead)
    h.submit(decode("a", [3, 4], max_tokens=100), prefill("reader", [5], "a"))
    for _ in range(4):
        h.step()
    assert h.scheduler.finish("", "w", ["a"], h.now) == ["a"]
    h.run()
    outcome = h.outcome("a")
    assert outcome.finish is Finish.SEALED
    assert 4 <= outcome.receipt.generated <= 6
    assert len(outcome.tokens) == 2 + outcome.receipt.generated + 2, "header, content, trailer"
    assert h.outcome("reader").state is State.DONE
    assert h.scheduler.finish("", "w", ["a"], h.now) == [], "it has ended"


def test_what_cannot_be_sealed() -> None:
    h = Harness(FakeRunner(400), 400, max_running=1)
    h.submit(prefill("p", [3]), decode("a", [3], max_tokens=50), decode("b", [4], max_tokens=50))
    for names, reason in (
        (["p"], Reason.NOT_A_DECODE),
        (["a", "b"], Reason.NOT_STARTED),
        (["c"], Reason.UNKNOWN_MESSAGE),
    ):
        h.step()
        with pytest.raises(RequestError) as caught:
            h.scheduler.finish("", "w", names, h.now)
        assert caught.value.reason is reason
    assert not any(call.to_be_sealed for call in h.scheduler.graph.workflow("", "w").calls.values())
    h.run()
    assert h.outcome("a").finish is Finish.LENGTH


def test_a_preempted_decode_is_sealed_when_it_runs_again() -> None:
    h = Harness(FakeRunner(70), 70, max_running=2)
    h.submit(decode("a", [3], max_tokens=50), decode("b", [4], max_tokens=50))
    while not h.outcome("b").receipt.preemptions:
        assert h.step()
    done = h.outcome("b").receipt.generated
    h.scheduler.finish("", "w", ["b"], h.now)
    h.run()
    assert h.outcome("b").finish is Finish.SEALED
    assert h.outcome("b").receipt.generated == done + 1


def test_a_step_that_fails_is_tried_again_for_calls_with_attempts() -> None:
    h = Harness(FakeRunner(400), 400)
    runner = h.runner
    assert isinstance(runner, FakeRunner)
    calls = [decode("a", [3, 4], max_tokens=6), decode("b", [3, 5], max_tokens=6), prefill("c", [5, 6], "a")]
    h.submit(*[replace(call, max_attempts=3) for call in calls], decode("d", [7], max_tokens=9))
    for at in range(30):
        runner.fail_next = at in (0, 3)
        h.step()
    quiet = Harness(FakeRunner(400), 400)
    quiet.submit(*calls)
    quiet.run()
    for name in ("a", "b", "c"):
        assert h.outcome(name).state is State.DONE
        assert h.outcome(name).tokens == quiet.outcome(name).tokens
        counts = [
            (o.receipt.encoded, o.receipt.in_place, o.receipt.generated) for o in (h.outcome(name), quiet.outcome(name))
        ]
        assert counts[0] == counts[1], "what a failed step encoded is on no receipt"
    assert (h.outcome("a").attempts, quiet.outcome("a").attempts) == (3, 1)
    assert h.outcome("d").state is State.FAILED, "it had one attempt"


def test_the_last_attempt_fails() -> None:
    h = Harness(FakeRunner(400), 400)
    runner = h.runner
    assert isinstance(runner, FakeRunner)
    h.submit(replace(decode("a", [3, 4], max_tokens=6), max_attempts=2))
    for _ in range(2):
        assert h.outcome("a").state is not State.FAILED
        runner.fail_next = True
        h.step()
    failure = h.outcome("a").failure
    assert failure is not None
    assert failure.reason is Reason.RUNNER_FAILED


class DeadEnd(FakeRunner):
    """Finds no token at the third place, for the first seed."""

    def __init__(self, seed: int) -> None:
        super().__init__(400)
        self.seed = seed

    def execute(self, batch):  # type: ignore[no-untyped-def]
        result = super().execute(batch)
        for i in range(batch.samples.count):
            if batch.samples.seeds[i] == self.seed and batch.samples.counters[i] == 2:
                result.tokens[i] = -1
        return result


@pytest.mark.parametrize("header", [[3], [3, 4, 5]])
def test_a_content_with_no_way_on_is_generated_again_from_another_seed(header: list[int]) -> None:
    h = Harness(DeadEnd(seed=11), 400)
    spec = decode("a", header, max_tokens=6, seed=11, frequency_penalty=0.5, stop_ids=frozenset([96]))
    h.submit(replace(spec, max_attempts=2), prefill("reader", [5], "a"))
    events = []
    for _ in range(20):
        h.now += 1
        batch = h.scheduler.schedule(h.now)
        if batch is None:
            break
        h.scheduler.commit(h.runner.execute(batch), h.now)
        events += h.scheduler.take_events().get(("", "w"), [])
        h.audit()
    outcome = h.outcome("a")
    assert outcome.state is State.DONE
    assert outcome.seed != 11
    assert outcome.attempts == 2
    at = next(i for i, event in enumerate(events) if isinstance(event, Restarted))
    assert [e.tokens for e in events[:at] if isinstance(e, TokensAdded)], "what is void had been told"
    after = [token for e in events[at:] if isinstance(e, TokensAdded) for token in e.tokens]
    assert after == list(outcome.tokens[len(header) : len(header) + outcome.receipt.generated])
    alone = Harness(DeadEnd(seed=11), 400)
    alone.submit(decode("a", header, max_tokens=6, seed=outcome.seed, frequency_penalty=0.5, stop_ids=frozenset([96])))
    alone.run()
    assert alone.outcome("a").tokens == outcome.tokens
    assert h.outcome("reader").state is State.DONE
