"""One workflow being run: what was sent, until all of it is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

from pavane.clients.client import Client
from pavane.clients.edges import Edge
from pavane.clients.errors import CallCancelled
from pavane.clients.message import Message
from pavane.clients.results import Result
from pavane.clients.workflow import Workflow
from pavane.clients.workflows.calls import Calls
from pavane.clients.workflows.outcome import Outcome
from pavane.clients.workflows.problem import Problem
from pavane.clients.workflows.setting import Prompts, Setting
from pavane.clients.workflows.sizes import Sizes

O = TypeVar("O", bound=Outcome)  # noqa: E741


class Follow(Protocol):
    """Who wants to see the calls as they are made; each may be read as it is written."""

    def on_message(self, message: Message) -> None:
        """A call was handed over. Must not block."""


class Run(Calls[Message]):
    """`async with Run(...) as run:` opens a workflow, leaves it when every message is complete, and closes it.

    Raises ValueError before anything is submitted if the answers alone are longer than the server's context.
    """

    def __init__(
        self,
        name: str,
        client: Client,
        problem: Problem,
        sizes: Sizes,
        setting: Setting,
        own: Prompts,
        follow: Follow | None,
    ) -> None:
        self._workflow: Workflow = client.workflow()
        super().__init__(self._workflow, setting, own)
        self._name = name
        self._client = client
        self._problem, self._sizes = problem, sizes
        self._follow = follow
        self._messages: dict[str, Message] = {}
        self._submitted: dict[str, float] = {}
        self._results: dict[str, Result] = {}
        self._may_be_cancelled: set[str] = set()
        self._begin = self._started_at = self._wall = 0.0

    async def __aenter__(self) -> Self:
        await self._check_length()
        self._started_at, self._begin = time.time(), time.perf_counter()
        await self._workflow.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for message in self._messages.values():
                    self._results[message.id] = await self._end(message)
                self._wall = time.perf_counter() - self._begin
        finally:
            await self._workflow.__aexit__(kind, error, trace)

    async def first(self, messages: Sequence[Message], need: int) -> list[Result]:
        """Waits until `need` of the messages are done and gives up the rest: all that are done, in their order."""
        if need < len(messages):
            self._workflow.group(*messages, need=need, cancel_rest=True)
            self._may_be_cancelled.update(message.id for message in messages)
        ends = [await self._end(message) for message in messages]
        return [end for end in ends if end.state == "done"]

    def outcome(self, made: Callable[..., O], **own: object) -> O:
        """The typed result, after the end: the common part and the workflow's own fields."""
        parents = {
            i: tuple(
                Edge(use.id, fidelity="exact" if use.fidelity == "exact" else "reuse") for use in r.receipt.parents
            )
            for i, r in self._results.items()
        }
        return made(
            workflow=self._name,
            messages=self._results,
            parents=parents,
            submitted=self._submitted,
            total=self._workflow.total,
            started_at=self._started_at,
            wall=self._wall,
            **own,
        )

    def _sent(self, message: Message) -> Message:
        self._messages[message.id] = message
        self._submitted[message.id] = time.perf_counter() - self._begin
        if self._follow is not None:
            self._follow.on_message(message)
        return message

    async def _end(self, message: Message) -> Result:
        try:
            return await message
        except CallCancelled as cancelled:
            if message.id not in self._may_be_cancelled:
                raise
            return cancelled.result

    async def _check_length(self) -> None:
        context = (await self._client.server_info()).max_model_len
        answers = self._sizes.longest()
        given = len(await self._client.tokenize(text=self._problem.text()))
        if answers + given > context:
            raise ValueError(
                f"the longest call reads and writes up to {answers} tokens of answers, and the problem has {given}; "
                f"the server's context is {context}: make sizes smaller, or serve with a larger --max-model-len"
            )
