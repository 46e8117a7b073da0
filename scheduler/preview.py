"""The dry run: what calls would cost, by the same placement, contexts and counting rule as when they run.

A preview goes through the steps that the calls would take if every step had room for all that is ready: calls start in
the step in which their parents are complete, in order of arrival, and a decode gets one token a step. Nothing waits and
nothing is evicted. So receipts come out as predicted, call by call, where that holds. With less room a call may start
later, and who is first to compute what several need may change.

Sampled tokens stand for themselves as ids that nothing else has; how many they will be is assumed, see `preview`.
Unfinished calls of the workflow are gone through as well, those of other workflows are not: what they have computed, or
are computing, counts as there.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from pavane.cache import Node
from pavane.scheduler.calls import Call, Group, Workflow
from pavane.scheduler.critical import critical_path
from pavane.scheduler.draft import Draft, reads
from pavane.scheduler.encode import RUN, charges
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.footprint import Footprint
from pavane.scheduler.order import Key
from pavane.scheduler.resolve import inputs, resolve
from pavane.scheduler.spec import CallSpec, Failure, Finish, GroupSpec, Outcome, Receipt, State
from pavane.scheduler.states import States, because_of

ASSUMED_TOKENS = 256  # of an answer without max_tokens
MAX_TOKENS = 2**22  # of all messages of a plan, re-encodings for EXACT edges included


@dataclass(frozen=True, slots=True)
class Plan:
    """`calls` are the new ones, parents first, without tokens; DONE or FAILED, with the receipt that each will have. A
    finish of LENGTH says that the number of generated tokens is assumed. `total` is the sum of their receipts.

    `peak_slots`: the most slots in use at one time by what the workflow's unfinished calls, new and old, read and
    compute, if nothing of it is evicted. `slots_read`: the distinct slots that each of their steps reads, summed over
    the steps. `critical_path`: ids of the chain of calls with the longest work.
    """

    calls: tuple[Outcome, ...]
    total: Receipt
    peak_slots: int
    slots_read: int
    critical_path: tuple[str, ...]


def preview(
    states: States, workflow: Workflow, specs: Sequence[CallSpec | GroupSpec], assumed: int | None, now: float
) -> Plan:
    """What `specs`, checked and parents first, would cost. Does not wait, and leaves calls and cache as they were.

    An answer whose tokens are not forced is taken to be `assumed` tokens long, at most its max_tokens; with None its
    max_tokens, or ASSUMED_TOKENS if it has none. Raises RequestError (TOO_LARGE) if it would take too much memory.
    """
    calls_only = [spec for spec in specs if isinstance(spec, CallSpec)]
    open_groups = [spec.id for spec in specs if isinstance(spec, GroupSpec)]
    open_groups += [group.id for group in workflow.groups.values() if group.open]
    if open_groups:
        raise RequestError(
            Reason.UNSUPPORTED,
            f"which members of group {open_groups[0]!r} are done first is not known before they run; plan without it",
            tuple(open_groups),
        )
    rehearsal = _Rehearsal(states, replace(workflow), assumed, now)
    try:
        calls = rehearsal.run(calls_only)
        outcomes = tuple(replace(call.outcome(now), tokens=(), logprobs=()) for call in calls)
    finally:
        rehearsal.draft.undo()
    total = Receipt()
    for outcome in outcomes:
        total = total.plus(outcome.receipt)
    return Plan(outcomes, total, rehearsal.footprint.peak, rehearsal.footprint.read, critical_path(rehearsal.calls))


@dataclass(slots=True)
class _Decoding:
    """A decode that began in step `began` and encodes its last tokens, with the trailer, in step `ends`."""

    call: Call
    began: int
    ends: int


@dataclass(slots=True)
class _Rehearsal:
    states: States
    workflow: Workflow  # a copy
    assumed: int | None
    now: float
    footprint: Footprint = field(default_factory=Footprint)
    draft: Draft = field(init=False)
    calls: list[Call] = field(default_factory=list)  # copies of unfinished ones, then the new ones; parents first
    _known: dict[str, Call] = field(default_factory=dict)  # the same by id
    _originals: dict[Call, Call] = field(default_factory=dict)  # what the copies are copies of
    _placeholders: count[int] = field(default_factory=lambda: count(-1, -1))
    _tokens: int = 0
    _ready: deque[Call] = field(default_factory=deque)
    _queue: list[tuple[Key, Call]] = field(default_factory=list)
    _decoding: list[_Decoding] = field(default_factory=list)
    _finishing: list[Call] = field(default_factory=list)
    _started: list[tuple[Call, set[Node]]] = field(default_factory=list)  # in this step, and what they lock

    def __post_init__(self) -> None:
        self.draft = Draft(self.states.cache, self.footprint.cut)

    @property
    def _limit(self) -> int:
        return self.states.graph.limits.max_model_len

    def run(self, specs: Sequence[CallSpec]) -> list[Call]:
        """The new calls as they will have ended; their structure stands until the draft is undone."""
        copies: dict[Call, Call] = {}
        serial = 0
        for original in self.workflow.calls.values():
            serial = max(serial, original.serial)
            if original.encoded and not original.state.ended:
                copies[original] = self._known[original.id] = replace(original, state=State.DONE, children={})
            elif not original.state.ended:
                parents = [copies.get(parent, parent) for parent in original.parents]
                copy = copies[original] = self._add(original.spec, original.serial, parents, original.groups)
                copy.work, copy.chain = original.work, original.chain
                self._originals[copy] = original
        fresh = [self._add(spec, serial + i, *self._named(spec)) for i, spec in enumerate(specs, start=1)]
        for call in fresh:
            self.states.estimates.link(call, self._limit)
        self._resolve_ready()
        step = 0
        while self._queue or self._decoding:
            self._step(step)
            if self._queue or any(decoding.ends == step + 1 for decoding in self._decoding):
                step += 1
            elif self._decoding:  # until the step whose samples are the last of some decode
                following = min(decoding.ends for decoding in self._decoding) - 1
                self.footprint.quiet(step + 1, following - step - 1)
                step = following
        return fresh

    def _named(self, spec: CallSpec) -> tuple[list[Call], list[Group]]:
        """The parents, and the groups among them, of which only the winners count."""
        names = [edge.id for edge in spec.parents]
        names += [spec.copy_of] if spec.copy_of is not None else []
        groups = [self.workflow.groups[name] for name in names if name in self.workflow.groups]
        parents = dict.fromkeys(
            self._known.get(name) or self.workflow.calls[name] for name in names if name not in self.workflow.groups
        )
        parents |= dict.fromkeys(winner for group in groups for winner in group.winners)
        return list(parents), groups

    def _add(self, spec: CallSpec, serial: int, parents: list[Call], groups: list[Group]) -> Call:
        call = Call(spec, self.workflow, serial, self.now, parents=parents, groups=groups)
        for parent in parents:
            if not parent.state.ended:
                parent.children[call] = None
                call.pending += 1
        self._known[call.id] = call
        self.calls.append(call)
        bad = next((p for p in call.parents if p.state in (State.FAILED, State.CANCELLED)), None)
        lost = next((group.failure for group in groups if group.failure is not None), None)
        if bad is not None:
            self._fail(call, because_of(bad))
        elif lost is not None:
            self._fail(call, lost)
        elif not call.pending:
            self._ready.append(call)
        return call

    # ---- ready

    def _resolve_ready(self) -> None:
        while self._ready:
            call = self._ready.popleft()
            if call.state.ended:
                continue
            try:
                resolve(self.draft, call, self._limit)
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
        """The content and the trailer, as far as they are not in the call's tokens yet."""
        decode, span = call.spec.decode, call.span
        assert decode is not None
        assert span is not None
        begun = self._begun(call)
        if decode.forced:
            call.generated = len(decode.forced)
        elif call in self._originals and self._originals[call].sealed:
            call.generated = len(begun)
        elif call in self._originals and self._originals[call].to_be_sealed:
            call.generated = len(begun) + 1
        else:
            most = ASSUMED_TOKENS if decode.max_tokens is None else decode.max_tokens
            call.generated = max(min(call.max_tokens, self.assumed or most), len(begun) + 1)
        call.finish = Finish.FORCED if decode.forced else Finish.LENGTH
        call.trailer = len(decode.trailer)
        call.content_end = call.content_begin + call.generated
        if decode.one_pass:
            return
        rest = decode.forced or tuple(next(self._placeholders) for _ in range(call.generated))
        call.tokens.extend((*begun, *rest[len(begun) :], *decode.trailer))
        assert span.node.parent is not None
        call.span = self.draft.branch(span.node.parent, call.tokens)
        self.draft.retain(call.span)
        self.draft.release(span)

    def _begun(self, call: Call) -> Sequence[int]:
        """What a call that runs has generated by now."""
        original = self._originals.get(call)
        return original.tokens[original.content_begin : original.content_end] if original is not None else ()

    def _found(self, call: Call) -> bool:
        """Whether the tree knows the message that a call has written already, but for its trailer."""
        span = self._originals[call].span
        return span is not None and span.node.indexed

    def _fail(self, call: Call, failure: Failure) -> None:
        pending = [(call, failure)]
        while pending:
            call, failure = pending.pop()
            if call.state.ended:
                continue
            call.state, call.failure = State.FAILED, failure
            for use in call.uses:
                if use.exact:
                    self.draft.release(use.span)
            if call.span is not None:
                self.draft.release(call.span)
            pending.extend((child, because_of(call)) for child in call.children)

    # ---- steps

    def _step(self, number: int) -> None:
        key = self.states.order.key
        for decoding in sorted((d for d in self._decoding if d.ends == number), key=lambda d: key(d.call)):
            self._decoding.remove(decoding)
            self._end(decoding.call)
        while self._queue:
            self._start(heapq.heappop(self._queue)[1], number)
        self.footprint.step(number)
        sampled = [d for d in self._decoding if d.ends == number + 1]
        for decoding in sorted(sampled, key=lambda d: (False, key(d.call)) if d.began < number else (True, ())):
            call = decoding.call
            if self._seal(call, _capacity(call.own_visible, call.generated)):
                self._decoding.remove(decoding)
        for call in self._finishing:
            self._finish(call)
        self._finishing.clear()
        self._started.clear()

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
        left = call.generated - len(self._begun(call)) if decode is not None and not decode.one_pass else None
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
        self.footprint.begin(call, own, call.own_visible, began, inputs(call))
        if left:
            self._decoding.append(_Decoding(call, began, step + left))
        elif not (self._found(call) and self._seal(call, len(call.tokens))):
            self._end(call)

    def _seal(self, call: Call, capacity: int) -> bool:
        """The content is generated, the last token of it and the trailer remain to be encoded. True if they are found
        encoded."""
        assert call.span is not None
        draft, own = self.draft, call.span.node
        draft.write(own, call.own_visible + call.generated - 1)
        self._fold(call, capacity)
        if not all(draft.stored(node) for node in call.span.upwards()):
            return False
        self.footprint.end(call, len(call.tokens))
        self._complete(call)
        self._resolve_ready()
        return True

    def _end(self, call: Call) -> None:
        """The step encodes the last token and the trailer."""
        assert call.span is not None
        for node in call.span.upwards():
            self.draft.write(node, len(node))
        self.footprint.end(call, len(call.tokens))
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


def _capacity(header: int, generated: int) -> int:
    """Slots that a decode has when its content ends: see `grow`."""
    more = min(RUN, generated)
    while more + 1 < generated:
        more += 1 + min(RUN, generated - more - 1)
    return header + more
