"""Where attention goes, by the float64 oracle."""

import torch

from pavane.kernels.reference import rope
from pavane.models import reference
from pavane.scheduler.attention import BOS, OWN
from pavane.scheduler.spec import CallSpec
from support.oracle import GraphOracle


class Weights:
    """While it is entered, what the oracle's attention weighs: float64 [n, m] for each layer, mean over the heads."""

    def __enter__(self) -> list[torch.Tensor]:
        self.plain = reference.attend
        layers: list[torch.Tensor] = []

        def attend(
            q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_at: torch.Tensor, k_at: torch.Tensor,
            visible: torch.Tensor, frequencies: torch.Tensor,
        ) -> torch.Tensor:  # fmt: skip
            keys = rope(k, k_at, frequencies).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            scores = torch.einsum("nhd,mhd->hnm", rope(q, q_at, frequencies), keys) / q.shape[-1] ** 0.5
            layers.append(scores.masked_fill(~visible, float("-inf")).softmax(dim=-1).mean(dim=0))
            return self.plain(q, k, v, q_at, k_at, visible, frequencies)

        reference.attend = attend
        return layers

    def __exit__(self, *_: object) -> None:
        reference.attend = self.plain


def masses(oracle: GraphOracle, spec: CallSpec) -> dict[str, float]:
    """By name, over the rows that the content's tokens follow; `spec` is added to the oracle."""
    with Weights() as layers:
        told = oracle.add(spec)
    depth = oracle.model.config.num_layers
    begin, end = told.content
    rows = torch.stack(layers[-depth:])[:, begin - 1 : end - 1].mean(dim=(0, 1))
    lengths = {BOS: 1} if oracle.bos is not None else {}
    lengths |= {edge.id: len(oracle.messages[edge.id].tokens) for edge in spec.parents}
    lengths[OWN] = len(told.tokens)
    assert len(rows) == sum(lengths.values())
    return {name: float(part.sum()) for name, part in zip(lengths, rows.split([*lengths.values()]), strict=True)}
