"""Workflows and the graphs of their calls: who is called what, who waits for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pavane.scheduler.calls import Call, Workflow
from pavane.scheduler.errors import Reason, RequestError
from pavane.scheduler.spec import CallSpec
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
            gone = message_id in workflow.digests
            text = f"message {message_id!r} was released" if gone else f"no message {message_id!r} in this workflow"
            raise RequestError(Reason.UNKNOWN_MESSAGE, text, (message_id,))
        return found

    def submit(self, workflow: Workflow, specs: Sequence[CallSpec], now: float, retry_after: float) -> list[Call]:
        """Checks all of `specs`, then links the new ones; returns these, parents before children. Calls that were
        submitted before with the same bytes are passed over."""
        fresh = self._new(workflow, specs)
        ordered = self._ordered(workflow, fresh)
        for spec in ordered:
            self._check(spec)
        count = len(ordered)
        if len(workflow.digests) + count > self.limits.max_messages:
            raise RequestError(
                Reason.TOO_LARGE, f"a workflow has at most {self.limits.max_messages} messages; open another one"
            )
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
        return [self._link(workflow, spec, now) for spec in ordered]

    def _new(self, workflow: Workflow, specs: Sequence[CallSpec]) -> dict[str, CallSpec]:
        fresh: dict[str, CallSpec] = {}
        for spec in specs:
            known = workflow.digests.get(spec.id) or (fresh[spec.id].digest if spec.id in fresh else None)
            if known is None:
                fresh[spec.id] = spec
            elif known != spec.digest:
                raise RequestError(
                    Reason.ID_REUSED,
                    f"message id {spec.id!r} is another call already: choose a new id (the same bytes may come again)",
                    (spec.id,),
                )
        return fresh

    def _ordered(self, workflow: Workflow, fresh: dict[str, CallSpec]) -> list[CallSpec]:
        """Parents first, else in the order given."""
        edges: dict[str, list[str]] = {}
        for spec in fresh.values():
            names = [parent.id for parent in spec.parents]
            if len(names) > self.limits.max_parents:
                raise RequestError(
                    Reason.TOO_LARGE,
                    f"call {spec.id!r} has {len(names)} parents, the limit is {self.limits.max_parents}",
                    (spec.id,),
                )
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise RequestError(
                    Reason.INVALID_PARENT,
                    f"call {spec.id!r} names parent {twice[0]!r} twice; to read its tokens again, Copy the message",
                    (spec.id, *twice),
                )
            if spec.copy_of is not None:
                names.append(spec.copy_of)
            for name in names:
                if name not in fresh:
                    self.call(workflow, name)
            edges[spec.id] = [name for name in names if name in fresh]
        order: list[CallSpec] = []
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

    def _check(self, spec: CallSpec) -> None:
        limits, ids = self.limits, (spec.id,)
        decode = spec.decode
        self._check_length(spec)
        tokens = (*spec.tokens, *(decode.forced if decode else ()))
        wrong = next((t for t in tokens if not 0 <= t < limits.vocab_size), None)
        if wrong is not None:
            raise RequestError(
                Reason.INVALID_TOKENS, f"call {spec.id!r}: token id {wrong} is not in 0..{limits.vocab_size - 1}", ids
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
        names = [parent.id for parent in spec.parents]
        if spec.copy_of is not None and spec.copy_of not in names:
            names.append(spec.copy_of)
        for name in names:
            parent = workflow.calls[name]
            call.parents.append(parent)
            parent.unfinished_readers += 1
            parent.children[call] = None
            call.pending += not parent.promised
        workflow.calls[spec.id] = call
        workflow.digests[spec.id] = spec.digest
        workflow.unfinished += 1
        self.unfinished += 1
        return call
