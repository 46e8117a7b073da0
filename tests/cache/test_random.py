"""Random verbs on a cache alone, in the order in which callers may use them; audited after each."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pavane.cache import Change, GraphCache, Keep, Member, NeverFitsError, Node, Span, audit
from pavane.cache.eviction import POLICIES, Policy

TOKENS = st.lists(st.integers(3, 5), min_size=1, max_size=7)
LEVELS = st.sampled_from(Keep)


@dataclass(eq=False)
class Holder:
    """What a call would know: its message, whether it is a running decode, and what it has locked."""

    span: Span
    decode: bool
    tokens: list[int]
    level: Keep
    needs: list[Span] = field(default_factory=list)


class CacheMachine(RuleBasedStateMachine):
    @initialize(
        slots=st.sampled_from([12, 25, 60]),
        bos=st.sampled_from([None, 1]),
        absolute=st.booleans(),
        eviction=st.sampled_from(POLICIES),
        cut_keeps=st.sampled_from([1, 3, 64]),
    )
    def open(self, slots: int, bos: int | None, absolute: bool, eviction: Policy, cut_keeps: int) -> None:
        self.patches = pytest.MonkeyPatch()
        self.patches.setattr("pavane.cache.reclaim.CUT_KEEPS", cut_keeps)
        self.cache = GraphCache(slots, bos_id=bos, absolute=absolute, eviction=eviction, on_change=self.changed)
        self.found = 0  # tokens with KV that lookups find, by what `on_change` has told
        self.holders: list[Holder] = []

    def changed(self, change: Change, node: Node, tokens: int) -> None:
        assert 0 < tokens <= len(node)
        assert node.complete == (change == "stored")
        self.found += tokens if change == "stored" else -tokens

    def pick(self, data: st.DataObject, holders: list[Holder]) -> Holder:
        return data.draw(st.sampled_from(range(len(holders))).map(lambda i: holders[i]))

    def view(self, data: st.DataObject) -> tuple[list[Member], int]:
        """Some finished messages as parents, packed or anywhere, and where what follows them begins."""
        done = [holder for holder in self.holders if not holder.decode]
        members: list[Member] = []
        cursor = 0
        for i in data.draw(st.lists(st.integers(0, len(done) - 1), max_size=3, unique=True)) if done else []:
            at = cursor if data.draw(st.booleans()) else data.draw(st.integers(0, 9))
            members.append(Member(done[i].span, at))
            cursor = members[-1].end
        return members, max((member.end for member in members), default=data.draw(st.sampled_from([0, 0, 4])))

    @rule(
        data=st.data(), tokens=TOKENS, decode=st.booleans(), level=LEVELS, namespace=st.sampled_from(["", "", "other"])
    )
    def submit(self, data: st.DataObject, tokens: list[int], decode: bool, level: Keep, namespace: str) -> None:
        members, start = self.view(data) if namespace == "" else ([], 0)
        place = self.cache.position(namespace, members, start)
        span = self.cache.branch(place.node, tokens) if decode else self.cache.extend(place.node, tokens)
        self.cache.retain(span, level)
        assert span.tokens().tolist() == tokens
        assert span.lo == place.node.hi
        again = self.cache.position(namespace, members[::-1], start)
        assert again == place
        self.holders.append(Holder(span, decode, tokens, level))

    @precondition(lambda self: any(not h.needs for h in self.holders))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        holder = self.pick(data, [h for h in self.holders if not h.needs])
        self.holders.remove(holder)
        self.cache.release(holder.span, holder.level)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), level=LEVELS)
    def regrade(self, data: st.DataObject, level: Keep) -> None:
        holder = self.pick(data, self.holders)
        self.cache.regrade(holder.span, holder.level, level)
        holder.level = level

    @precondition(lambda self: any(h.needs and h.span.node.filled for h in self.holders))
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """The step that wrote the end of a message has failed, and its call gives up."""
        holder = self.pick(data, [h for h in self.holders if h.needs and h.span.node.filled])
        node = holder.span.node
        if node.locks == 1 and not node.children and not node.branches:
            self.cache.unfill(node, node.lo + data.draw(st.integers(0, node.filled - 1)))
            self.cache.abandon(holder.needs, holder)
            holder.needs = []

    @precondition(lambda self: any(not h.needs for h in self.holders))
    @rule(data=st.data(), spare=st.integers(0, 6))
    def acquire(self, data: st.DataObject, spare: int) -> None:
        holder = self.pick(data, [h for h in self.holders if not h.needs])
        spare = spare if holder.decode else 0
        inputs = [member.span for member in holder.span.node.context.members]
        if holder.span.lo:
            above = holder.span.nodes()[0].parent
            assert above is not None
            inputs.append(Span(above, 0))
        needs = self.cache.requirements([*inputs, holder.span])
        ready: set[Node] = set()
        for need in needs:
            if not need.node.complete and need.node.owner is None:
                for member in need.node.context.members:
                    assert all(n.complete or n.owner is not None or n in ready for n in member.span.nodes())
            ready.add(need.node)
        alone = all(not other.needs for other in self.holders)
        try:
            got = self.cache.acquire(needs, holder, spare=spare)
        except NeverFitsError:
            got = spare + sum(need.length for need in needs) <= self.cache.pool.size
            assert not got, "it would fit"
            return
        assert got or not alone, "with nobody else, what fits at all fits now"
        if got:
            holder.needs = needs

    @precondition(lambda self: any(h.needs for h in self.holders))
    @rule(data=st.data(), count=st.integers(1, 7))
    def fill(self, data: st.DataObject, count: int) -> None:
        """The next tokens in the order of a call's needs."""
        holder = self.pick(data, [h for h in self.holders if h.needs])
        for node in [node for need in holder.needs for node in need.nodes()]:
            if node.complete:
                continue
            if node.owner is not holder:
                return
            known, filled = node.known, node.filled
            room = sum(extent.length for extent in node.extents or ()) - filled
            count = min(count, len(node) - filled, room)
            if count:
                first = self.cache.fill(node, count)
                assert first == max(0, filled + count - known)
            return

    def running(self) -> list[Holder]:
        return [h for h in self.holders if h.decode and h.needs and h.span.node.owner in (h, None)]

    @precondition(lambda self: self.running())
    @rule(data=st.data(), token=st.integers(3, 5))
    def append(self, data: st.DataObject, token: int) -> None:
        holder = self.pick(data, self.running())
        node = holder.span.node
        if self.cache.grow(node, len(node) + 1):
            self.cache.append(node, [token], holder)
            holder.tokens.append(token)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), trailer=st.integers(0, 2))
    def seal(self, data: st.DataObject, trailer: int) -> None:
        holder = self.pick(data, self.running())
        if trailer and self.cache.grow(holder.span.node, len(holder.tokens) + trailer):
            self.cache.append(holder.span.node, [4] * trailer, holder)
            holder.tokens += [4] * trailer
        self.cache.trim(holder.span.node)
        holder.span = self.cache.seal(holder.span, holder.needs)
        holder.decode = False

    @precondition(lambda self: any(h.needs for h in self.holders))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        holder = self.pick(data, [h for h in self.holders if h.needs])
        self.cache.abandon(holder.needs, holder)
        holder.needs = []

    @rule(count=st.integers(1, 20))
    def evict(self, count: int) -> None:
        idle, free = self.cache.idle_slots, self.cache.pool.free
        freed = self.cache.evict(count)
        assert min(count, idle) <= freed <= idle
        assert self.cache.idle_slots == idle - freed
        assert self.cache.pool.free == free + freed

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def distrust(self, data: st.DataObject) -> None:
        nodes = self.cache.origins(self.pick(data, self.holders).span)
        self.cache.distrust(nodes)
        assert not [node for node in nodes if node.extents is not None and not node.locks]

    @invariant()
    def sound(self) -> None:
        held = [need for holder in self.holders for need in holder.needs]
        audit(self.cache, [(holder.span, holder.level) for holder in self.holders], held)
        assert self.found == sum(len(node) for node in nodes_of(self.cache) if node.indexed and node.complete)
        for holder in self.holders:
            assert holder.span.tokens().tolist() == holder.tokens

    def teardown(self) -> None:
        if not hasattr(self, "cache"):
            return
        self.patches.undo()
        for holder in self.holders:
            self.cache.abandon(holder.needs, holder)
            self.cache.release(holder.span, holder.level)
        audit(self.cache)
        self.cache.evict(self.cache.pool.size)
        audit(self.cache)
        assert self.cache.contexts == {}
        assert self.cache.pool.free == self.cache.pool.size
        assert self.found == 0


def nodes_of(cache: GraphCache) -> list[Node]:
    nodes: list[Node] = []
    pending = [context.root for context in cache.contexts.values()]
    while pending:
        below = [*pending[-1].children.values(), *pending.pop().branches]
        pending += below
        nodes += below
    return nodes


TestCache = CacheMachine.TestCase
TestCache.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
