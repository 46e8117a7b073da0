"""Text rules without a tokenizer: a token is a letter, a constraint a list of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pavane.kernels.batch import UInt32
from pavane.scheduler.text import ConstraintState

A = 3  # the token of "a"
VOCAB = 97


def spelled(text: str) -> tuple[int, ...]:
    return tuple(A + ord(letter) - ord("a") for letter in text)


@dataclass(frozen=True)
class OneOf:
    """The content is one of the texts. It breaks, as one that is too costly does, after the text `breaks`."""

    texts: tuple[str, ...]
    breaks: str | None = None

    def start(self, end_ids: frozenset[int]) -> _State:
        return _State(self, end_ids)


class _State:
    def __init__(self, rule: OneOf, end_ids: frozenset[int]) -> None:
        self._rule = rule
        self._end_ids = end_ids
        self._content: tuple[int, ...] = ()

    def advance(self, token: int) -> None:
        self._content += (token,)

    def next(self) -> frozenset[int]:
        n = len(self._content)
        texts = [spelled(text) for text in self._rule.texts]
        more = frozenset(t[n] for t in texts if t[:n] == self._content and len(t) > n)
        return frozenset() if self.error else more | (self._end_ids if more and self.satisfied else frozenset())

    @property
    def satisfied(self) -> bool:
        return not self.error and self._content in map(spelled, self._rule.texts)

    @property
    def complete(self) -> bool:
        return not self.next()

    @property
    def error(self) -> str:
        return "too costly" if self._rule.breaks is not None and self._content == spelled(self._rule.breaks) else ""


class Letters:
    """Stop strings and constraints over letters. Masks are filled as late as they may be."""

    def __init__(self) -> None:
        self.waited = 0

    def matcher(self, stop: tuple[str, ...], beginning: str) -> _Stops:
        return _Stops([spelled(s) for s in stop], spelled(beginning))

    def masks(self, states: Sequence[ConstraintState]) -> tuple[UInt32, Callable[[], None]]:
        masks = np.zeros((len(states), (VOCAB + 31) // 32), dtype=np.uint32)

        def ready() -> None:
            self.waited += 1
            for state, mask in zip(states, masks, strict=True):
                assert isinstance(state, _State)
                for token in state.next():
                    mask[token // 32] |= np.uint32(1 << token % 32)

        return masks, ready


class _Stops:
    def __init__(self, stops: list[tuple[int, ...]], beginning: tuple[int, ...]) -> None:
        self._stops = stops
        self._before = len(beginning)
        self._text = beginning

    def push(self, token: int) -> tuple[int, ...] | None:
        self._text += (token,)
        ended = [len(self._text) - len(s) for s in self._stops if self._text[-len(s) :] == s]
        return self._text[self._before : max(self._before, min(ended))] if ended else None
