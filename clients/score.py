"""What the model thinks of known content, under two fidelities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pavane.clients.checks import choice, token_ids
from pavane.clients.edges import FIDELITIES, Fidelity
from pavane.clients.results import Receipt, receipt
from pavane.protos.v1 import pavane_pb2 as pb


@dataclass(frozen=True, slots=True)
class Score:
    """By teacher forcing, for each of `tokens`: its log-probability under the call's own fidelity and under the
    reference, KL(reference || own) over the whole vocabulary in nats, and the likeliest token of both.

    `top1_agreement` is the share of places where the likeliest tokens are the same. `kl_by_parent`, if asked for: for
    each REUSE parent the mean KL less that of the call with this one parent EXACT; more than 0 says that its reuse
    hurts. `receipt` is what the score cost, summed over its passes.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    against_logprobs: tuple[float, ...]
    kl: tuple[float, ...]
    top_tokens: tuple[int, ...]
    against_top_tokens: tuple[int, ...]
    top1_agreement: float
    kl_by_parent: Mapping[str, float]
    receipt: Receipt

    @property
    def mean_kl(self) -> float:
        """In nats per token."""
        return sum(self.kl) / len(self.kl)


def score_request(
    workflow_id: str, call: pb.Call, ids: Sequence[int] | None, against: Fidelity, per_parent: bool
) -> pb.ScoreRequest:
    """The request. Raises ValueError or TypeError with what to change."""
    request = pb.ScoreRequest(workflow_id=workflow_id, call=call, per_parent=per_parent)
    request.against = choice("against", against, FIDELITIES)
    if ids is not None:
        request.ids.extend(token_ids("ids", ids))
    return request


def score_result(answer: pb.ScoreResponse) -> Score:
    """The typed form of the answer."""
    return Score(
        tokens=tuple(answer.tokens),
        logprobs=tuple(answer.logprobs),
        against_logprobs=tuple(answer.against_logprobs),
        kl=tuple(answer.kl),
        top_tokens=tuple(answer.top_tokens),
        against_top_tokens=tuple(answer.against_top_tokens),
        top1_agreement=answer.top1_agreement,
        kl_by_parent=dict(answer.kl_by_parent),
        receipt=receipt(answer.receipt),
    )
