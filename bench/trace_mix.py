"""The graphs that a trace is mixed from: parallel debates, trees of thoughts, RAG teams, plain chats.

Lengths of texts and answers are log-normal around a mean; answers are cut at max_tokens, which is therefore a poor
estimate of them, as it is in practice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

SPREAD = 0.6  # sigma of the logarithm of a length
SHORTEST, LONGEST = 4, 8192
HEADER = 8  # tokens that open a turn of the model


@dataclass(frozen=True, slots=True)
class GroupRow:
    """The first `need` of `members` that are done, in their order here."""

    id: str
    members: tuple[str, ...]
    need: int


@dataclass
class Graph:
    """Calls of one workflow as they are drawn; parents come before their children."""

    rng: random.Random
    calls: list[dict[str, Any]] = field(default_factory=list)
    groups: list[GroupRow] = field(default_factory=list)

    def length(self, mean: float) -> int:
        drawn = self.rng.lognormvariate(math.log(mean) - SPREAD**2 / 2, SPREAD)
        return min(LONGEST, max(SHORTEST, round(drawn)))

    def text(self, name: str, tokens: int, parents: Sequence[str] = ()) -> str:
        self.calls.append({"id": name, "parents": list(parents), "prefill": tokens})
        return name

    def answer(self, name: str, parents: Sequence[str], mean: float, limit: int) -> str:
        tokens = min(limit, self.length(mean))
        row = {"id": name, "parents": list(parents), "header": HEADER, "decode": tokens, "max_tokens": limit}
        self.calls.append(row)
        return name


def debate(graph: Graph) -> None:
    """Two to six agents answer, then one to three times read their own answers and the others' last ones."""
    agents, rounds = graph.rng.randint(2, 6), graph.rng.randint(1, 3)
    graph.text("start", graph.length(250))
    graph.text("debate", 60)
    said = [[graph.answer(f"a{i}r0", ["start"], 260, 512)] for i in range(agents)]
    for turn in range(1, rounds + 1):
        last = [own[-1] for own in said]
        for i, own in enumerate(said):
            heard = [*last[:i], *last[i + 1 :]]
            graph.answer(f"a{i}r{turn}", ["start", *own, "debate", *heard], 260, 512)
        for i, own in enumerate(said):
            own.append(f"a{i}r{turn}")


def tree(graph: Graph) -> None:
    """Ideas from one prompt, votes on all of them, and an end that reads the first three votes and one idea."""
    ideas, voters = graph.rng.randint(3, 8), graph.rng.randint(3, 8)
    for name in ("propose", "vote", "finish"):
        graph.text(name, graph.length(220))
    proposed = [graph.answer(f"p{i}", ["propose"], 300, 512) for i in range(ideas)]
    votes = [graph.answer(f"v{i}", ["vote", *proposed], 90, 256) for i in range(voters)]
    graph.answer("final", ["finish", "quorum", graph.rng.choice(proposed)], 160, 256)
    graph.groups.append(GroupRow("quorum", tuple(votes), 3))


def rag(graph: Graph) -> None:
    """Agents with roles read documents, each its own ones in its own order; a judge reads all answers."""
    documents = [f"d{i}" for i in range(graph.rng.randint(3, 8))]
    agents = graph.rng.randint(2, 6)
    for name in documents:
        graph.text(name, graph.length(900))
    graph.text("q", 40)
    graph.text("judge", 60)
    answers = []
    for i in range(agents):
        order = graph.rng.sample(documents, k=graph.rng.randint(2, len(documents)))
        role = graph.text(f"role{i}", 70)
        answers.append(graph.answer(f"ans{i}", [role, *order, "q"], 120, 256))
    graph.answer("verdict", ["judge", *answers], 120, 256)


def chat(graph: Graph) -> None:
    """One to four turns, each after all before it."""
    seen = [graph.text("system", graph.length(150))]
    for turn in range(graph.rng.randint(1, 4)):
        seen.append(graph.text(f"u{turn}", graph.length(120), seen))
        seen.append(graph.answer(f"r{turn}", seen, 220, 1024))


# Share in percent, and what draws the graph.
KINDS: dict[str, tuple[int, Callable[[Graph], None]]] = {
    "debate": (35, debate),
    "tree": (25, tree),
    "rag": (20, rag),
    "chat": (20, chat),
}
