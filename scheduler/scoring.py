"""Scores: known content judged by teacher forcing, once for each fidelity that is asked about.

A score is a few *passes*: calls that encode the content in one pass and whose rows give log-probabilities. First the
reference, whose final hidden states are kept; then, together in the same steps where they fit, the call as it is and,
if asked for, the call with one more parent EXACT, whose rows are compared with them. So no pass waits for another while
it holds locks, and what is kept of a token is a hidden state, about a tenth of its KV. A pass waits, runs, is preempted
and fails like any call, by the same order, bounds and budget; it is known by no name, nobody may read it, and when it
ends nothing of it stays but KV of its context, as cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pavane.kernels.batch import NO_REFERENCE, Float32, Int32, Scored, Scores
from pavane.scheduler.errors import Reason
from pavane.scheduler.spec import CallSpec, DecodeSpec, Failure, Receipt, Retention, State

if TYPE_CHECKING:
    from pavane.scheduler.calls import Call
    from pavane.scheduler.plan import Item

Fidelities = tuple[bool, ...]  # edge by edge: EXACT


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """`call` is a Decode whose forced tokens are scored. `against_exact`: the fidelity of all edges of the reference.
    `per_parent`: what each REUSE edge costs is asked for too."""

    call: CallSpec
    against_exact: bool = True
    per_parent: bool = False


@dataclass(frozen=True, slots=True)
class Score:
    """Per scored token: its log-probability under the call's own fidelity and under the reference, KL(reference || own)
    over the whole vocabulary in nats, and the likeliest tokens of both. `kl_by_parent`: by REUSE edge, the mean of the
    KL less that of the call with this edge EXACT. With `failure` nothing of that is there. `receipt` is the sum over
    the passes."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...] = ()
    against_logprobs: tuple[float, ...] = ()
    kl: tuple[float, ...] = ()
    top_tokens: tuple[int, ...] = ()
    against_top_tokens: tuple[int, ...] = ()
    kl_by_parent: tuple[tuple[str, float], ...] = ()
    receipt: Receipt = field(default_factory=Receipt)
    failure: Failure | None = None

    @property
    def top1_agreement(self) -> float:
        """The share of places whose likeliest tokens are the same."""
        pairs = list(zip(self.top_tokens, self.against_top_tokens, strict=True))
        return sum(a == b for a, b in pairs) / len(pairs)


@dataclass(slots=True, eq=False)
class Pass:
    """One teacher-forced pass, and what its rows have given so far; what is encoded again gives the same again."""

    scoring: Scoring
    edges: Fidelities
    logprobs: Float32
    top_tokens: Int32
    kl: Float32
    states: Float32 | None = None  # [tokens, hidden size]; of the reference

    @property
    def reference(self) -> Pass | None:
        """What it is compared with; None if it is the reference itself."""
        return None if self is self.scoring.reference else self.scoring.reference

    def take(self, first: int, scored: Scored, part: slice, states: Float32) -> None:
        """The rows `part` of what a step gave are the places from `first` on; `states` are those that were kept."""
        place = slice(first, first + part.stop - part.start)
        self.logprobs[place] = scored.logprobs[part]
        self.top_tokens[place] = scored.top_tokens[part]
        if self.reference is not None:
            self.kl[place] = scored.kl[part]
            return
        if self.states is None:
            self.states = np.empty((len(self.logprobs), states.shape[1]), dtype=np.float32)
        self.states[place] = states
        self.kl[place] = 0.0

    def failure(self, call_id: str) -> Failure | None:
        """What is wrong with what has come so far."""
        if np.isnan(self.logprobs).any() or np.isnan(self.kl).any():
            return Failure(Reason.RUNNER_FAILED, f"call {call_id!r}: the model's logits are not numbers", (call_id,))
        return None


