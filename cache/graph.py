"""The KV cache of message graphs: one token radix tree per context over one pool of slots.

Five kinds of verbs: structure (`position`, `extend`, `branch`) says which encodings exist; `retain`, `release` and
`regrade` say what they are kept for; `acquire` and `abandon` lock what a running call reads and give slots to what it
has to compute; `grow`, `truncate` and `seal` serve the one node that a running decode appends to; `evict` makes room.
Nothing here waits, and nothing here knows calls: an owner is any object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from pavane.cache.eviction import Idle, Policy
from pavane.cache.nodes import LEVELS, Context, Entry, Keep, Member, Node, Position, Span
from pavane.cache.slots import Extent, SlotPool, cut, join, length_of
from pavane.cache.tiers import Coming, Tier
from pavane.cache.trees import Trees, common

CUT_KEEPS = 64  # a node is dropped in part only if at least so many tokens stay

# KV of a node was computed into slots, dropped from slots, dropped there while a tier keeps it, fetched from the tier,
# or dropped from a tier while it is in no slots.
Change = Literal["stored", "evicted", "left", "came", "lost"]


class NeverFitsError(Exception):
    """A call needs more slots at once than the pool has; waiting does not help."""

    def __init__(self, needed: int, size: int) -> None:
        super().__init__(f"{needed} slots needed at once, the pool has {size}")
        self.needed = needed
        self.size = size


class GraphCache:
    """See the module's docstring.

    `identity` stands for everything but the tokens that decides what K and V are: weights, config, KV dtype.
    `absolute` keeps equal contexts apart that start at different offsets: their encodings are equal only up to
    rounding, which batch-invariant serving does not accept. `eviction` is the order in which KV is dropped: "graph"
    (eviction.py), or the "lru" of everything that no running call uses, as the baseline to compare with.
    `on_change` is called with (change, node, tokens) when a node that lookups find has all its KV, and when such KV is
    dropped: `tokens` of it, the node's last ones. Splitting a node is no change. It must not change the cache.
    """

    def __init__(
        self,
        slots: int,
        *,
        bos_id: int | None = None,
        identity: bytes = b"",
        absolute: bool = False,
        eviction: Policy = "graph",
        on_change: Callable[[Change, Node, int], None] | None = None,
        tier: Tier | None = None,
    ) -> None:
        self.pool = SlotPool(slots)
        self.slots_held: Counter[str] = Counter()  # by namespace; those of none are free
        self.evicted_nodes = [0] * len(LEVELS)  # by level, and in part counts too
        self.evicted_tokens = [0] * len(LEVELS)
        self.on_change = on_change
        self.tier = tier
        if tier is not None:
            tier.on_lost = self._lost
        self._trees = Trees(bos_id=bos_id, identity=identity, absolute=absolute, on_split=self._split)
        self._idle = Idle(eviction)
        self._cuts = eviction == "graph"

    @property
    def bos_id(self) -> int | None:
        return self._trees.bos_id

    @property
    def contexts(self) -> dict[bytes, Context]:
        return self._trees.contexts

    @property
    def idle_slots(self) -> int:
        """Slots that hold KV which no running call uses."""
        return self._idle.slots

    @property
    def evicted_pinned(self) -> int:
        """How often KV was dropped that somebody had pinned, since nothing else was left."""
        return self.evicted_nodes[Keep.PINNED]

    def tokens_by_level(self) -> dict[Keep, int]:
        """Slots that hold KV which no running call uses, by what it is kept for."""
        return dict(zip(LEVELS, self._idle.slots_by_level, strict=True))

    # ---- structure

    def position(self, namespace: str, visible: Sequence[Member], start: int) -> Position:
        """Where tokens that see `visible` (in any order) and begin at offset `start` are found or put.

        They continue the path of one of the visible encodings if what that one sees, and itself, is exactly what is
        visible, in the same relative placement; else they have a context of their own.
        """
        return self._trees.position(namespace, visible, start)

    def extend(self, node: Node, tokens: Sequence[int]) -> Span:
        """The encoding of `tokens` below `node`, found as far as there is one, made (without KV) from there on."""
        return self._trees.extend(node, tokens)

    def branch(self, node: Node, tokens: Sequence[int]) -> Span:
        """A path of its own below `node`, hidden from lookups until it is sealed: a running decode."""
        return self._trees.branch(node, tokens)

    # ---- what encodings are kept for

    def retain(self, span: Span, level: Keep = Keep.HELD) -> None:
        """Keeps the nodes of `span` known (not their KV) until released; `level` says when their KV goes."""
        for node in span.upwards():
            node.refs += 1
            self._hold(node, level)

    def release(self, span: Span, level: Keep = Keep.HELD) -> None:
        """Undoes a `retain` of this level."""
        for node in list(span.upwards()):
            self._let_go(node, level)
            node.refs -= 1
            self._let_rest(node)

    def regrade(self, span: Span, before: Keep, after: Keep) -> None:
        """What was retained at the level `before` is retained at `after` now."""
        for node in span.upwards():
            self._hold(node, after)
            self._let_go(node, before)

    # ---- what running calls hold

    def requirements(self, spans: Iterable[Span]) -> list[Span]:
        """The nodes of `spans` and, for those that nobody has computed or is computing, all that their computation
        reads, as spans of one node each; inputs stand before what needs them."""
        seen: set[Node] = set()
        out: list[Span] = []
        for span in spans:
            for wanted in span.nodes():
                if wanted in seen:
                    continue
                if wanted.complete:  # nearly always
                    seen.add(wanted)
                    out.append(Span(wanted, wanted.lo))
                    continue
                stack: list[tuple[Node, bool]] = [(wanted, False)]
                while stack:
                    node, inputs_done = stack.pop()
                    if inputs_done:
                        out.append(Span(node, node.lo))
                    elif node not in seen:
                        seen.add(node)
                        stack.append((node, True))
                        if not node.complete and node.owner is None and not node.covered:
                            stack.extend((n, False) for n in _inputs(node) if n not in seen)
        return out

    def acquire(self, needs: Sequence[Span], owner: object, *, spare: int = 0, sparing: bool = False) -> bool:
        """Locks `needs`, makes `owner` the one who computes what is missing in them and gives it slots; `spare` more
        for the last one, to grow into. All or nothing: False if there is no room now, or, `sparing`, none without
        dropping what is kept for SOON or more; NeverFitsError if there never is.
        """
        nodes = [node for span in needs for node in span.upwards()]
        for node in nodes:
            self._lock(node)
        missing = [node for node in nodes if node.owner is None and not node.complete]
        sizes = [len(n) for n in missing]
        if missing:
            sizes[-1] += spare
        want = sum(max(0, size - length_of(n.extents or [])) for n, size in zip(missing, sizes, strict=True))
        spared = sum(self._idle.slots_by_level[Keep.SOON :]) if sparing and self._idle.by_level else 0
        if want > self.pool.free + self.idle_slots - spared:
            for node in nodes:
                self._unlock(node)
            total = spare + sum(span.length for span in needs)
            if total > self.pool.size:
                raise NeverFitsError(total, self.pool.size)
            return False
        copied = [node for node in missing if node.copy is not None and not node.filled and not node.coming]
        if self.tier is not None:
            self.tier.pin(copied)
        self._make_room(want)
        for node, size in zip(missing, sizes, strict=True):
            node.owner = owner
            self._allot(node, max(size, length_of(node.extents or [])))
        self._fetch(copied)
        return True

    def abandon(self, needs: Sequence[Span], owner: object) -> None:
        """Undoes `acquire`. What has been computed stays as cache; what has not gives its slots back."""
        for span in reversed(needs):
            for node in list(span.upwards()):
                self._unlock(node)
                if node.owner is owner:
                    node.owner = None
                if node.locks == 0:
                    self._settle(node)
                    self._trees.prune(node)

    def fill(self, node: Node, count: int) -> int:
        """The next `count` tokens of `node` are written by the step being planned. Returns how many of them never were
        before."""
        filled, length = node.filled + count, len(node.tokens)
        assert filled <= length
        assert filled <= length_of(node.extents or [])
        node.filled = filled
        first = min(count, filled - node.known)
        if first > 0:
            node.known = filled
        if filled == length:
            self._stored(node)  # while its owner is known
            node.owner = None
        return max(0, first)

    def unfill(self, node: Node, depth: int) -> None:
        """The step that was to write the path of `node` from `depth` on has failed."""
        for part in list(Span(node, 0).upwards()):
            if part.hi <= depth:
                break
            was = len(part) if part.complete and part.indexed else 0
            part.filled = min(part.filled, max(0, depth - part.lo))
            self._evicted(part, was)
            if part.locks == 0 and part.attached:
                self._settle(part)
                self._trees.prune(part)

    def unlearn(self, node: Node, lo: int, hi: int) -> None:
        """The tokens at depths [lo, hi) of the path to `node` were to be computed for the first time, and were not."""
        for part in Span(node, 0).upwards():
            if part.lo < hi and part.hi > lo:
                part.known = min(part.known, max(0, lo - part.lo))

    # ---- the tail of a running decode

    def grow(self, node: Node, capacity: int) -> bool:
        """Gives `node` slots for `capacity` tokens; False if there is no room."""
        have = length_of(node.extents or [])
        if capacity > have:
            if capacity - have > self.pool.free + self.idle_slots:
                return False
            self._make_room(capacity - have)
            self._allot(node, capacity)
        return True

    def append(self, node: Node, tokens: Sequence[int], owner: object) -> None:
        node.tokens.extend(tokens)
        node.owner = owner

    def truncate(self, node: Node, length: int) -> None:
        del node.tokens[length:]
        node.filled = min(node.filled, length)
        node.known = min(node.known, length)
        if self.tier is not None:
            self.tier.truncate(node)

    def rewind(self, node: Node, length: int, owner: object) -> None:
        """The tokens of `node` from `length` on are to be computed again."""
        node.filled = min(node.filled, length)
        node.owner = owner

    def seal(self, span: Span, needs: list[Span]) -> Span:
        """The branch has its final tokens: lookups may find it. Where the tree already has the same tokens, those
        become part of its path and its own copy is given back. Returns the span, which may end elsewhere now; `needs`,
        what the decode holds, ends with the branch and is brought up to date."""
        own = span.node
        while own.locks <= 1:
            assert own.parent is not None
            above = own.parent
            child = above.children.get(own.tokens[0])
            if child is None:
                del above.branches[own]
                above.children[own.tokens[0]] = own
                if own.complete:
                    self._stored(own)
                break
            same = common(child.tokens, own.tokens, 0)
            if own.refs > 1 or own.children or own.branches:
                break  # somebody reads or continues this very copy
            if child.filled < same or length_of(own.extents or []) < same:
                break  # what they have in common has lost its KV: stay a branch, found by its message alone
            if same < len(child):
                child = self._trees.split(child, same)
            if same == len(own):
                self._fold(own, child, needs)
                return Span(child, span.lo)
            self._fold(self._trees.split(own, same), child, needs)
        return Span(own, span.lo)

    def trim(self, node: Node) -> None:
        """Gives back the slots that a finished decode did not grow into."""
        keep, rest = cut(node.extents or [], len(node))
        if rest:
            node.extents = keep or None
            self._give_back(node, rest)

    # ---- the tier below

    def promote(self, spans: Iterable[Span]) -> None:
        """Fetches what a call will read before it runs, as far as that costs nothing that anybody is kept for."""
        for span in spans:
            for node in span.nodes():
                room = self.pool.free + (self._idle.slots_by_level[Keep.NONE] if self._idle.by_level else 0)
                if self.tier is None or not node.covered or node.locks or len(node) > room:
                    continue
                self.tier.pin([node])
                self._make_room(len(node))
                self._allot(node, len(node))
                self._fetch([node])

    def landed(self, arrived: Iterable[int], failed: Iterable[int], lost: Iterable[bytes]) -> None:
        """Moves have come to an end: tickets of those that came, and of those that could not; `lost` are the keys of
        what could not be kept."""
        assert self.tier is not None
        for key in lost:
            if key in self.tier.entries:
                self.forget(self.tier.entries[key])
        for tickets, good in ((arrived, True), (failed, False)):
            for ticket in tickets:
                coming = self.tier.land(ticket)
                if good:
                    self.tier.fetched_tokens += coming.length
                else:
                    self.tier.failed += 1
                    if coming.entry.nodes:
                        self.forget(coming.entry)
                for node in list(Span(coming.node, coming.lo).upwards()):
                    self._land(node, coming, good)

    def forget(self, entry: Entry) -> None:
        """Drops what a tier holds; no move from it may be under way."""
        assert self.tier is not None
        self._prune_all(self.tier.forget(entry))

    def _fetch(self, nodes: list[Node]) -> None:
        """The copies of `nodes`, which have slots now, are moved there."""
        for node in nodes:
            assert self.tier is not None
            if node.covered:
                node.owner = self.tier
            self._lock(node)
            self.tier.fetch(node)

    def _land(self, node: Node, coming: Coming, good: bool) -> None:
        """A node whose KV was coming has it, or has not."""
        node.coming = False
        if good:
            node.filled = min(len(node), coming.lo + coming.length - node.lo)
            node.known = max(node.known, node.filled)
        if node.owner is self.tier:
            node.owner = None
        if node.complete and node.indexed and self.on_change is not None:
            self.on_change("came", node, len(node))
        self._unlock(node)
        if node.locks == 0:
            self._settle(node)
            self._let_rest(node)

    def _let_rest(self, node: Node) -> None:
        """Nobody runs on `node` any more, or nobody keeps it: what cannot be found goes."""
        if node.refs == 0 and node.locks == 0 and not node.indexed and node.attached:
            if self.tier is not None:
                self.tier.detach(node)
            if node.extents is not None:
                self._idle.discard(node)
                self._held(node.context.namespace, -length_of(node.extents))
                self.pool.release(self._drop(node))
        self._trees.prune(node)

    def _prune_all(self, nodes: list[Node]) -> None:
        for node in nodes:
            self._trees.prune(node)

    # ---- eviction

    def evict(self, count: int) -> int:
        """Drops the KV of idle nodes, in the order of eviction.py, until `count` slots are freed. Returns how many are.

        Of a long node only the end goes, if that is enough: its beginning is what others are likelier to share. But at
        least half of it, or decodes that grow by a few slots would slice it finely.
        """
        freed: list[Extent] = []
        given: dict[str, int] = {}  # slots, by namespace
        missing = count
        while missing > 0 and self._idle.slots:
            node, rank = self._idle.pop()
            length = len(node.tokens)
            dropped = max(missing, length // 2)
            if self._cuts and length - dropped >= CUT_KEEPS and node.indexed:
                self._idle.put_back(self._trees.split(node, length - dropped), rank)
            if self.tier is not None:
                self._prune_all(self.tier.keep(node))
            self.evicted_nodes[node.level] += 1
            self.evicted_tokens[node.level] += node.filled
            namespace = node.context.namespace
            extents = self._drop(node)
            slots = length_of(extents)
            given[namespace] = given.get(namespace, 0) + slots
            missing -= slots
            freed += extents
        for namespace, slots in given.items():
            self._held(namespace, -slots)
        self.pool.release(join([], sorted(freed)))
        return count - missing

    def _make_room(self, count: int) -> None:
        if count > self.pool.free:
            self.evict(count - self.pool.free)

    def _drop(self, node: Node) -> list[Extent]:
        """Takes the KV from a node that stands in no order any more; the slots, and counting them, are the caller's."""
        assert node.extents is not None
        extents, node.extents = node.extents, None
        node.filled = 0
        if self.on_change is not None and node.indexed:
            self.on_change("left" if node.covered else "evicted", node, len(node))
        self._trees.prune(node)
        return extents

    def _settle(self, node: Node) -> None:
        """An unlocked node keeps its KV if it is whole; else what is written becomes a node of its own. A branch stays
        one node, partly written: its call goes on with it."""
        if node.complete or node.extents is None or (node.filled and not node.indexed):
            return
        self._idle.discard(node)
        if node.filled:
            upper = self._trees.split(node, node.filled)
            if upper.locks == 0:
                self._idle.add(upper)
        if node.extents is not None:  # all of it may be the upper part's: a sealed decode without slots for its trailer
            self._give_back(node, node.extents)
            node.extents = None

    # ---- parts

    def _lock(self, node: Node) -> None:
        if node.locks == 0:
            self._idle.discard(node)
        node.locks += 1

    def _unlock(self, node: Node) -> None:
        node.locks -= 1
        if node.locks == 0 and node.extents is not None:
            self._idle.add(node)

    def _hold(self, node: Node, level: Keep) -> None:
        node.holders[level] += 1
        if level > node.level:
            self._idle.regrade(node, level)

    def _let_go(self, node: Node, level: Keep) -> None:
        if not node.holders[level]:
            raise ValueError(f"level {level.name} of depth {node.lo}..{node.hi}: nobody has retained it at this level")
        node.holders[level] -= 1
        if level == node.level and not node.holders[level]:
            self._idle.regrade(node, next((held for held in reversed(LEVELS) if node.holders[held]), Keep.NONE))

    def _allot(self, node: Node, capacity: int) -> None:
        have = node.extents or []
        before = have or (node.parent.extents if node.parent is not None else None)
        after = before[-1].end if before else None
        extra = self.pool.allocate(capacity - length_of(have), after)
        node.extents = join(have, extra)
        self._held(node.context.namespace, length_of(extra))

    def _give_back(self, node: Node, extents: list[Extent]) -> None:
        self.pool.release(extents)
        self._held(node.context.namespace, -length_of(extents))

    def _held(self, namespace: str, slots: int) -> None:
        self.slots_held[namespace] += slots
        if not self.slots_held[namespace]:
            del self.slots_held[namespace]

    def _split(self, upper: Node, lower: Node) -> None:
        lower.context.splits += 1
        self._idle.split(upper, lower)
        if self.tier is not None:
            self.tier.split(upper, lower)
        if upper.complete and not lower.complete:  # not before, together
            self._stored(upper)

    def _stored(self, node: Node) -> None:
        if self.on_change is not None and node.indexed:
            self.on_change("stored", node, len(node))

    def _evicted(self, node: Node, tokens: int) -> None:
        if self.on_change is not None and tokens:
            self.on_change("evicted", node, tokens)

    def _lost(self, node: Node) -> None:
        """A tier that had all of `node` gives it up."""
        if self.on_change is not None and node.indexed:
            self.on_change("lost", node, len(node))

    def _fold(self, own: Node, twin: Node, needs: list[Span]) -> None:
        """`twin` has the same tokens and KV as `own`, the first part of a branch: it takes its place."""
        assert own.parent is not None
        del own.parent.branches[own]
        below = next(iter(own.children.values()), None)
        if below is not None:
            below.parent = twin
            twin.branches[below] = None
        twin.refs += own.refs
        for level in LEVELS:
            if own.holders[level]:  # the one who ran it
                self._hold(twin, level)
        if own.locks:
            self._lock(twin)
            needs[-1:] = [Span(twin, twin.lo)] + ([Span(below, below.lo)] if below is not None else [])
        if own.extents is not None:
            self._give_back(own, own.extents)
        if self.tier is not None:
            self.tier.detach(own)


def _inputs(node: Node) -> list[Node]:
    """What computing `node` reads: its context's members and the path above it."""
    inputs = [n for member in node.context.members for n in member.span.nodes()]
    if node.parent is not None and len(node.parent):
        inputs.extend(Span(node.parent, 0).nodes())
    return inputs
