"""What plans are held against: a runner that counts what is held and read, and what is said of a call."""

from __future__ import annotations

from pavane.cache import GraphCache
from pavane.kernels.batch import Batch, StepResult
from pavane.scheduler.spec import Outcome
from support.fingerprint import FingerprintRunner
from support.harness import Harness

SLOTS = 4000


class Watched(FingerprintRunner):
    """Knows of each step the distinct slots that its segments read, and how many tokens the cache then stores."""

    cache: GraphCache

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.read = self.peak = 0

    def execute(self, batch: Batch) -> StepResult:
        extents = batch.extents[: batch.extent_indptr[batch.n_segments]].tolist()
        self.read += len({slot for start, length in extents for slot in range(start, start + length)})
        pending = [context.root for context in self.cache.contexts.values()]
        stored = 0
        while pending:
            node = pending.pop()
            stored += node.filled
            pending += [*node.children.values(), *node.branches]
        self.peak = max(self.peak, stored)
        return super().execute(batch)


def roomy(bos: int | None = None, *, invariant: bool = False, policy: str = "graph", slots: int = SLOTS) -> Harness:
    """Every step has room for all that is ready."""
    runner = Watched(slots)
    h = Harness(
        runner,
        slots,
        bos_id=bos,
        batch_invariant=invariant,
        policy=policy,
        max_running=1000,
        token_budget=100_000,
    )
    runner.cache = h.cache
    return h


def counts(outcome: Outcome) -> tuple[object, ...]:
    """All that a plan says of a call."""
    r = outcome.receipt
    reason = outcome.failure and (outcome.failure.reason, outcome.failure.text, outcome.failure.ids)
    return (
        *(r.in_place, r.repositioned, r.encoded, r.reencoded, r.generated, r.trailer, r.placement_ignored, r.parents),
        *(outcome.state, outcome.finish, outcome.start, outcome.content, reason),
    )
