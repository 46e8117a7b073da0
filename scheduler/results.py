"""What the result of a step means for its calls: tokens are taken, contents end, and with them calls."""

from __future__ import annotations

from pavane.cache import GraphCache, Node
from pavane.kernels.batch import StepResult
from pavane.scheduler.attention import take_shares
from pavane.scheduler.calls import Call
from pavane.scheduler.content import restart, seal, take
from pavane.scheduler.errors import Reason
from pavane.scheduler.plan import Sample, Step
from pavane.scheduler.readiness import Readiness
from pavane.scheduler.samples import Taken, taken_tokens
from pavane.scheduler.scoring import take_scores
from pavane.scheduler.spec import Failure, Finish, Restarted, State
from pavane.scheduler.states import States


class Results:
    def __init__(self, states: States, readiness: Readiness) -> None:
        self._states = states
        self._readiness = readiness

    @property
    def _cache(self) -> GraphCache:
        return self._states.cache

    def take(self, step: Step, result: StepResult, now: float) -> None:
        """`step` has run."""
        if result.shares is not None:
            take_shares(step.watched, result.shares)  # before some of these calls end
        for sample, taken in zip(step.samples, taken_tokens(step.samples, result), strict=True):
            if sample.call.state is State.RUNNING:
                self._take(sample, taken, now)
        if result.scored is not None:
            take_scores(step.scores, result.scored)
        for call in step.mended:
            if call.state is State.RUNNING:
                self._states.wait(call)
        for call in step.finishing:
            if not call.state.ended:
                self.finish(call, now)

    def encoded(self, call: Call, now: float, step: Step | None) -> None:
        """The call's message is complete, or will be with `step`, which is being put together."""
        self._states.encoded(call)
        for lazy in self._readiness.resolve(now, step):
            self.finish(lazy, now)

    def finish(self, call: Call, now: float) -> None:
        decode = call.spec.decode
        if call.scoring is not None:
            failure = call.scoring.failure(call.id)
            if failure is None:
                self._states.end(call, State.DONE, now)
            else:
                self._fail(call, failure, now)
            return
        if decode is not None and call.span is not None and not call.span.node.indexed:
            call.span = self._cache.seal(call.span, call.needs)
        if decode is not None and call.first_token_at is None:
            call.first_token_at = now
        self._states.end(call, State.DONE, now)

    def _take(self, sample: Sample, taken: Taken, now: float) -> None:
        call = sample.call
        if call.first_token_at is None:
            call.first_token_at = now
        added, end = take(self._cache, call, sample.index, taken)
        if added is not None:
            self._states.tell(call.workflow, added)
        if end is None:  # nearly always
            return
        if not isinstance(end, Failure):
            self._seal(call, end, now)
        elif call.attempt < call.spec.max_attempts:
            restart(self._cache, call)
            self._readiness.begin(call)
            self._states.publish(call, Restarted(call.id, call.attempt, end))
            if end.reason == Reason.RUNNER_FAILED:
                suspects = self._suspects(call)
                self._states.let_go_of_needs(call)
                self._states.wait(call)
                self._cache.distrust(suspects)
        else:
            self._fail(call, end, now)

    def _fail(self, call: Call, failure: Failure, now: float) -> None:
        suspects = self._suspects(call) if failure.reason == Reason.RUNNER_FAILED else []
        self._states.end(call, State.FAILED, now, failure)
        self._cache.distrust(suspects)

    def _suspects(self, call: Call) -> list[Node]:
        """Where the KV may be that made the logits of `call` no numbers. What other running calls read as well stays:
        if it is wrong they fail too, and the last of them drops it."""
        assert call.span is not None
        return self._cache.origins(call.span)

    def _seal(self, call: Call, finish: Finish, now: float) -> None:
        """The content of a running decode ends here."""
        seal(self._cache, call, finish)
        assert call.span is not None
        if call.span.node.complete:
            self.encoded(call, now, None)
            self.finish(call, now)
