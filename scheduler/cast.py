"""Who takes part in a preview: the new calls and groups, and copies of those that the workflow has not ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from pavane.scheduler.calls import Call, Group, Workflow
from pavane.scheduler.estimates import Estimates
from pavane.scheduler.spec import CallSpec, Finish, GroupSpec, State

ASSUMED_TOKENS = 256  # of an answer without max_tokens


@dataclass(slots=True)
class Cast:
    """`workflow` is a copy. Nothing that belongs to the engine is changed; calls of the workflow that have ended, or
    will with the step that runs, are parents as they are."""

    workflow: Workflow
    estimates: Estimates
    limit: int  # positions of the model
    assumed: int | None
    now: float
    calls: list[Call] = field(default_factory=list)  # copies of unfinished ones, then the new ones; parents first
    groups: dict[str, Group] = field(default_factory=dict)  # that were open when the preview began, by id
    _known: dict[str, Call] = field(default_factory=dict)  # the same by id, and what the step that runs completes
    _originals: dict[Call, Call] = field(default_factory=dict)  # what the copies are copies of
    _placeholders: count[int] = field(default_factory=lambda: count(-1, -1))

    def enter(self, specs: Sequence[CallSpec | GroupSpec]) -> list[Call]:
        """All take part from now on; returns the new calls. Parents and members come before those that read them."""
        copies: dict[Call, Call] = {}
        serial = 0
        for original in self.workflow.calls.values():
            serial = max(serial, original.serial)
            if original.scoring is not None:
                continue  # no message
            if original.encoded and not original.state.ended:
                copies[original] = self._known[original.id] = replace(original, state=State.DONE, children={})
            elif not original.state.ended:
                parents = [copies.get(parent, parent) for parent in original.parents]
                groups = [self._group(group) for group in original.groups]
                copy = copies[original] = self._add(original.spec, original.serial, parents, groups)
                copy.work, copy.chain = original.work, original.chain
                self._originals[copy] = original
        for group in self.workflow.groups.values():
            self._group(group)
        fresh = []
        for i, spec in enumerate(specs, start=1):
            if isinstance(spec, GroupSpec):
                self.groups[spec.id] = Group(spec, self.workflow, [self._call(name) for name in spec.members])
            else:
                fresh.append(self._add(spec, serial + i, *self._named(spec)))
        for call in fresh:
            self.estimates.link(call, self.limit)
        return fresh

    def _named(self, spec: CallSpec) -> tuple[list[Call], list[Group]]:
        """The parents, and the groups among them, of which only the winners count."""
        names = [edge.id for edge in spec.parents]
        names += [spec.copy_of] if spec.copy_of is not None else []
        known = self.workflow.groups | self.groups
        groups = [known[name] for name in names if name in known]
        parents = dict.fromkeys(self._call(name) for name in names if name not in known)
        parents |= dict.fromkeys(winner for group in groups for winner in group.winners)
        return list(parents), groups

    def _call(self, name: str) -> Call:
        return self._known.get(name) or self.workflow.calls[name]

    def _group(self, group: Group) -> Group:
        """The copy that takes part, of a group that is open."""
        if not group.open:
            return group
        if group.id not in self.groups:
            members = [self._known.get(member.id, member) for member in group.members]
            self.groups[group.id] = Group(group.spec, self.workflow, members)
        return self.groups[group.id]

    def _add(self, spec: CallSpec, serial: int, parents: list[Call], groups: list[Group]) -> Call:
        call = Call(spec, self.workflow, serial, self.now, parents=parents, groups=groups)
        for parent in parents:
            if not parent.state.ended:
                parent.children[call] = None
                call.pending += 1
        for group in groups:
            if group.open:
                group.children[call] = None
                call.pending += 1
        self._known[call.id] = call
        self.calls.append(call)
        return call

    # ---- what they write

    def foresee(self, call: Call) -> None:
        """The content of a decode that has been resolved, and the trailer, as far as its tokens lack them. Sampled ones
        get ids that nothing else has."""
        decode, original = call.spec.decode, self._originals.get(call)
        assert decode is not None
        begun = self.begun(call)
        if decode.forced:
            call.generated = len(decode.forced)
        elif original is not None and original.sealed:
            call.generated = len(begun)
        elif original is not None and original.to_be_sealed:
            call.generated = len(begun) + 1
        else:
            most = ASSUMED_TOKENS if decode.max_tokens is None else decode.max_tokens
            call.generated = max(min(call.max_tokens, self.assumed or most), len(begun) + 1)
        call.finish = Finish.FORCED if decode.forced else Finish.LENGTH
        call.trailer = len(decode.trailer)
        call.content_end = call.content_begin + call.generated
        if not decode.one_pass:
            rest = decode.forced or tuple(next(self._placeholders) for _ in range(call.generated))
            call.tokens.extend((*begun, *rest[len(begun) :], *decode.trailer))

    def stop(self, call: Call, generated: int) -> None:
        """The call ends before its time, with so many tokens; a decode that has them all lacks nothing but their KV."""
        if generated:
            call.first_token_at = self.now
        decode = call.spec.decode
        if decode is not None and not decode.one_pass and generated < call.generated:
            call.generated, call.trailer, call.finish = generated, 0, None
            call.content_end = call.content_begin + generated

    def begun(self, call: Call) -> Sequence[int]:
        """What a call that runs has generated by now."""
        original = self._originals.get(call)
        return original.tokens[original.content_begin : original.content_end] if original is not None else ()

    def found(self, call: Call) -> bool:
        """Whether the tree knows the message that a call has written already, but for its trailer."""
        span = self._originals[call].span
        return span is not None and span.node.indexed
