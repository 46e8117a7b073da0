"""How calls have ended, put into words: what is long, when somebody asks, and beside the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from pavane.protos.v1 import pavane_pb2 as pb
from pavane.scheduler.spec import Ended, Outcome, State
from pavane.server.convert import outcome_message
from pavane.server.text.tokenizer import PIECE, Tokenizer


async def message_of(outcome: Outcome, tokenizer: Tokenizer) -> pb.Message:
    """What is long is made in a thread."""
    if not _is_long(outcome):
        return outcome_message(outcome, tokenizer)
    return await asyncio.to_thread(outcome_message, outcome, tokenizer, pause=_let_others)


class End:
    """The end of a call in a journal."""

    def __init__(self, event: Ended, cursor: int, tokenizer: Tokenizer) -> None:
        self.cursor = cursor
        self._id = event.id
        self._outcome: Outcome | None = event.outcome  # until it is told
        self._tokenizer = tokenizer
        self._told: pb.Event | None = None
        self._telling: asyncio.Task[None] | None = None
        if not _is_long(event.outcome):
            self.told()

    @property
    def long(self) -> bool:
        """`make` first, or `told` takes its time."""
        return self._told is None

    async def make(self) -> None:
        """Does what `told` needs in a thread, once for all who wait."""
        if self._telling is None:
            self._telling = asyncio.create_task(asyncio.to_thread(self._tell, _let_others))
        await asyncio.shield(self._telling)

    def told(self) -> pb.Event:
        """The event, the same each time."""
        if self._told is None:
            self._tell(lambda: None)
        assert self._told is not None
        return self._told

    def _tell(self, pause: Callable[[], None]) -> None:
        outcome = self._outcome
        if outcome is None:
            return
        told = pb.Event(cursor=self.cursor, id=self._id)
        done = outcome.state is State.DONE
        outcome_message(outcome, self._tokenizer, into=told.done if done else told.failed, pause=pause)
        self._told, self._outcome = told, None


def _is_long(outcome: Outcome) -> bool:
    return len(outcome.tokens) > PIECE


def _let_others() -> None:
    """The event loop need not wait for the interval after which Python switches threads."""
    time.sleep(0)
