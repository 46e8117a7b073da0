"""What the semantics say about a message graph, computed by the float64 reference, one call after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pavane.models.reference import Encoding, Placed, ReferenceModel
from pavane.scheduler.spec import CallSpec


@dataclass
class Told:
    tokens: list[int]
    start: int
    encoding: Encoding
    content: tuple[int, int]


class GraphOracle:
    """Encodes each call as section 1 of the design tells it. A Decode's content is forced."""

    def __init__(self, model: ReferenceModel, bos_id: int | None = None) -> None:
        self.model = model
        self.bos = Placed(model.encode([bos_id], 0), 0) if bos_id is not None else None
        self.messages: dict[str, Told] = {}

    def add(self, spec: CallSpec) -> Told:
        visible: list[Placed] = [self.bos] if self.bos else []
        shift = len(visible)
        packed = bool(spec.parents) and all(parent.exact for parent in spec.parents)
        cursor = furthest = 0
        for parent in spec.parents:
            told = self.messages[parent.id]
            at = cursor
            if not packed and parent.offset is not None:
                at = parent.offset
            elif not packed and parent.as_encoded:
                at = told.start
            encoding = told.encoding
            if parent.exact:
                encoding = self.model.encode(told.tokens, at + shift, visible)
            visible = [*visible, Placed(encoding, at + shift)]
            cursor = at + len(told.tokens)
            furthest = max(furthest, cursor)
        start = furthest if spec.start is None or packed else spec.start
        tokens = list(self.messages[spec.copy_of].tokens if spec.copy_of else spec.tokens)
        begin = end = len(tokens)
        if spec.decode is not None:
            tokens += [*spec.decode.forced]
            end = len(tokens)
            tokens += [*spec.decode.trailer]
        told = Told(tokens, start, self.model.encode(tokens, start + shift, visible), (begin, end))
        self.messages[spec.id] = told
        return told

    def logprobs(self, message_id: str) -> torch.Tensor:
        """Of the content, float64 [tokens]."""
        told = self.messages[message_id]
        begin, end = told.content
        rows = told.encoding.logits[begin - 1 : end - 1].log_softmax(dim=-1)
        return rows.gather(1, torch.tensor(told.tokens[begin:end])[:, None])[:, 0]
