"""What every workflow gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pavane.clients.edges import Edge
from pavane.clients.results import Receipt, Result
from pavane.clients.workflows.setting import Script


@dataclass(frozen=True)
class Outcome:
    """The common part of each workflow's result.

    `messages`: by id, in the order of submission. Those of a vote that was given up are "cancelled", all others "done".
    `parents`: of each message, in their order, with the fidelity that applied; of a group its winners.
    `submitted`: seconds from the start at which each call was handed over; where its time went then is in its receipt.
    `started_at`: the start, in seconds since 1970. `wall`: seconds from the start until the last message was complete.
    """

    workflow: str
    messages: Mapping[str, Result]
    parents: Mapping[str, tuple[Edge, ...]]
    submitted: Mapping[str, float]
    total: Receipt
    started_at: float
    wall: float

    @property
    def answers(self) -> Mapping[str, Result]:
        """The messages that were generated and are complete."""
        return {i: m for i, m in self.messages.items() if m.finish and m.state == "done"}

    def script(self) -> Script:
        """To run the same once more with `Setting(script=...)`: each answer's content."""
        return {i: m.content for i, m in self.answers.items()}


def header(message: Result) -> tuple[int, ...]:
    """The tokens before the generated ones: of an answer its header with the forced beginning, all of a prefill."""
    if not message.finish:
        return message.tokens
    return message.tokens[: len(message.tokens) - len(message.content) - message.receipt.trailer]
