"""Whether it is cheaper to move KV to a tier and back than to encode it again, by what both have taken so far."""

from __future__ import annotations

FORGET = 0.98  # what an observation counts is multiplied by this with each later one
STEADY_ROWS = 32  # encoding is as fast as it gets from so many rows on; a step of few rows says nothing of it
TRY_AGAIN = 64  # so often KV is moved though it does not seem worth while: the measurement may have become wrong


class Rate:
    """Tokens per second: a mean that forgets, and begins with a guess that counts like an observation of a tenth of a
    second."""

    def __init__(self, guess: float) -> None:
        self._seconds = 0.1
        self._tokens = guess * self._seconds

    def observe(self, tokens: int, seconds: float) -> None:
        self._tokens = FORGET * self._tokens + tokens
        self._seconds = FORGET * self._seconds + seconds

    @property
    def seconds_per_token(self) -> float:
        return self._seconds / self._tokens


class Costs:
    """Rates of moving out, moving in and encoding."""

    def __init__(self, token_bytes: int, *, bytes_per_s: float = 2e9, encoded_per_s: float = 1000.0) -> None:
        """`bytes_per_s` and `encoded_per_s` are guesses: half of what one core was measured to move, and what a small
        model is encoded with on a few."""
        self.out = Rate(bytes_per_s / token_bytes)
        self.back = Rate(bytes_per_s / token_bytes)
        self.encode = Rate(encoded_per_s)
        self._declined = 0

    def observe_step(self, rows: int, seconds: float) -> None:
        """A forward pass."""
        if rows >= STEADY_ROWS:
            self.encode.observe(rows, seconds)

    def observe_moves(self, out_tokens: int, out_s: float, in_tokens: int, in_s: float) -> None:
        if out_tokens:
            self.out.observe(out_tokens, out_s)
        if in_tokens:
            self.back.observe(in_tokens, in_s)

    def worth_moving(self) -> bool:
        moving = self.out.seconds_per_token + self.back.seconds_per_token
        if moving < self.encode.seconds_per_token:
            return True
        self._declined += 1
        return self._declined % TRY_AGAIN == 0
