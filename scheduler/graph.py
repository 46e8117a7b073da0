"""Workflows and the graphs of their calls: who is called what, who waits for whom."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pavane.scheduler.calls import Call, Group, Workflow
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.scoring import Scoring
from pavane.scheduler.spec import CallSpec, GroupSpec
from pavane.scheduler.tenants import Tenants


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a request is checked against before anything is accepted."""

    max_model_len: int
    slots: int
    vocab_size: int
    max_unfinished: int = 16_384  # calls accepted and not ended, over all workflows
    max_messages: int = 100_000  # ids of one workflow
    max_parents: int = 512


class Graph:
    """Owns all workflows and calls. Checks a submission whole before it links any of it."""

    def __init__(self, limits: Limits, tenants: Tenants) -> None:
        self.limits = limits
        self.tenants = tenants
        self.workflows: dict[tuple[str, str], Workflow] = {}
        self.unfinished = 0
        self._serial = 0

    def open(self, namespace: str, workflow_id: str, ttl: float, now: float) -> Workflow:
        """The workflow, new or as it is."""
        workflow = self.workflows.get((namespace, workflow_id))
        if workflow is None:
            self._serial += 1
            tenant = self.tenants.get(namespace)
            workflow = Workflow(namespace, workflow_id, self._serial, tenant, 0, ttl, opened_at=now, touched_at=now)
            self.workflows[workflow.key] = workflow
            tenant.workflows += 1
        workflow.touched_at = now
        return workflow

    def forget(self, workflow: Workflow) -> None:
        del self.workflows[workflow.key]
        workflow.tenant.workflows -= 1

    def workflow(self, namespace: str, workflow_id: str) -> Workflow:
        found = self.workflows.get((namespace, workflow_id))
        if found is None:
            raise RequestError(
                Reason.UNKNOWN_WORKFLOW,
                f"no workflow {workflow_id!r} is open: call OpenWorkflow first; CloseWorkflow and the ttl end it",
                (workflow_id,),
            )
        return found

    def call(self, workflow: Workflow, message_id: str) -> Call:
        found = workflow.calls.get(message_id)
        if found is None:
            if message_id in workflow.groups:
                text = f"{message_id!r} is a group, not a message: name one of its members"
            elif message_id in workflow.digests:
                text = f"message {message_id!r} was released"
            else:
                text = f"no message {message_id!r} in this workflow"
            raise RequestError(Reason.UNKNOWN_MESSAGE, text, (message_id,))
        return found

    def submit(
        self,
        workflow: Workflow,
        specs: Sequence[CallSpec],
        groups: Sequence[GroupSpec],
        now: float,
        retry_after: float,
        admit: Callable[[Sequence[CallSpec]], None],
    ) -> tuple[list[Call], list[Group]]:
        """Checks all of it, then links what is new; returns that, parents before children."""
        calls: list[Call] = []
        linked: list[Group] = []
        for spec in self.check(workflow, specs, groups, retry_after, admit):
            workflow.digests[spec.id] = spec.digest
            if isinstance(spec, CallSpec):
                calls.append(self._link(workflow, spec, now))
            else:
                linked.append(_link_group(workflow, spec))
        return calls, linked

    def check_score(self, workflow: Workflow, spec: CallSpec) -> None:
        """RequestError if the call that is to be scored is wrong in itself or reads what is not there."""
        self._reads(workflow, spec, {})
        self._check(spec)

    def score(
        self,
        workflow: Workflow,
        scoring: Scoring,
        now: float,
        retry_after: float,
        admit: Callable[[Sequence[CallSpec]], None],
    ) -> list[Call]:
        """Links the passes of a score, whose call was checked, if they can be accepted; they are known by no name and
        released as soon as they end."""
        spec = scoring.spec.call
        self._check_unfinished(len(scoring.passes), retry_after)
        admit([spec] * len(scoring.passes))
        scoring.calls = [self._link(workflow, one, now) for one in scoring.specs(self._serial)]
        for call, one in zip(scoring.calls, scoring.passes.values(), strict=True):
            call.scoring, call.released = one, True
            call.pending += one.reference is not None  # and this one's end
        return scoring.calls

    def check(
        self,
        workflow: Workflow,
        specs: Sequence[CallSpec],
        groups: Sequence[GroupSpec],
        retry_after: float,
        admit: Callable[[Sequence[CallSpec]], None],
    ) -> list[CallSpec | GroupSpec]:
        """What is new, parents before children; RequestError if some of it cannot be accepted, which `admit` is asked
        last. What was submitted before with the same bytes is passed over."""
        ordered = self._ordered(workflow, self._new(workflow, specs, groups))
        for spec in ordered:
            if isinstance(spec, CallSpec):
                self._check(spec)
        self._check_count(workflow, len(ordered), retry_after)
        admit([spec for spec in ordered if isinstance(spec, CallSpec)])
        return ordered

    def _check_count(self, workflow: Workflow, count: int, retry_after: float) -> None:
        if len(workflow.digests) + count > self.limits.max_messages:
            raise RequestError(
                Reason.TOO_LARGE, f"a workflow has at most {self.limits.max_messages} messages; open another one"
            )
        self._check_unfinished(count, retry_after)

    def _check_unfinished(self, count: int, retry_after: float) -> None:
        if count > self.limits.max_unfinished:
            raise RequestError(
                Reason.TOO_LARGE,
                f"{count} calls in one submission; the server holds at most {self.limits.max_unfinished} unfinished",
            )
        if self.unfinished + count > self.limits.max_unfinished:
            raise RequestError(
                Reason.QUEUE_FULL,
                f"{self.unfinished} calls are unfinished, at most {self.limits.max_unfinished} are held; send later",
                retry_after=retry_after,
            )

    def _new(
        self, workflow: Workflow, specs: Sequence[CallSpec], groups: Sequence[GroupSpec]
    ) -> dict[str, CallSpec | GroupSpec]:
        fresh: dict[str, CallSpec | GroupSpec] = {}
        given: list[CallSpec | GroupSpec] = [*specs, *groups]
        for spec in given:
            known = workflow.digests.get(spec.id) or (fresh[spec.id].digest if spec.id in fresh else None)
            if known is None:
                fresh[spec.id] = spec
            elif known != spec.digest:
                raise RequestError(
                    Reason.ID_REUSED,
                    f"id {spec.id!r} is taken already: choose a new one (only the same bytes may come again)",
                    (spec.id,),
                )
        return fresh

    def _ordered(self, workflow: Workflow, fresh: dict[str, CallSpec | GroupSpec]) -> list[CallSpec | GroupSpec]:
        """Parents first, else in the order given."""
        edges = {spec.id: self._reads(workflow, spec, fresh) for spec in fresh.values()}
        order: list[CallSpec | GroupSpec] = []
        ordered: set[str] = set()
        for name in fresh:
            path = [name]  # each waits for the next
            on_path = {name}
            while path:
                missing = next((p for p in edges[path[-1]] if p not in ordered), None)
                if missing in on_path:
                    cycle = (*path[path.index(missing) :], missing)
                    raise RequestError(
                        Reason.CYCLE,
                        f"calls wait for each other: {' <- '.join(cycle)}; remove one of these edges",
                        cycle,
                    )
                if missing is not None:
                    path.append(missing)
                    on_path.add(missing)
                else:
                    last = path.pop()
                    on_path.remove(last)
                    if last not in ordered:
                        ordered.add(last)
                        order.append(fresh[last])
        return order

    def _reads(
        self, workflow: Workflow, spec: CallSpec | GroupSpec, fresh: dict[str, CallSpec | GroupSpec]
    ) -> list[str]:
        """Those of `fresh` that a call or group waits for."""
        if isinstance(spec, GroupSpec):
            names = list(spec.members)
            messages = names
            what, role = "group", "member"
        else:
            names = [parent.id for parent in spec.parents]
            messages = [] if spec.copy_of is None else [spec.copy_of]
            what, role = "call", "parent"
        if len(names) > self.limits.max_parents:
            raise RequestError(
                Reason.TOO_LARGE,
                f"{what} {spec.id!r} has {len(names)} {role}s, the limit is {self.limits.max_parents}",
                (spec.id,),
            )
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            remedy = "to read its tokens again, Copy the message" if what == "call" else "name it once"
            raise RequestError(
                Reason.INVALID_PARENT,
                f"{what} {spec.id!r} names {role} {twice[0]!r} twice; {remedy}",
                (spec.id, *twice),
            )
        if isinstance(spec, GroupSpec) and not 1 <= spec.need <= len(names):
            raise RequestError(
                Reason.INVALID_GROUP,
                f"group {spec.id!r} needs {spec.need} of {len(names)} members; need is in 1..{len(names)}",
                (spec.id,),
            )
        for name in {*names, *messages}:
            target = fresh.get(name)
            if isinstance(target, GroupSpec) and name in messages:
                raise RequestError(
                    Reason.INVALID_GROUP,
                    f"{what} {spec.id!r} names the group {name!r} where only a message can stand",
                    (spec.id, name),
                )
            if target is None and (name in messages or name not in workflow.groups):
                self.call(workflow, name)
        return [name for name in dict.fromkeys([*names, *messages]) if name in fresh]

    def _check(self, spec: CallSpec) -> None:
        limits, ids = self.limits, (spec.id,)
        decode = spec.decode
        self._check_length(spec)
        for tokens in (spec.tokens, decode.forced if decode else ()):
            wrong = _outside(tokens, limits.vocab_size)
            if wrong is not None:
                raise RequestError(
                    Reason.INVALID_TOKENS,
                    f"call {spec.id!r}: token id {wrong} is not in 0..{limits.vocab_size - 1}",
                    ids,
                )
        if not spec.tokens and spec.copy_of is None:
            what = "an empty header" if decode else "no tokens"
            raise RequestError(Reason.EMPTY_CONTENT, f"call {spec.id!r} has {what}; give it at least one token", ids)
        for parent in spec.parents:
            if parent.offset is not None and not 0 <= parent.offset < limits.max_model_len:
                raise RequestError(
                    Reason.INVALID_PLACEMENT,
                    f"call {spec.id!r} places {parent.id!r} at offset {parent.offset}; offsets are in "
                    f"0..{limits.max_model_len - 1}",
                    (spec.id, parent.id),
                )
        if spec.start is not None and not 0 <= spec.start < limits.max_model_len:
            raise RequestError(
                Reason.INVALID_PLACEMENT,
                f"call {spec.id!r} starts at {spec.start}; offsets are in 0..{limits.max_model_len - 1}",
                ids,
            )
        if decode is not None and decode.forced and decode.max_tokens not in (None, len(decode.forced)):
            raise RequestError(
                Reason.INVALID_SAMPLING,
                f"call {spec.id!r} forces {len(decode.forced)} tokens and sets max_tokens {decode.max_tokens}; leave "
                "max_tokens out",
                ids,
            )

    def _check_length(self, spec: CallSpec) -> None:
        limits, decode, ids = self.limits, spec.decode, (spec.id,)
        wanted = 0 if decode is None else len(decode.trailer) + (len(decode.forced) or decode.max_tokens or 1)
        length = len(spec.tokens) + wanted
        if length > limits.max_model_len:
            raise RequestError(
                Reason.CONTEXT_TOO_LONG,
                f"call {spec.id!r} is {length} tokens long by itself ({len(spec.tokens)} given, {wanted} to come); the "
                f"model's limit is {limits.max_model_len}",
                ids,
            )
        if length > limits.slots:
            raise RequestError(
                Reason.NEVER_FITS,
                f"call {spec.id!r} needs {length} token slots by itself, the server has {limits.slots}",
                ids,
            )

    def _link(self, workflow: Workflow, spec: CallSpec, now: float) -> Call:
        self._serial += 1
        call = Call(spec, workflow, self._serial, now, seed=spec.decode.seed if spec.decode else 0)
        call.expected_readers = spec.retention.readers
        for name in dict.fromkeys([*(parent.id for parent in spec.parents), *([spec.copy_of] if spec.copy_of else [])]):
            group = workflow.groups.get(name)
            if group is None:
                link_parent(call, workflow.calls[name])
                call.pending += not workflow.calls[name].promised
                continue
            call.groups.append(group)
            if group.open:
                group.children[call] = None
                call.pending += 1
            for winner in group.winners:
                link_parent(call, winner)
        workflow.calls[spec.id] = call
        workflow.open[call] = None
        workflow.unfinished += 1
        self.unfinished += 1
        return call


def _outside(tokens: Sequence[int], size: int) -> int | None:
    """The first of them that is not in 0..size - 1. A text of a megabyte is looked at without a Python object for each
    token."""
    if not tokens:
        return None
    ids = np.asarray(tokens) if isinstance(tokens, array) else None
    low, high = (ids.min(), ids.max()) if ids is not None else (min(tokens), max(tokens))
    return None if low >= 0 and high < size else next(token for token in tokens if not 0 <= token < size)


def link_parent(call: Call, parent: Call) -> None:
    """`call` reads `parent`, once, by whatever names."""
    if parent not in call.parents:
        call.parents.append(parent)
        parent.unfinished_readers += 1
        parent.children[call] = None


def _link_group(workflow: Workflow, spec: GroupSpec) -> Group:
    group = Group(spec, workflow, [workflow.calls[name] for name in spec.members])
    for member in group.members:
        member.member_of.append(group)
        member.unfinished_readers += 1
    workflow.groups[spec.id] = group
    return group
