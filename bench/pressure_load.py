"""A load that comes back to what it has stored: debates, teams that read documents, and chats, turn after turn.

All take their turn before anybody takes the next, as if people had to answer in between: whatever was stored is asked
for again after everything else was.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Protocol

from pavane.clients import Client, Fidelity, Message, Result, Workflow

WORDS = (
    "river market signal winter letter engine garden bridge copper island harbour summer teacher window mountain paper "
    "silver cloud forest number village answer circle morning history weather station library captain orange because "
    "before under while every other never often across among without should could would found built carried counted"
)
AGENTS = 3
DOCUMENTS = 4  # that a team reads


@dataclass(frozen=True)
class Scale:
    """How many of each, how many turns each takes, and the length of passages and answers."""

    debates: int
    teams: int
    chats: int
    turns: int
    words: int  # of a passage: about as many tokens
    tokens: int  # of an answer, exactly


@dataclass(frozen=True)
class Answer:
    """A decode's result, and the answers that it has read."""

    result: Result
    reads: tuple[str, ...]


@dataclass
class Record:
    """All answers by name, in the order in which they were asked for."""

    answers: dict[str, Answer] = field(default_factory=dict)
    _waiting: dict[str, tuple[Message, tuple[str, ...]]] = field(default_factory=dict)

    def ask(self, wf: Workflow, name: str, *parents: Message, exact: bool = False, tokens: int) -> Message:
        """A greedy answer to `parents`, and the likeliest two tokens at each place of it."""
        known = {id(message): key for key, (message, _) in self._waiting.items()}
        reads = tuple(known[id(parent)] for parent in parents if id(parent) in known)
        message = wf.decode(
            *parents, max_tokens=tokens, temperature=0.0, ignore_eos=True, logprobs=2,
            fidelity="exact" if exact else "reuse",
        )  # fmt: skip
        self._waiting[name] = message, reads
        return message

    async def wait(self) -> None:
        for name, (message, reads) in list(self._waiting.items()):
            if name not in self.answers:
                self.answers[name] = Answer(await message, reads)


class Party(Protocol):
    async def turn(self, number: int) -> None: ...


@dataclass
class Debate:
    """Each agent reads the question and the last answers, its own first."""

    wf: Workflow
    name: str
    scale: Scale
    record: Record
    last: list[Message] = field(default_factory=list)

    async def turn(self, number: int) -> None:
        if not number:
            self.roles = [self.wf.prefill(system=passage(self.name, i, words=8)) for i in range(AGENTS)]
            self.question = self.wf.prefill(user=passage(self.name, words=self.scale.words))
        self.last = [
            self.record.ask(
                self.wf, f"{self.name}.{number}.{i}", role, self.question, *self.last[i:], *self.last[:i],
                tokens=self.scale.tokens,
            )
            for i, role in enumerate(self.roles)
        ]  # fmt: skip
        await self.record.wait()


@dataclass
class Team:
    """Readers go through the same documents in different orders; one sums up what they say. Neighbours share documents
    with each other."""

    wf: Workflow
    name: str
    scale: Scale
    record: Record
    first: int

    async def turn(self, number: int) -> None:
        if not number:
            self.documents = [
                self.wf.prefill(user=passage("document", self.first + i, words=self.scale.words))
                for i in range(DOCUMENTS)
            ]
        question = self.wf.prefill(user=passage(self.name, number, words=6))
        notes = []
        for i in range(AGENTS):
            order = random.Random(f"{self.name}.{number}.{i}").sample(self.documents, DOCUMENTS - 1)
            name = f"{self.name}.{number}.{i}"
            notes.append(self.record.ask(self.wf, name, *order, question, tokens=self.scale.tokens))
        name = f"{self.name}.{number}.sum"
        self.record.ask(self.wf, name, *notes, question, tokens=self.scale.tokens)
        await self.record.wait()


@dataclass
class Chat:
    """A user and an answer in turn, behind all that was said; `exact` as in any chat server."""

    wf: Workflow
    name: str
    scale: Scale
    record: Record
    exact: bool
    said: list[Message] = field(default_factory=list)

    async def turn(self, number: int) -> None:
        fidelity: Fidelity = "exact" if self.exact else "reuse"
        if not number:
            self.said = [self.wf.prefill(system=passage(self.name, words=self.scale.words), fidelity=fidelity)]
        text = passage(self.name, number, words=self.scale.words // 2)
        self.said.append(self.wf.prefill(*self.said, user=text, fidelity=fidelity))
        name = f"{self.name}.{number}"
        self.said.append(self.record.ask(self.wf, name, *self.said, exact=self.exact, tokens=self.scale.tokens))
        await self.record.wait()


def passage(*seed: object, words: int) -> str:
    """Words without much sense; the same for the same seed."""
    return " ".join(random.Random(repr(seed)).choices(WORDS.split(), k=words)).capitalize() + "."


async def run_load(client: Client, scale: Scale) -> dict[str, Answer]:
    """All turns of all; workflows stay open to the end. Raises CallFailed if a call did."""
    record = Record()
    async with AsyncExitStack() as stack:
        parties: list[Party] = []
        for kind, count in (("debate", scale.debates), ("team", scale.teams), ("chat", scale.chats)):
            for i in range(count):
                wf = await stack.enter_async_context(client.workflow())
                name = f"{kind}{i}"
                if kind == "debate":
                    parties.append(Debate(wf, name, scale, record))
                elif kind == "team":
                    parties.append(Team(wf, name, scale, record, first=i * (DOCUMENTS - 1)))
                else:
                    parties.append(Chat(wf, name, scale, record, exact=i % 2 == 1))
        for number in range(scale.turns):
            await asyncio.gather(*(party.turn(number) for party in parties))
    return record.answers
