"""What a parallel debate costs in tokens, by class, from the counting rule alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pavane.clients import Fidelity

CLASSES = ("in_place", "repositioned", "encoded", "generated", "trailer")


@dataclass(frozen=True)
class Lengths:
    """Tokens of the parts of a debate, and how many two of them begin with in common."""

    start: int
    instruction: int
    header: int
    content: int
    trailer: int
    header_and_instruction: int
    start_and_instruction: int

    @property
    def message(self) -> int:
        return self.header + self.content + self.trailer


def predict(n: Lengths, agents: int, rounds: int, fidelity: Fidelity) -> dict[str, int]:
    """The tokens of the whole debate by class, from the counting rule alone."""
    m = n.message
    total = dict.fromkeys(CLASSES, 0)
    total["generated"] = agents * (rounds + 1) * n.content
    total["trailer"] = agents * (rounds + 1) * n.trailer
    if fidelity == "exact":
        # Roots are lazy. Round 0: the first agent encodes the start, all their headers. Round r reads the longest
        # stored prefix: the start and, of its own answers, those that stood there in the round before; then what the
        # newest own answer and the instruction that stood in its place begin with in common.
        total["encoded"] = n.start + agents * n.header
        total["in_place"] = (agents - 1) * n.start
        for r in range(1, rounds + 1):
            visible = n.start + r * m + n.instruction + (agents - 1) * m + n.header
            shared = n.start + m if r == 1 else n.start + (r - 1) * m + n.header_and_instruction
            total["in_place"] += agents * shared
            total["encoded"] += agents * (visible - shared)
        return total
    # Both roots see nothing: what they begin with in common is one encoding.
    total["encoded"] = n.start + n.instruction - n.start_and_instruction + agents * (rounds + 1) * n.header
    total["in_place"] = agents * n.start + n.start_and_instruction

    def begins(r: int) -> int:  # offset at which the answers of round r are encoded
        return n.start if r == 0 else n.start + r * m + n.instruction + (agents - 1) * m

    for r in range(1, rounds + 1):
        placed = [(0, 0, n.start), *((n.start + k * m, begins(k), m) for k in range(r))]
        at = n.start + r * m
        placed.append((at, 0, n.instruction))
        placed += [(at + n.instruction + j * m, begins(r - 1), m) for j in range(agents - 1)]
        for where, encoded_at, length in placed:
            total["in_place" if where == encoded_at else "repositioned"] += agents * length
    return total


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
