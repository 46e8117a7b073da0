"""When to send again. Every request of the protocol is idempotent, so that is the only question."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from pavane.clients.errors import DeadlineExceeded, PavaneError, ResourceExhausted, Unavailable


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with jitter. All in seconds, but `factor`.

    `give_up_after` counts from the first failure in a row; 0 means that nothing is sent twice.
    """

    first: float = 0.1
    factor: float = 2.0
    longest: float = 5.0
    give_up_after: float = 60.0


class Backoff:
    """The waits of one request or stream."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._since = 0.0

    def reset(self) -> None:
        """It works again."""
        self._failures = 0

    def wait(self, error: PavaneError) -> float | None:
        """Seconds to wait before sending again; None if that is no use, or has been tried for long enough."""
        if not retriable(error):
            return None
        now = time.monotonic()
        if self._failures == 0:
            self._since = now
        policy = self._policy
        step = min(policy.longest, policy.first * policy.factor**self._failures)
        self._failures += 1
        asked = error.retry_after if isinstance(error, ResourceExhausted) else None
        # Jitter keeps clients that were refused together from coming back together; never earlier than asked.
        delay = random.uniform(step / 2, step) if asked is None else asked + random.uniform(0, step)
        return delay if now + delay - self._since < policy.give_up_after else None


def retriable(error: PavaneError) -> bool:
    """Whether the same request may succeed later. A refusal for lack of room counts only if the server says when, a
    deadline only if it was the request's own."""
    if isinstance(error, ResourceExhausted):
        return error.retry_after is not None
    return isinstance(error, DeadlineExceeded | Unavailable) and not error.refused
