"""What a step that fails leaves on receipts."""

from dataclasses import replace

from support.harness import FakeRunner, Harness, decode

from pavane.scheduler.spec import State


def test_what_is_encoded_again_in_a_step_that_fails_was_encoded_before() -> None:
    """The first time is the one that counts, also after the KV was evicted and encoding it again failed."""
    runner = FakeRunner(60)
    h = Harness(runner, 60)
    h.submit(replace(decode("d", [3, 4, 5], max_tokens=6), max_attempts=2))
    for _ in range(3):
        h.step()
    (call,) = h.scheduler.running
    h.scheduler._steps._preempt(call)
    h.cache.evict(60)
    runner.fail_next = True
    h.run()
    receipt = h.outcome("d").receipt
    assert h.outcome("d").state is State.DONE
    assert (receipt.in_place, receipt.encoded, receipt.generated, receipt.trailer) == (0, 3, 6, 2)
    assert receipt.reencoded == 5, "the header and two tokens of the answer, once"
    assert h.scheduler.graph.workflow("", "w").spent == 3 + 6 + 2
