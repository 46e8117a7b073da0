"""What a step takes: a model that is linear in what the step does, fitted to steps that were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np

from pavane.kernels.batch import Batch, Float64

FITTED = "cost.json"


@dataclass(frozen=True, slots=True)
class Work:
    """What a step does, as far as its time depends on it."""

    rows: int
    samples: int
    keys: int  # read, those that several calls read together once
    pairs: int  # (row, key)
    merges: int  # (row, segment)

    @classmethod
    def of(cls, batch: Batch) -> Work:
        keys, pairs = batch.kv_tokens()
        own = batch.own[: batch.n_segments].astype(np.int64)
        return cls(batch.n_rows, batch.samples.count, keys, pairs - int((own * (own - 1)).sum()) // 2, batch.n_pairs)


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds: of any step, and of each row, sample, key, (row, key) pair and (row, segment) pair."""

    step: float
    row: float
    sample: float
    key: float
    pair: float
    merge: float

    def seconds(self, work: Work, grain: int = 1, budget: int = 1) -> float:
        """Of a step that does `work`. With a `grain` both are coarse (see grain.py): while anything decodes it stands
        for `grain` steps, each of which reads all keys, else for as many as its prefill takes at `budget` tokens each.
        """
        steps = 1 if grain == 1 else grain if work.samples else max(1.0, work.rows * grain / budget)
        return (
            self.step * steps / grain
            + self.row * work.rows
            + self.sample * work.samples
            + self.key * work.keys * steps
            + self.pair * work.pairs * grain
            + self.merge * work.merges
        )


def fit(steps: Sequence[tuple[Work, float]]) -> CostModel:
    """Least squares of the relative errors, with no coefficient below 0: those that would be are left out, one by one
    (as Lawson and Hanson's NNLS ends, without its way back).

    Raises ValueError for fewer than ten steps.
    """
    if len(steps) < 10:
        raise ValueError(f"{len(steps)} steps were measured; a cost model needs at least 10")
    seconds = np.array([s for _, s in steps])
    columns = np.array([[1, w.rows, w.samples, w.keys, w.pairs, w.merges] for w, _ in steps], dtype=np.float64)
    relative = columns / seconds[:, None]
    scale = relative.max(axis=0)
    scale[scale == 0] = 1
    found: Float64 = np.zeros(6)
    used = list(range(6))
    while used:
        solved = np.linalg.lstsq(relative[:, used] / scale[used], np.ones(len(steps)), rcond=None)[0] / scale[used]
        if (solved >= 0).all():
            found[used] = solved
            break
        used.pop(int(np.argmin(solved * scale[used])))
    return CostModel(*found.tolist())


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where the coefficients of the package come from."""

    model: str
    cpu: str
    threads: int
    date: str
    steps: int
    median_error: float  # relative, of single steps
    p90_error: float
    total_error: float  # relative, of the sum over a run that was not fitted


def fitted() -> tuple[CostModel, Provenance]:
    """The cost model of the package, and what it was measured on."""
    found: dict[str, Any] = json.loads(resources.files(__package__).joinpath(FITTED).read_text())
    return CostModel(**found["seconds"]), Provenance(**found["measured"])


def as_json(cost: CostModel, measured: Provenance) -> str:
    """As `fitted` reads it."""
    return json.dumps({"seconds": asdict(cost), "measured": asdict(measured)}, indent=2) + "\n"