class Scoring:
    """A score under way. `calls` are its passes, the reference first; `done` is called once, with what came of it."""

    def __init__(self, spec: ScoreSpec, done: Callable[[Score], None]) -> None:
        self.spec = spec
        self.calls: list[Call] = []
        own = tuple(edge.exact for edge in spec.call.parents)
        reference = (spec.against_exact,) * len(own)
        wanted = [reference, own]
        if spec.per_parent:
            wanted += [one for i in range(len(own)) if (one := with_exact(own, i)) != own]
        self.passes = {edges: self._pass(edges) for edges in dict.fromkeys(wanted)}
        self.reference = self.passes[reference]
        self._own = self.passes[own]
        self._done = done
        self._over = False

    def specs(self, number: int) -> list[CallSpec]:
        """The calls to make, in the order of `passes`. Their ids are ones that no client may choose; `number` makes
        them unique."""
        call, decode = self.spec.call, self.spec.call.decode
        assert decode is not None
        forced = DecodeSpec(seed=0, forced=decode.forced, one_pass=True)
        return [
            replace(
                call,
                id=f"score {number} {call.id} {i}",
                decode=forced,
                retention=Retention(),
                parents=tuple(
                    replace(edge, exact=exact, last_use=False)
                    for edge, exact in zip(call.parents, one.edges, strict=True)
                ),
            )
            for i, one in enumerate(self.passes.values())
        ]

    def ended(self, call: Call, now: float) -> tuple[list[Call], list[Call]]:
        """A pass has ended: those that may run now, and those that must end for the same reason."""
        if self._over:
            return [], []
        if call.state is not State.DONE:
            self._finish(Score(self._tokens, receipt=self._receipt(now), failure=self._named(call)))
            return [], [other for other in self.calls if not other.state.ended]
        if all(other.state is State.DONE for other in self.calls):
            self._finish(self._result(now))
        return (self.calls[1:] if call is self.calls[0] else []), []

    def _finish(self, score: Score) -> None:
        self._over = True
        self._done(score)

    def _result(self, now: float) -> Score:
        own, reference = self._own, self.reference
        by_parent = {}
        for i, edge in enumerate(self.spec.call.parents):
            if self.spec.per_parent and not own.edges[i]:
                mended = self.passes[with_exact(own.edges, i)]
                by_parent[edge.id] = float(own.kl.mean(dtype=np.float64) - mended.kl.mean(dtype=np.float64))
        return Score(
            self._tokens,
            tuple(own.logprobs.tolist()),
            tuple(reference.logprobs.tolist()),
            tuple(own.kl.tolist()),
            tuple(own.top_tokens.tolist()),
            tuple(reference.top_tokens.tolist()),
            tuple(by_parent.items()),
            self._receipt(now),
        )

    def _named(self, call: Call) -> Failure | None:
        """Why a pass failed, by the name that the client knows."""
        failure, name = call.failure, self.spec.call.id
        if failure is None:
            return None
        ids = tuple(name if i == call.id else i for i in failure.ids)
        return Failure(failure.reason, failure.text.replace(repr(call.id), repr(name)), ids)

    @property
    def _tokens(self) -> tuple[int, ...]:
        decode = self.spec.call.decode
        assert decode is not None
        return decode.forced

    def _pass(self, edges: Fidelities) -> Pass:
        n = len(self._tokens)
        zeros = np.zeros(n, dtype=np.float32)
        return Pass(self, edges, zeros, np.zeros(n, dtype=np.int32), zeros.copy())

    def _receipt(self, now: float) -> Receipt:
        total = Receipt()
        for call in self.calls:
            total = total.plus(call.receipt(now))
        return total


@dataclass(slots=True)
class ScoreRows:
    """Of a step: the places [first, first + count) of a pass, after the rows from depth `depth` of its path on."""

    call: Call
    item: Item
    depth: int
    first: int
    count: int


def make_scores(parts: Sequence[ScoreRows]) -> Scores | None:
    """The arrays of a step's scores; None if there are none."""
    if not parts:
        return None
    rows, tokens, keep, references, states = [], [], [], [], []
    kept = 0
    for part in parts:
        one, decode = part.call.scoring, part.call.spec.decode
        assert one is not None
        assert decode is not None
        begin, end = part.first, part.first + part.count
        row = part.item.first_row + part.depth - part.item.lo
        rows.append(np.arange(row, row + part.count, dtype=np.int32))
        tokens.append(np.array(decode.forced[begin:end], dtype=np.int32))
        keep.append(np.full(part.count, one.reference is None))
        if one.reference is None:
            references.append(np.full(part.count, NO_REFERENCE, dtype=np.int32))
            continue
        assert one.reference.states is not None
        references.append(np.arange(kept, kept + part.count, dtype=np.int32))
        states.append(one.reference.states[begin:end])
        kept += part.count
    return Scores(
        count=sum(part.count for part in parts),
        rows=np.concatenate(rows),
        tokens=np.concatenate(tokens),
        keep=np.concatenate(keep),
        references=np.concatenate(references),
        states=np.concatenate(states) if states else np.zeros((0, 0), dtype=np.float32),
    )


def take_scores(parts: Sequence[ScoreRows], scored: Scored) -> None:
    """What the step gave for each of its passes that still runs."""
    at = kept = 0
    for part in parts:
        one = part.call.scoring
        assert one is not None
        keeps = part.count if one.reference is None else 0
        if part.call.state is State.RUNNING:
            one.take(part.first, scored, slice(at, at + part.count), scored.states[kept : kept + keeps])
        at += part.count
        kept += keeps


def with_exact(edges: Fidelities, i: int) -> Fidelities:
    """`edges` with number `i` EXACT."""
    return (*edges[:i], True, *edges[i + 1 :])
