"""Random verbs on a cache with a tier below it, moved by hand: every slot that counts holds what it should."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from pavane.cache import Change, Costs, GraphCache, Keep, Member, NeverFitsError, Node, Span, Tier, audit, cut
from pavane.cache.costs import TRY_AGAIN
from pavane.cache.slots import Extent, length_of

PAGE = 4


def expand(extents: list[Extent]) -> list[int]:
    return [slot for start, length in extents for slot in range(start, start + length)]


def contents(node: Node, count: int) -> list[bytes]:
    """What the KV of its first `count` tokens is a function of."""
    return [node.key_at(i + 1) for i in range(count)]


@dataclass(eq=False)
class Holder:
    """What a call would know: its message, whether it is a running decode, and what it has locked."""

    span: Span
    decode: bool
    tokens: list[int]
    needs: list[Span] = field(default_factory=list)


class World:
    """A cache, callers, and the memory: what lies in each slot and in each entry of the tier."""

    def __init__(self, seed: int, *, faulty: bool) -> None:
        self.rng = rng = random.Random(seed)
        self.tier = Tier(rng.choice([2, 9, 200]), PAGE, Costs(1, bytes_per_s=1e9))
        size = rng.choice([14, 30, 60])
        self.cache = GraphCache(size, bos_id=rng.choice([None, 1]), absolute=rng.random() < 0.3, tier=self.tier)
        self.holders: list[Holder] = []
        self.slots: list[bytes | None] = [None] * size
        self.below: dict[bytes, list[bytes | None]] = {}
        self.faulty = faulty
        self.seen: Counter[str] = Counter()
        self.told: Counter[str] = Counter()  # tokens in slots and below, by what `on_change` has told
        self.cache.on_change = self.changed

    def changed(self, change: Change, node: Node, tokens: int) -> None:
        source, target = {
            "stored": ("", "slots"), "evicted": ("slots", ""), "left": ("slots", "host"), "came": ("host", "slots"),
            "lost": ("host", ""),
        }[change]  # fmt: skip
        self.told[source] -= tokens
        self.told[target] += tokens
        self.told.pop("", None)

    def pick(self, running: bool) -> Holder | None:
        fitting = [holder for holder in self.holders if bool(holder.needs) == running]
        return self.rng.choice(fitting) if fitting else None

    # ---- what callers do

    def submit(self) -> None:
        rng = self.rng
        done = [holder for holder in self.holders if not holder.decode]
        members: list[Member] = []
        cursor = 0
        for parent in rng.sample(done, min(len(done), rng.randrange(3))):
            at = cursor if rng.random() < 0.7 else rng.randrange(9)
            members.append(Member(parent.span, at))
            cursor = members[-1].end
        place = self.cache.position("", members, max((member.end for member in members), default=0))
        tokens = [rng.randint(3, 4) for _ in range(rng.randint(1, 9))]
        decode = rng.random() < 0.4
        span = self.cache.branch(place.node, tokens) if decode else self.cache.extend(place.node, tokens)
        self.cache.retain(span)
        self.holders.append(Holder(span, decode, tokens))

    def release(self) -> None:
        holder = self.pick(running=False)
        if holder is not None and self.rng.random() < 0.5:
            self.holders.remove(holder)
            self.cache.release(holder.span)

    def acquire(self) -> None:
        holder = self.pick(running=False)
        if holder is None:
            return
        inputs = [member.span for member in holder.span.node.context.members]
        above = holder.span.nodes()[0].parent
        if above is not None and len(above):
            inputs.append(Span(above, 0))
        needs = self.cache.requirements([*inputs, holder.span])
        try:
            if self.cache.acquire(needs, holder, spare=2 if holder.decode else 0):
                holder.needs = needs
        except NeverFitsError:
            self.seen["never fits"] += 1

    def fill(self) -> None:
        """The next tokens in the order of a call's needs; all that it reads must be in its slots."""
        holder = self.pick(running=True)
        if holder is None:
            return
        for node in [node for need in holder.needs for node in need.nodes()]:
            if node.complete:
                continue
            if node.owner is not holder or node.coming:
                self.seen["waits"] += node.coming
                return
            read = [n for member in node.context.members for n in member.span.nodes()]
            read += Span(node.parent, 0).nodes() if node.parent is not None and len(node.parent) else []
            assert all(n.complete and not n.coming for n in read)
            assert all(n.locks for n in read)
            count = min(self.rng.randint(1, 7), len(node) - node.filled)
            self.write(node, node.filled, node.filled + count)
            self.cache.fill(node, count)
            return

    def write(self, node: Node, begin: int, end: int) -> None:
        """A step is run: first its moves."""
        self.transfer()
        for slot, content in zip(expand(node.slots())[begin:end], contents(node, end)[begin:], strict=True):
            self.slots[slot] = content

    def tail(self, holder: Holder) -> bool:
        return bool(holder.decode and holder.needs) and not holder.span.node.coming

    def append(self) -> None:
        holders = [h for h in self.holders if self.tail(h) and h.span.node.complete]
        if holders:
            holder = self.rng.choice(holders)
            node = holder.span.node
            if self.cache.grow(node, len(node) + 1):
                token = self.rng.randint(3, 4)
                self.cache.append(node, [token], holder)
                holder.tokens.append(token)

    def cut(self) -> None:
        holders = [h for h in self.holders if self.tail(h) and h.span.node.complete and len(h.span.node) > 1]
        if holders:
            holder = self.rng.choice(holders)
            node = holder.span.node
            if node.locks == 1 and node.refs == 1 and not node.children and not node.branches:
                keep = self.rng.randint(1, len(node) - 1)
                holder.tokens = holder.tokens[:keep]
                self.seen["copy cut"] += node.copy is not None and node.copy.length > keep
                self.cache.truncate(node, keep)

    def seal(self) -> None:
        holders = [h for h in self.holders if self.tail(h) and h.span.node.complete]
        if holders:
            holder = self.rng.choice(holders)
            self.cache.trim(holder.span.node)
            holder.span = self.cache.seal(holder.span, holder.needs)
            holder.decode = False

    def abandon(self) -> None:
        holder = self.pick(running=True)
        if holder is not None:
            self.cache.abandon(holder.needs, holder)
            holder.needs = []

    def evict(self) -> None:
        self.cache.evict(self.rng.randint(1, 20))

    def promote(self) -> None:
        holder = self.pick(running=False)
        if holder is not None:
            before = len(self.tier.flying)
            self.cache.promote([holder.span])
            self.seen["promoted"] += len(self.tier.flying) - before

    # ---- what a runner does

    def transfer(self) -> None:
        transfers = self.tier.take()
        if transfers is None:
            return
        for key in transfers.drops:
            del self.below[key]
        for key, extents in transfers.leaving:
            self.below[key] = [self.slots[slot] for slot in expand(extents)]
            assert sum(-(-len(kv) // PAGE) for kv in self.below.values()) <= self.tier.pages
        for coming in transfers.coming:
            for slot in expand(coming.extents):
                self.slots[slot] = None
            assert coming.entry.key in self.below

    def land(self) -> None:
        self.transfer()
        if not self.tier.flying:
            return
        coming = self.rng.choice(list(self.tier.flying.values()))
        kv = self.below.get(coming.entry.key)
        if kv is None or (self.faulty and self.rng.random() < 0.2):
            self.cache.landed([], [coming.ticket], [])
            self.seen["failed"] += 1
            return
        for slot, content in zip(expand(coming.extents), kv[coming.first : coming.first + coming.length], strict=True):
            assert self.slots[slot] is None, "somebody wrote where KV is coming"
            self.slots[slot] = content
        self.cache.landed([coming.ticket], [], [])
        self.seen["landed"] += 1
        self.seen["partly"] += 0 < coming.node.filled < len(coming.node)

    def lose(self) -> None:
        """Something that was to go out could not be kept."""
        if self.faulty and self.below:
            key = self.rng.choice(list(self.below))
            self.transfer()
            if key in self.tier.entries:
                del self.below[key]
                self.cache.landed([], [], [key])
                assert key in [*self.tier._drops]
                del self.tier._drops[key]
                self.seen["lost"] += 1

    # ---- what must hold

    def check(self) -> None:
        held = [need for holder in self.holders for need in holder.needs]
        audit(self.cache, [holder.span for holder in self.holders], held)
        for holder in self.holders:
            assert holder.span.tokens().tolist() == holder.tokens
        where: Counter[str] = Counter()  # tokens of nodes that lookups find
        stack = [context.root for context in self.cache.contexts.values()]
        while stack:
            node = stack.pop()
            stack += [*node.children.values(), *node.branches]
            if not len(node):
                continue
            stored = [self.slots[slot] for slot in expand(cut(node.extents or [], node.filled)[0])]
            assert stored == contents(node, node.filled), "slots hold something else"
            copy = node.copy
            if copy is not None and copy.entry.key in self.below and copy.entry.key not in self.tier._leaving:
                kept = self.below[copy.entry.key][copy.first : copy.first + copy.length]
                assert kept == contents(node, copy.length), "the tier holds something else"
                self.seen["split"] += copy.length < copy.entry.tokens
            if node.indexed and node.complete:
                where["slots"] += len(node)
            elif node.indexed and node.covered:
                where["host"] += len(node)
        assert +self.told == where, "the changes told lead elsewhere"

    def close(self) -> None:
        for holder in self.holders:
            self.cache.abandon(holder.needs, holder)
            holder.needs = []
        while self.tier.flying:
            self.land()
        for holder in self.holders:
            self.cache.release(holder.span)
        self.holders = []
        self.check()
        self.cache.evict(self.cache.pool.size)
        while self.tier.entries:
            self.cache.forget(next(iter(self.tier.entries.values())))
        self.transfer()
        assert self.below == {}
        assert self.cache.contexts == {}
        assert self.tier.free == self.tier.pages
        assert self.cache.pool.free == self.cache.pool.size


VERBS = [
    *(["submit"] * 3), *(["acquire"] * 4), *(["fill"] * 8), *(["append"] * 2), *(["abandon"] * 3), *(["land"] * 6),
    *(["release"] * 2), *(["evict"] * 4), *(["cut"] * 2), "seal", "promote", "lose",
]  # fmt: skip


@pytest.mark.parametrize("faulty", [False, True])
def test_random_verbs(faulty: bool) -> None:
    seen: Counter[str] = Counter()
    for seed in range(60):
        world = World(seed, faulty=faulty)
        for _ in range(150):
            getattr(world, world.rng.choice(VERBS))()
            world.check()
        world.close()
        seen += world.seen
    wanted = {"landed", "promoted", "waits", "copy cut", "split", "never fits", "partly"} | (
        {"failed", "lost"} if faulty else set()
    )
    assert wanted <= set(seen), f"only {dict(seen)}"
    assert faulty or not seen["failed"]


def one_node(tokens: int, *, decode: bool, pages: int = 9) -> tuple[GraphCache, Tier, Span]:
    """A message of its own, encoded and evicted."""
    tier = Tier(pages, PAGE, Costs(1, bytes_per_s=1e9))
    cache = GraphCache(40, tier=tier)
    root = cache.position("", [], 0).node
    span = (cache.branch if decode else cache.extend)(root, range(3, 3 + tokens))
    cache.retain(span)
    assert cache.acquire([span], "call")
    cache.fill(span.node, tokens)
    cache.abandon([span], "call")
    assert cache.evict(40) == tokens
    return cache, tier, span


def test_what_has_left_needs_no_inputs_and_comes_back() -> None:
    cache, tier, span = one_node(6, decode=False)
    taken = tier.take()
    assert taken is not None
    assert [(key[:-4], extents) for key, extents in taken.leaving] == [(span.node.key, [Extent(0, 6)])]
    assert (taken.drops, taken.coming, tier.free) == ([], [], 7)
    below = cache.extend(span.node, [9, 9])
    cache.retain(below)
    assert [need.node for need in cache.requirements([span, below])] == [span.node, below.node]
    assert cache.acquire([span], "other")
    (coming,) = tier.flying.values()
    assert (coming.first, coming.length, length_of(coming.extents)) == (0, 6, 6)
    assert span.node.filled == 0
    cache.landed([coming.ticket], [], [])
    assert span.node.complete
    assert span.node.owner is None
    assert tier.entries, "it stays, so that it can be evicted for nothing"
    cache.abandon([span], "other")
    tier.take()
    cache.evict(40)
    assert tier.take() is None
    audit(cache, [span, below])


def test_a_branch_that_came_back_in_part_does_not_come_again() -> None:
    cache, tier, span = one_node(6, decode=True)
    cache.append(span.node, [9, 9], None)
    assert not span.node.covered, "the rest is to be computed, and so is what that reads"
    for _ in range(2):
        assert cache.acquire([span], "call")
        tier.take()
        for ticket in list(tier.flying):
            cache.landed([ticket], [], [])
        assert (span.node.filled, span.node.owner) == (6, "call")
        cache.abandon([span], "call")
    assert tier.fetched_tokens == 6
    audit(cache, [span])


def test_the_copy_of_a_branch_goes_with_its_last_reader() -> None:
    cache, tier, span = one_node(6, decode=True)
    assert tier.free == 7
    cache.release(span)
    assert (tier.free, tier.entries, cache.contexts) == (9, {}, {})
    assert tier.take() is None, "it was never there"


def test_a_message_stays_known_while_its_copy_does() -> None:
    cache, tier, span = one_node(6, decode=False, pages=2)
    cache.release(span)
    again = cache.extend(cache.position("", [], 0).node, range(3, 9))
    assert again == span
    assert again.node.covered
    other = cache.extend(cache.position("", [], 0).node, [9] * 5)
    assert cache.acquire([other], "call")
    cache.fill(other.node, 5)
    cache.abandon([other], "call")
    tier.take()
    cache.evict(40)
    taken = tier.take()
    assert taken is not None
    assert len(taken.drops) == len(taken.leaving) == 1, "the older one made room"
    assert not again.node.attached
    audit(cache)


def evicted(cache: GraphCache, tier: Tier, tokens: list[int], level: Keep) -> Span:
    """A text that is kept at `level`, encoded and evicted."""
    span = cache.extend(cache.position("", [], 0).node, tokens)
    cache.retain(span, level)
    assert cache.acquire([span], "call")
    cache.fill(span.node, len(tokens))
    cache.abandon([span], "call")
    cache.evict(40)
    tier.take()
    return span


def test_below_too_goes_first_what_is_kept_for_least() -> None:
    tier = Tier(3, PAGE, Costs(1, bytes_per_s=1e9))
    cache = GraphCache(40, tier=tier)
    soon, held, idle = (
        evicted(cache, tier, [i] * 4, level) for i, level in enumerate((Keep.SOON, Keep.HELD, Keep.IDLE), 3)
    )
    later = evicted(cache, tier, [6] * 4, Keep.LATER)
    assert [span.node.covered for span in (soon, held, idle, later)] == [True, True, False, True]
    cache.regrade(soon, Keep.SOON, Keep.IDLE)
    audit(cache, [(soon, Keep.IDLE), (held, Keep.HELD), (idle, Keep.IDLE), (later, Keep.LATER)])
    last = evicted(cache, tier, [7] * 4, Keep.HELD)
    assert [span.node.covered for span in (soon, held, later, last)] == [False, True, True, True], "it has become less"
    assert not evicted(cache, tier, [8] * 4, Keep.IDLE).node.covered, "all that is there is kept for more"
    evicted(cache, tier, [9] * 4, Keep.HELD)
    assert not held.node.covered, "of a level what was used longest ago"


def test_nothing_is_moved_that_is_sooner_encoded() -> None:
    costs = Costs(1000, bytes_per_s=1e6, encoded_per_s=400.0)
    assert costs.worth_moving(), "2 ms against 2.5 ms"
    costs.observe_step(1, 1e-6)
    assert costs.worth_moving(), "a step of one row says nothing"
    for _ in range(40):
        costs.observe_step(64, 64 / 4000)
    assert [costs.worth_moving() for _ in range(2 * TRY_AGAIN)].count(True) == 2
    for _ in range(40):
        costs.observe_moves(100, 1e-3, 100, 1e-3)
    assert costs.worth_moving()
