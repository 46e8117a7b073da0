"""Calls of a benchmark: tokens that no two messages share, answers of exactly as many tokens as they should have."""

from __future__ import annotations

import itertools

from pavane.bench.simulation.tokens import FIRST, ORDINARY
from pavane.scheduler.spec import CallSpec, DecodeSpec, ParentSpec

HEADER = 8  # tokens


class Calls:
    """Makes them; ids are given, and texts differ from their first token on. `vocabulary` bounds the tokens."""

    def __init__(self, vocabulary: int) -> None:
        self._ordinary = min(ORDINARY, vocabulary - 1) - 1
        self._first = min(FIRST, vocabulary - 1 - self._ordinary)
        self._numbers = itertools.count(1)

    def text(self, id: str, length: int, parents: tuple[str, ...] = (), *, exact: bool = False) -> CallSpec:
        """A Prefill. With `exact` all its edges are EXACT, and so is it itself."""
        n = next(self._numbers)
        edges = tuple(ParentSpec(parent, exact=exact) for parent in parents)
        return CallSpec(id, _digest(n), tokens=self._tokens(n, length), parents=edges, exact=exact)

    def answer(
        self, id: str, length: int, parents: tuple[str, ...] = (), *, header: int = HEADER, exact: bool = False
    ) -> CallSpec:
        """A Decode, greedy, that no token ends before its time."""
        n = next(self._numbers)
        edges = tuple(ParentSpec(parent, exact=exact) for parent in parents)
        decode = DecodeSpec(seed=n, max_tokens=length, temperature=0.0)
        return CallSpec(id, _digest(n), tokens=self._tokens(n, header), decode=decode, parents=edges)

    def _tokens(self, n: int, length: int) -> tuple[int, ...]:
        first = self._first
        numbers = (n % self._ordinary, n // self._ordinary % self._ordinary)[:length]
        rest = ((n * 7919 + i * (2 * n + 1)) % self._ordinary for i in range(length - len(numbers)))
        return tuple(first + x for x in (*numbers, *rest))


def _digest(n: int) -> bytes:
    return n.to_bytes(8, "big")
