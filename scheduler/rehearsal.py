"""The steps of calls that are only planned: who starts when, what each computes, what is found by then."""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from pavane.cache import Node, Span
from pavane.scheduler.calls import Call
from pavane.scheduler.cast import Cast
from pavane.scheduler.draft import Draft, reads
from pavane.scheduler.encode import RUN, charges
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.footprint import Footprint
from pavane.scheduler.order import Key
from pavane.scheduler.resolve import inputs, resolve
from pavane.scheduler.rivals import Rivals
from pavane.scheduler.spec import Failure, State
from pavane.scheduler.states import States, because_of

MAX_TOKENS = 2**22  # of all messages of a plan, re-encodings for EXACT edges included


@dataclass(slots=True)
class _Decoding:
    """A decode that began in step `began` and encodes its last tokens, with the trailer, in step `ends`."""

    call: Call
    began: int
    ends: int


@dataclass(slots=True)
class Rehearsal:
    """Goes through the steps of the calls in `cast`: see preview.py. What `draft` has put into the cache stands until
    it is undone."""

    states: States
    cast: Cast
    footprint: Footprint = field(default_factory=Footprint)
    draft: Draft = field(init=False)
    _rivals: Rivals = field(init=False)
    _tokens: int = 0
    _ready: deque[Call] = field(default_factory=deque)
    _queue: list[tuple[Key, Call]] = field(default_factory=list)
    _decoding: list[_Decoding] = field(default_factory=list)
    _finishing: list[Call] = field(default_factory=list)
    _started: list[tuple[Call, set[Node]]] = field(default_factory=list)  # in this step, and what they lock

    def __post_init__(self) -> None:
        self.draft = Draft(self.states.cache, self.footprint.cut)
        self._rivals = Rivals(self.cast.groups.values())

    def run(self) -> None:
        """Until every call has ended."""
        for call in self.cast.calls:
            bad = next((p for p in call.parents if p.state in (State.FAILED, State.CANCELLED)), None)
            lost = next((group.failure for group in call.groups if group.failure is not None), None)
            if bad is not None:
                self._fail(call, because_of(bad))
            elif lost is not None:
                self._fail(call, lost)
            elif not call.pending:
                self._ready.append(call)
        self._resolve_ready()
        self._settle(-1)
        step = 0
        while self._queue or self._decoding:
            self._step(step)
            if self._queue or any(decoding.ends == step + 1 for decoding in self._decoding):
                step += 1
            elif self._decoding:  # until the step whose samples are the last of some decode
                following = min(decoding.ends for decoding in self._decoding) - 1
                self.footprint.quiet(step + 1, following - step - 1)
                step = following

    # ---- ready

    def _resolve_ready(self) -> None:
        while self._ready:
            call = self._ready.popleft()
            if call.state.ended:
                continue
            try:
                resolve(self.draft, call, self.cast.limit)
            except RequestError as error:
                self._fail(call, Failure(error.reason, error.text, error.ids))
                continue
            if call.spec.decode is not None:
                self._foresee(call)
            self._tokens += len(call.tokens) + sum(use.tokens for use in call.uses if use.exact)
            if self._tokens > MAX_TOKENS:
                raise RequestError(
                    Reason.TOO_LARGE,
                    f"the plan would go through more than {MAX_TOKENS} tokens; plan fewer calls at a time, or assume "
                    "shorter answers",
                    (call.id,),
                )
            if call.spec.lazy:
                self._complete(call)
            else:
                heapq.heappush(self._queue, (self.states.order.key(call), call))

    def _foresee(self, call: Call) -> None:
        """A branch with all the tokens that the call will have."""
        span = call.span
        self.cast.foresee(call)
        assert span is not None
        assert span.node.parent is not None
        own = call.tokens[call.own_visible - 1 :]
        if len(own) > len(span.node):
            call.span = Span(self.draft.branch(span.node.parent, own).node, span.lo)
            self.draft.retain(call.span)
            self.draft.release(span)

    def _fail(self, call: Call, failure: Failure, state: State = State.FAILED) -> None:
        """The call ends so, and what waits for it fails."""
        pending = [(call, failure, state)]
        while pending:
            call, failure, state = pending.pop()
            if call.state.ended:
                continue
            call.state, call.failure = state, failure
            for use in call.uses:
                if use.exact:
                    self.draft.release(use.span)
            if call.span is not None:
                self.draft.release(call.span)
            pending.extend((child, because_of(call), State.FAILED) for child in call.children)
            pending.extend((child, why, State.FAILED) for child, why in self._rivals.failed())

    # ---- groups

    def _settle(self, step: int) -> None:
        """What groups have their answers with the end of this step, and those that have them by that."""
        ready: list[Call] | None = None
        while ready is None or ready:
            ready = []
            while (settled := self._rivals.settle()) is not None:
                group, children = settled
                if group.spec.cancel_rest:
                    text = f"group {group.id!r} has the {group.spec.need} answers it needs"
                    for member in group.members:
                        if not member.state.ended:
                            self._cancel(member, Failure(Reason.CANCELLED, text), step)
                ready += [child for child in children if not child.pending]
            self._ready.extend(ready)
            self._resolve_ready()

    def _cancel(self, call: Call, failure: Failure, step: int) -> None:
        decoding = next((decoding for decoding in self._decoding if decoding.call is call), None)
        if decoding is not None:
            self._decoding.remove(decoding)
            self.footprint.drop(call)
            self.cast.stop(call, step + 1 - decoding.began)
        else:
            self.cast.stop(call, len(self.cast.begun(call)))
        self._fail(call, failure, State.CANCELLED)

    # ---- steps

    def _step(self, number: int) -> None:
        key = self.states.order.key
        for decoding in sorted((d for d in self._decoding if d.ends == number), key=lambda d: key(d.call)):
            self._decoding.remove(decoding)
            self._end(decoding.call)
        while self._queue:
            call = heapq.heappop(self._queue)[1]
            if not call.state.ended:
                self._start(call, number)
        self.footprint.step(number)
        sampled = [d for d in self._decoding if d.ends == number + 1]
        for decoding in sorted(sampled, key=lambda d: (False, key(d.call)) if d.began < number else (True, ())):
            call = decoding.call
            if self._seal(call, _capacity(call.generated)):
                self._decoding.remove(decoding)
        for call in self._finishing:
            self._finish(call)
        self._finishing.clear()
        self._started.clear()
        self._settle(number)

    def _start(self, call: Call, step: int) -> None:
        assert call.span is not None
        draft, own = self.draft, call.span.node
        needs = draft.needs([*inputs(call), call.span])
        missing = [node for node in needs if not draft.stored(node)]
        for node in missing:
            written = draft.written(node)
            first = len(node) - max(node.known, written)
            for receipt, name, tokens in charges(call, node, node.lo + written, len(node) - written, first):
                setattr(receipt, name, getattr(receipt, name) + tokens)
        self._started.append((call, set(needs)))
        decode = call.spec.decode
        left = call.generated - len(self.cast.begun(call)) if decode is not None and not decode.one_pass else None
        if left is not None:
            missing.remove(own)
            needs.remove(own)
        for node in missing:
            draft.write(node, len(node))
            self.footprint.reads((node, *reads(node)))
        self.footprint.hold(needs)
        if left is None:
            self._complete(call)
            self._finishing.append(call)
            self._resolve_ready()
            return
        began = step + left - call.generated
        self.footprint.begin(call, own, began, inputs(call))
        if left:
            self._decoding.append(_Decoding(call, began, step + left))
        elif not (self.cast.found(call) and self._seal(call, len(call.tokens))):
            self._end(call)

    def _seal(self, call: Call, capacity: int) -> bool:
        """The content is generated, the last token of it and the trailer remain to be encoded. True if they are found
        encoded."""
        assert call.span is not None
        draft, own = self.draft, call.span.node
        draft.write(own, call.generated)  # the last token of the header among them
        self._fold(call, capacity)
        if not all(draft.stored(node) for node in call.span.upwards()):
            return False
        self.footprint.end(call, len(call.tokens) - call.own_visible + 1)
        self._complete(call)
        self._resolve_ready()
        return True

    def _end(self, call: Call) -> None:
        """The step encodes the last token and the trailer."""
        assert call.span is not None
        for node in call.span.upwards():
            self.draft.write(node, len(node))
        self.footprint.end(call, len(call.tokens) - call.own_visible + 1)
        self.footprint.reads(node for span in (*inputs(call), call.span) for node in span.upwards())
        self._complete(call)
        self._finishing.append(call)
        self._resolve_ready()

    def _complete(self, call: Call) -> None:
        """Usable by its children, in this same step."""
        call.encoded = True
        call.state = State.DONE
        for child in call.children:
            child.pending -= 1
            if child.pending == 0 and not child.state.ended:
                self._ready.append(child)

    def _finish(self, call: Call) -> None:
        """The step has run. What of a branch others read by now stays as it is."""
        assert call.span is not None
        own = call.span.node
        is_read = any(own in locked for other, locked in self._started if other is not call)
        if call.spec.decode is not None and not own.indexed and not is_read:
            self._fold(call, len(call.tokens))

    def _fold(self, call: Call, capacity: int) -> None:
        assert call.span is not None
        call.span, folded = self.draft.seal(call.span, capacity)
        self.footprint.give_back(folded)
        self.footprint.replace(call.span.node)


def _capacity(generated: int) -> int:
    """Slots of a decode's tail when its content ends: see `grow`."""
    more = min(RUN, generated)
    while more + 1 < generated:
        more += 1 + min(RUN, generated - more - 1)
    return 1 + more
