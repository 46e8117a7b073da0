"""How far a run's answers are from those that exact edges would give, edge by edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pavane.clients import Client, Layout
from pavane.clients.workflows import Outcome
from pavane.clients.workflows.outcome import header


@dataclass(frozen=True)
class Divergence:
    """Of one answer, means over its tokens: KL(all edges EXACT || its own) in nats, how often the likeliest token is
    the same, and by how much the KL falls if this one parent is read EXACT."""

    call: str
    kl: float
    top1_agreement: float
    kl_by_parent: Mapping[str, float]


async def divergences(client: Client, outcome: Outcome, layout: Layout = "packed") -> list[Divergence]:
    """Scores all answers of a run that read anything, in a workflow of its own.

    Its messages are encoded again as given tokens, each behind the parents that it had: that gives the encodings of the
    run, up to rounding, without its steps. Raises PavaneError.
    """
    found: list[Divergence] = []
    async with client.workflow() as wf:
        for i, message in outcome.messages.items():
            if message.state == "done":
                parents = [edge.id for edge in outcome.parents[i]]
                wf.prefill(*parents, id=i, tokens=message.tokens, layout=layout)
        for i, answer in outcome.answers.items():
            parents = [edge.id for edge in outcome.parents[i]]
            if not parents or not answer.content:
                continue
            score = await wf.score(
                *parents,
                ids=answer.content,
                header_tokens=header(answer),
                id=f"score-{len(found)}",
                layout=layout,
                per_parent=True,
            )
            found.append(Divergence(i, score.mean_kl, score.top1_agreement, dict(score.kl_by_parent)))
    return found
