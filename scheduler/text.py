"""What the scheduler, which knows no text, asks of those who do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pavane.kernels.batch import UInt32


class ConstraintState(Protocol):
    """How far the content of one decode has come in what it must be."""

    def advance(self, token: int) -> None:
        """One more token of the content."""
        ...

    @property
    def satisfied(self) -> bool:
        """The content may end here."""
        ...

    @property
    def complete(self) -> bool:
        """Nothing may follow: the content ends here, or, with an `error`, cannot go on."""
        ...

    @property
    def error(self) -> str:
        """Why the constraint cannot be followed any further; empty while it can."""
        ...


class Constraint(Protocol):
    """What the content of a decode must be, compiled."""

    def start(self, end_ids: frozenset[int]) -> ConstraintState:
        """For a new content, which the tokens `end_ids` end, where it may end."""
        ...


class StopMatcher(Protocol):
    """Watches one decode for its stop strings."""

    def push(self, token: int) -> tuple[int, ...] | None:
        """None, or the content tokens that remain once the text is cut where a stop string begins."""
        ...


class TextRules(Protocol):
    """All of it."""

    def matcher(self, stop: tuple[str, ...], beginning: str) -> StopMatcher: ...

    def masks(self, states: Sequence[ConstraintState]) -> tuple[UInt32, Callable[[], None]]:
        """The tokens that may come next, as `Samples.masks` has them, and a function that waits until they are there.
        None of the states may be advanced before that."""
        ...
