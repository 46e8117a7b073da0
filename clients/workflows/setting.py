"""How a workflow is run, whatever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pavane.clients.checks import UINT64, choice, integer, number
from pavane.clients.edges import FIDELITIES, LAYOUTS, Fidelity, Layout

Script = Mapping[str, Sequence[int]]  # message id -> content tokens
Prompts = Mapping[str, str]  # name -> text with {placeholders}


@dataclass(frozen=True)
class Setting:
    """`fidelity` and `layout` are those of all edges.

    `equal_lengths`: the end of turn is ignored, every answer has exactly its max_tokens; only what a constraint ends
    (JSON that is complete) stays shorter. `script`: answers recorded by `Outcome.script`, forced token by token instead
    of sampled, so that two runs do the same work. `prompts` replace the workflow's own, all of them; see
    `prompts.load_prompts`. Raises ValueError or TypeError with what to change.
    """

    fidelity: Fidelity = "reuse"
    layout: Layout = "packed"
    temperature: float = 0.7
    seed: int = 1
    equal_lengths: bool = False
    script: Script | None = None
    prompts: Prompts = field(default_factory=dict)

    def __post_init__(self) -> None:
        choice("fidelity", self.fidelity, FIDELITIES)
        choice("layout", self.layout, LAYOUTS)
        number("temperature", self.temperature, 0.0, 100.0)
        integer("seed", self.seed, UINT64)
