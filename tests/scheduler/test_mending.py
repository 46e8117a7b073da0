"""Calls whose parents have to be encoded again piece by piece, in a pool that has not room for all pieces' inputs."""

from support.fingerprint import FingerprintRunner
from support.harness import Harness, decode, prefill

from pavane.scheduler.spec import State


def test_waiting_for_room_does_not_use_up_attempts() -> None:
    """Each of two parents saw a long document; other calls hold the pool for many steps before the first is mended."""
    h = Harness(FingerprintRunner(150), 150, max_running=3)
    for document, note, token in (("x", "a", 3), ("y", "b", 4)):
        h.submit(prefill(document, [token] * 60))
        h.run()
        h.submit(prefill(note, [token + 2] * 30, document))
        h.run()
        h.scheduler.release("", "w", [document], h.now)
    h.cache.evict(150)
    h.submit(*(decode(f"other{i}", [7 + i] * 10, max_tokens=60, seed=i, trailer=()) for i in range(4)))
    h.submit(decode("c", [9] * 10, "a", "b", max_tokens=2, trailer=()))
    h.run()
    outcome = h.outcome("c")
    assert outcome.state is State.DONE
    assert outcome.receipt.reencoded == 2 * (60 + 30), "each piece once"
