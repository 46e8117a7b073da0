"""From a call whose parents are complete to one that waits for room, with all it needs to run."""

from __future__ import annotations

from pavane.scheduler.calls import Call
from pavane.scheduler.errors import RequestError
from pavane.scheduler.plan import Step
from pavane.scheduler.resolve import resolve
from pavane.scheduler.spec import Failure, Finish, State
from pavane.scheduler.states import States
from pavane.scheduler.text import TextRules


class Readiness:
    def __init__(self, states: States, text: TextRules) -> None:
        self._states = states
        self._text = text

    def resolve(self, now: float, step: Step | None) -> list[Call]:
        """Resolves what is ready, until nothing is; returns the lazy Prefills that are done by that. `step` is the one
        that is being put together."""
        states, done = self._states, []
        while states.ready:
            call = states.ready.popleft()
            if call.state.ended:
                continue
            call.ready_at = now
            try:
                resolve(states.cache, call, states.graph.limits.max_model_len)
            except RequestError as error:
                states.end(call, State.FAILED, now, Failure(error.reason, error.text, error.ids))
                continue
            self.begin(call)
            if not call.spec.lazy:
                states.enter(call, State.QUEUED)
                continue
            states.encoded(call)
            if step is not None and not all(parent.state.ended for parent in call.parents):
                step.finishing.append(call)  # with the parents that are complete only if the step succeeds
            else:
                done.append(call)
        return done

    def begin(self, call: Call) -> None:
        """The content of a decode is empty, or forced at once."""
        decode = call.spec.decode
        if decode is None:
            return
        if decode.stop:  # after min_tokens the beginning of the answer is too far away to matter
            call.matcher = self._text.matcher(decode.stop, "" if decode.min_tokens else decode.beginning)
        if decode.one_pass:
            call.sealed, call.finish = True, Finish.FORCED
            call.generated, call.trailer = len(decode.forced), len(decode.trailer)
