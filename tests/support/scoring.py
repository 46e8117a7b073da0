"""What a score must say, by the float64 oracle."""

from dataclasses import replace

import pytest
import torch

from pavane.scheduler.scoring import Score
from pavane.scheduler.spec import CallSpec
from support.oracle import GraphOracle


class Told:
    """What the oracle says of a call, with other edges EXACT than it asked for."""

    def __init__(self, oracle: GraphOracle, spec: CallSpec, exact: tuple[bool, ...]) -> None:
        edges = tuple(replace(edge, exact=flag) for edge, flag in zip(spec.parents, exact, strict=True))
        told = oracle.add(replace(spec, id="told", parents=edges))
        begin, end = told.content
        self.log_p = told.encoding.logits[begin - 1 : end - 1].log_softmax(dim=-1)
        self.logprobs = self.log_p.gather(1, torch.tensor(told.tokens[begin:end])[:, None])[:, 0]

    def kl(self, other: "Told") -> torch.Tensor:
        """KL(self || other) by token."""
        return (self.log_p.exp() * (self.log_p - other.log_p)).sum(dim=-1)


def check_score(
    score: Score, oracle: GraphOracle, spec: CallSpec, against_exact: bool, atol: float
) -> tuple[float, float]:
    """All that a score with `per_parent` says of the call. Returns the largest error of a log-probability and of a
    KL."""
    edges = tuple(edge.exact for edge in spec.parents)
    own = Told(oracle, spec, edges)
    reference = Told(oracle, spec, (against_exact,) * len(edges))
    errors = [
        (torch.tensor(got, dtype=torch.float64) - wanted).abs().max().item()
        for got, wanted in (
            (score.logprobs, own.logprobs),
            (score.against_logprobs, reference.logprobs),
            (score.kl, reference.kl(own)),
        )
    ]
    assert max(errors) < atol
    assert score.tokens == spec.decode.forced  # type: ignore[union-attr]
    same = own.log_p.argmax(dim=-1) == reference.log_p.argmax(dim=-1)
    assert score.top1_agreement == pytest.approx(float(same.double().mean()))
    assert [name for name, _ in score.kl_by_parent] == [edge.id for edge in spec.parents if not edge.exact]
    for i, edge in enumerate(spec.parents):
        if not edge.exact:
            mended = Told(oracle, spec, (*edges[:i], True, *edges[i + 1 :]))
            wanted = (reference.kl(own) - reference.kl(mended)).mean()
            assert dict(score.kl_by_parent)[edge.id] == pytest.approx(float(wanted), abs=atol)
    return max(errors[:2]), errors[2]
