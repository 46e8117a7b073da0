"""What a benchmark of workflows writes down: one JSON object a line, in the order in which it happened.

    setup      once, first: what all runs of the file have in common
    recording  once a case: the graph and the tokens that every run of the case repeats
    run        one repetition of one arm, complete
    trouble    an arm that could not go on, in words
    judged, diverged   of an evaluation: a run with its score, an answer with its distance from exact edges

A case is a workflow with its sizes and its problem. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VERSION = 1
MODES = ("exact", "reuse", "as-encoded")  # arms that are Pavane's; others are peers


@dataclass(frozen=True)
class RecordedCall:
    """A message of the recorded run. A prefill has all its tokens in `header`; a decode is header, content, trailer."""

    id: str
    parents: tuple[str, ...]
    header: tuple[int, ...]
    content: tuple[int, ...]
    trailer: tuple[int, ...]
    decode: bool

    @property
    def tokens(self) -> tuple[int, ...]:
        return (*self.header, *self.content, *self.trailer)


@dataclass(frozen=True)
class TimedCall:
    """A call of a run: `ready` after the run's start its parents were complete; `queued`, `first_token` and `total`
    count from there. Tokens by the receipt's rule; a peer has only `visible` and `generated`."""

    id: str
    parents: tuple[str, ...]
    decode: bool
    ready: float
    queued: float
    first_token: float
    total: float
    visible: int
    generated: int
    in_place: int = 0
    repositioned: int = 0
    encoded: int = 0
    trailer: int = 0
    reencoded: int = 0

    @property
    def step(self) -> float:
        """Mean time of the steps after the one with the first token."""
        return (self.total - self.first_token) / max(1, self.generated)


@dataclass(frozen=True)
class Record:
    """A line."""


@dataclass(frozen=True)
class Setup(Record):
    model: str
    model_bytes: int
    threads: int
    serve: tuple[str, ...]
    problems: str  # where they come from, with a digest
    seed: int
    cores: int
    cpu: str
    pavane: str
    version: int = VERSION


@dataclass(frozen=True)
class Recording(Record):
    case: str
    workflow: str
    sizes: Mapping[str, Any]
    problem: str
    kv_bytes_per_token: int
    calls: tuple[RecordedCall, ...]


@dataclass(frozen=True)
class Run(Record):
    """`tokens` sums the receipts by class; `predicted` is the closed formula's, {} where there is none. `kv_distinct`
    counts the keys that steps read, `kv_summed` what the same calls read one by one (-1: not known of a peer)."""

    case: str
    arm: str
    repetition: int
    wall: float
    calls: tuple[TimedCall, ...]
    tokens: Mapping[str, int] = field(default_factory=dict)
    predicted: Mapping[str, int] = field(default_factory=dict)
    kv_distinct: int = -1
    kv_summed: int = -1

    @property
    def counted(self) -> bool:
        """Whether the tokens are those that the formula says."""
        return not self.predicted or dict(self.tokens) == dict(self.predicted)


@dataclass(frozen=True)
class Trouble(Record):
    case: str
    arm: str
    text: str


@dataclass(frozen=True)
class Judged(Record):
    """A run of an evaluation: its texts, the parts of them that count, and their mean score, 0 to 1."""

    case: str
    workflow: str
    problem: int
    mode: str
    texts: tuple[str, ...]
    answers: tuple[str, ...]
    score: float
    generated: int
    wall: float


@dataclass(frozen=True)
class Diverged(Record):
    """How far an answer of such a run is from exact edges: see evals/divergence.py."""

    case: str
    workflow: str
    problem: int
    mode: str
    call: str
    kl: float
    top1_agreement: float
    kl_by_parent: Mapping[str, float]
