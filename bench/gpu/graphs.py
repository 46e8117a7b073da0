"""Workflows as graphs of calls: what a debate, a tree of thoughts and a team of readers compute, in lengths."""

from __future__ import annotations

from pavane.bench.gpu.calls import Calls
from pavane.bench.gpu.sizes import Sizes
from pavane.scheduler.spec import CallSpec

QUESTION = 64  # tokens


def debate(calls: Calls, agents: int, sizes: Sizes, *, exact: bool) -> list[CallSpec]:
    """Everybody answers the question, then reads all answers of the round before, the own one first, and answers
    again."""
    length = sizes.answer
    graph = [calls.text("question", QUESTION, exact=exact)]
    graph += [calls.answer(f"a{agent}r0", length, ("question",), exact=exact) for agent in range(agents)]
    for turn in range(1, sizes.debate_rounds):
        for agent in range(agents):
            heard = tuple(f"a{(agent + other) % agents}r{turn - 1}" for other in range(agents))
            graph.append(calls.answer(f"a{agent}r{turn}", length, ("question", *heard), exact=exact))
    return graph


def tree(calls: Calls, branches: int, votes: int, sizes: Sizes, *, exact: bool) -> list[CallSpec]:
    """Thoughts about the question, votes that read all of them in orders of their own, and then the same once more
    below the first thought, which stands for the one that won."""
    graph = [calls.text("question", QUESTION, exact=exact)]
    above: tuple[str, ...] = ("question",)
    for level in range(2):
        thoughts = [f"t{level}.{i}" for i in range(branches)]
        graph += [calls.answer(thought, sizes.thought, above, exact=exact) for thought in thoughts]
        for vote in range(votes):
            turned = tuple(thoughts[(vote + i) % branches] for i in range(branches))
            graph.append(calls.answer(f"v{level}.{vote}", sizes.vote, (*above, *turned), exact=exact))
        above = (*above, thoughts[0])
    return graph


def rag(calls: Calls, sizes: Sizes, *, exact: bool) -> list[CallSpec]:
    """Each agent reads all documents, in an order of its own, and answers."""
    documents = [f"d{i}" for i in range(sizes.rag_documents)]
    graph = [calls.text(document, sizes.rag_document, exact=exact) for document in documents]
    for agent in range(sizes.rag_agents):
        turned = tuple(documents[(agent + i) % len(documents)] for i in range(len(documents)))
        graph.append(calls.answer(f"a{agent}", sizes.rag_answer, turned, exact=exact))
    return graph
