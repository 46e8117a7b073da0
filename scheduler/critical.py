"""The chain of calls that takes longest."""

from __future__ import annotations

from collections.abc import Sequence

from pavane.scheduler.calls import Call
from pavane.scheduler.estimates import DECODED


def critical_path(calls: Sequence[Call]) -> tuple[str, ...]:
    """Ids along the chain with the longest estimated work (see estimates.py), parents first. `calls` are in such an
    order, too; parents that are not among them are done."""
    longest: dict[Call, float] = {}
    before: dict[Call, Call | None] = {}
    for call in calls:
        parents = [parent for parent in call.parents if parent in longest]
        before[call] = max(parents, key=lambda parent: longest[parent], default=None)
        longest[call] = _work(call) + max((longest[parent] for parent in parents), default=0)
    path: list[str] = []
    last = max(longest, key=lambda call: longest[call], default=None)
    while last is not None:
        path.append(last.id)
        last = before[last]
    return tuple(reversed(path))


def _work(call: Call) -> float:
    decode = call.spec.decode
    encoded = sum(use.fresh for use in call.uses) + call.fresh + call.reencoded + call.trailer
    return encoded + call.generated * (1.0 if decode is not None and decode.one_pass else DECODED)
