"""What a peer says of one completion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """Seconds from the request to the first token and to the last, and the tokens, where the peer tells them. `read`:
    tokens of the prompt as the peer counts them, where that need not be those it was given."""

    first_token: float
    total: float
    tokens: Sequence[int] | None = None
    read: int | None = None
