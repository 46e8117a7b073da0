"""The driver of random steps, with what is asked besides tokens: scores, and where attention goes."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace

import numpy as np

from pavane.kernels.batch import Batch, Float32, Scored, StepResult
from pavane.scheduler.attention import BOS, OWN
from pavane.scheduler.errors import RequestError
from pavane.scheduler.scoring import Score, ScoreSpec, Scoring
from pavane.scheduler.spec import CallSpec, DecodeSpec, Finish, Outcome, State
from support.fingerprint import UInt64, fingerprint
from support.harness import decode
from support.random_calls import RandomCalls
from support.random_driver import REFUSALS, Driver

RANGE = 2**20  # numbers below are exact in float32, sums of some too
UNIT = 1024  # what a key weighs at least


def worth(fp: int, token: int) -> float:
    """Stands for a log-probability."""
    return -float(fingerprint(token, fp) % RANGE)


def distance(fp: int, reference: int) -> float:
    """Stands for a divergence."""
    return float((fp ^ reference) % RANGE)


def weight(keys: UInt64) -> int:
    """Stands for the share of attention that these keys get; at least UNIT, less than 2 * UNIT each."""
    return int((np.uint64(UNIT) + keys % np.uint64(UNIT)).sum())


def packed(fps: UInt64) -> Float32:
    """Stands for hidden states."""
    parts = [(fps >> np.uint64(16 * i) & np.uint64(0xFFFF)).astype(np.float32) for i in range(4)]
    return np.stack(parts, axis=1)


def unpacked(states: Float32) -> list[int]:
    return [sum(int(part) << 16 * i for i, part in enumerate(row)) for row in states.tolist()]


class AskingCalls(RandomCalls):
    """Half of the decodes ask where their attention goes."""

    def _call(self, known: list[str], groups: Container[str]) -> CallSpec:
        call = super()._call(known, groups)
        if call.decode is None or self.rng.random() < 0.5:
            return call
        return replace(call, decode=replace(call.decode, attention_mass=True))


@dataclass(eq=False)
class Asked:
    scoring: Scoring
    answers: list[Score] = field(default_factory=list)


class AskingDriver(Driver):
    def __init__(self, seed: int, **kind: bool | int) -> None:
        super().__init__(seed, **kind)  # type: ignore[arg-type]
        self.wishes = AskingCalls(self.rng, self.wishes.calm, self.wishes.chatty)
        self.asked: list[Asked] = []

    # ---- what may happen

    def score(self) -> bool:
        """Calls that were submitted, or others, judged."""
        rng, key = self.rng, self.rng.choice(list(self.live))
        edges = self.wishes._edges(self.live[key], self.rules.groups)
        spec = decode("s", self.wishes.tokens(4), *edges, forced=tuple(self.wishes.tokens()), one_pass=True)
        spec = replace(spec, max_attempts=rng.choice([1, 1, 3]), timeout=None if self.calm else rng.choice([None, 9.0]))
        answers: list[Score] = []
        try:
            scoring = self.s.score(
                *key, ScoreSpec(spec, rng.random() < 0.7, rng.random() < 0.7), self.h.now, answers.append
            )
        except RequestError as error:
            if error.reason not in REFUSALS:
                raise
            return False
        self.rules.calls.update((call.id, call.spec) for call in scoring.calls)
        self.asked.append(Asked(scoring, answers))
        return True

    def leave_score(self) -> bool:
        waiting = [asked for asked in self.asked if not asked.answers]
        if waiting:
            self.s.cancel_score(self.rng.choice(waiting).scoring, self.h.now)
        return bool(waiting)

    def step(self) -> None:
        if self.rng.random() > 0.06:
            super().step()
            return
        verb = "score" if self.calm or self.rng.random() < 0.8 else "leave_score"
        if getattr(self, verb)():
            self.done[verb] += 1
        self.check()

    # ---- the runner

    def execute(self, batch: Batch) -> StepResult | RuntimeError:
        result = super().execute(batch)
        if isinstance(result, RuntimeError):
            return result
        return replace(result, scored=self._scored(batch), shares=self._shares(batch))

    def _scored(self, batch: Batch) -> Scored | None:
        scores = batch.scores
        if scores is None:
            return None
        fps = self.runner.keys[batch.slots[scores.rows]]
        references = unpacked(scores.states)
        pairs = list(zip(fps.tolist(), scores.tokens.tolist(), scores.references.tolist(), strict=True))
        return Scored(
            logprobs=np.array([worth(fp, token) for fp, token, _ in pairs], dtype=np.float32),
            top_tokens=np.array([fp % self.h.vocab for fp, _, _ in pairs], dtype=np.int32),
            kl=np.array([distance(fp, references[r]) if r >= 0 else np.nan for fp, _, r in pairs], dtype=np.float32),
            states=packed(fps[scores.keep]),
        )

    def _shares(self, batch: Batch) -> Float32 | None:
        if batch.watched is None:
            return None
        shares: dict[int, list[float]] = {row: [] for row in batch.watched.tolist()}
        assert len(shares) == len(batch.watched), "a row is watched twice"
        for s in range(batch.n_segments):
            extents = batch.extents[batch.extent_indptr[s] : batch.extent_indptr[s + 1]].tolist()
            slots = np.concatenate([np.arange(start, start + length) for start, length in extents])
            begin, end = int(batch.row_indptr[s]), int(batch.row_indptr[s + 1])
            for i, row in enumerate(batch.pair_rows[begin:end].tolist()):
                if row in shares:
                    own = int(batch.own[s])
                    seen = slots[: len(slots) - own + i + 1] if own else slots
                    shares[row].append(weight(self.runner.keys[seen]))
        return np.array([share for row in batch.watched.tolist() for share in shares[row]], dtype=np.float32)

    # ---- what must have come of it

    def rest(self) -> None:
        super().rest()
        for asked in self.asked:
            (score,) = asked.answers
            if score.failure is not None:
                self.done["score failed"] += 1
                continue
            self.done["scored"] += 1
            self._check_score(asked.scoring, score)
        for name, outcome in self.h.ended.items():
            call = self.rules.calls[name]
            if call.decode is not None and call.decode.attention_mass and outcome.state is State.DONE:
                self.done["attention"] += 1
                self._check_attention(call, call.decode, outcome)

    def _check_score(self, scoring: Scoring, score: Score) -> None:
        fps = {}
        for edges, call in zip(scoring.passes, scoring.calls, strict=True):
            begin = len(call.spec.tokens) - 1
            fps[edges] = self.rules.oracle[call.id].keys[begin : begin + len(score.tokens)].tolist()
        edges = tuple(edge.exact for edge in scoring.spec.call.parents)
        own, reference = fps[edges], fps[(scoring.spec.against_exact,) * len(edges)]
        assert score.logprobs == tuple(map(worth, own, score.tokens))
        assert score.against_logprobs == tuple(map(worth, reference, score.tokens))
        assert score.kl == tuple(map(distance, own, reference))
        assert score.top_tokens == tuple(fp % self.h.vocab for fp in own)
        assert score.against_top_tokens == tuple(fp % self.h.vocab for fp in reference)
        by_parent = {}
        for i, edge in enumerate(scoring.spec.call.parents):
            if scoring.spec.per_parent and not edge.exact:
                mended = fps[(*edges[:i], True, *edges[i + 1 :])]
                kl = list(map(distance, mended, reference))
                by_parent[edge.id] = float(np.mean(score.kl) - np.mean(kl))
        assert dict(score.kl_by_parent) == by_parent

    def _check_attention(self, call: CallSpec, spec: DecodeSpec, outcome: Outcome) -> None:
        shares, rows = dict(outcome.receipt.attention_mass), outcome.receipt.generated
        bos = self.h.bos_id is not None
        assert [*shares] == [*([BOS] if bos else []), *(edge.id for edge in call.parents), OWN]
        for edge in call.parents:
            told = self.rules.oracle[edge.id]
            if not edge.exact:
                assert shares[edge.id] == weight(told.keys)
            else:
                assert UNIT * len(told.tokens) <= shares[edge.id] < 2 * UNIT * len(told.tokens)
        told = self.rules.oracle[call.id]
        header = len(call.tokens)
        assert len(told.tokens) == header + rows + len(spec.trailer)
        # A token that ends the turn is chosen after a row, too, and is none of those generated.
        rows += outcome.finish in (Finish.END_OF_TURN, Finish.STOP)
        assert shares[OWN] == np.mean([weight(told.keys[: header + i]) for i in range(rows)])
