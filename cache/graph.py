"""The KV cache of message graphs: one token radix tree per context over one pool of slots.

Five kinds of verbs: structure (`position`, `extend`, `branch`) says which encodings exist; `retain`, `release` and
`regrade` say what they are kept for; `acquire` and `abandon` lock what a running call reads and give slots to what it
has to compute; `grow`, `truncate` and `seal` serve the one node that a running decode appends to; `evict` makes room.
Nothing here waits, and nothing here knows calls: an owner is any object.

State belongs to the parts: trees.py has the structure, storage.py who has which slots, reclaim.py what was evicted,
tiers.py what lies below. The parts know none above them: fetching.py, reclaim.py, then storage.py and trees.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from pavane.cache.eviction import Policy
from pavane.cache.fetching import Fetcher
from pavane.cache.nodes import LEVELS, Context, Entry, Keep, Member, Node, Position, Span
from pavane.cache.reclaim import Reclaimer
from pavane.cache.requirements import origins, requirements
from pavane.cache.slots import cut, length_of
from pavane.cache.storage import Change, Storage
from pavane.cache.tiers import Tier
from pavane.cache.trees import Trees, common


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
        self.tier = tier
        self._storage = Storage(slots, eviction, tier, on_change)
        self._trees = Trees(bos_id=bos_id, identity=identity, absolute=absolute, on_split=self._storage.split)
        self._reclaimer = Reclaimer(self._storage, self._trees, tier)
        self._fetcher = Fetcher(self._storage, self._reclaimer, tier) if tier is not None else None
        self._idle = self._storage.idle
        self.pool = self._storage.pool
        self.slots_held = self._storage.slots_held  # by namespace; those of none are free
        self.evicted_nodes = self._reclaimer.evicted_nodes  # by level, and in part counts too
        self.evicted_tokens = self._reclaimer.evicted_tokens

    @property
    def bos_id(self) -> int | None:
        return self._trees.bos_id

    @property
    def contexts(self) -> dict[bytes, Context]:
        return self._trees.contexts

    @property
    def on_change(self) -> Callable[[Change, Node, int], None] | None:
        return self._storage.on_change

    @on_change.setter
    def on_change(self, on_change: Callable[[Change, Node, int], None] | None) -> None:
        self._storage.on_change = on_change

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
            self._reclaimer.let_rest(node)

    def regrade(self, span: Span, before: Keep, after: Keep) -> None:
        """What was retained at the level `before` is retained at `after` now."""
        for node in span.upwards():
            self._hold(node, after)
            self._let_go(node, before)

    # ---- what running calls hold

    def requirements(self, spans: Iterable[Span]) -> list[Span]:
        """The nodes of `spans` and, for those that nobody has computed or is computing, all that their computation
        reads, as spans of one node each; inputs stand before what needs them."""
        return requirements(spans)

    def acquire(self, needs: Sequence[Span], owner: object, *, spare: int = 0, sparing: bool = False) -> bool:
        """Locks `needs`, makes `owner` the one who computes what is missing in them and gives it slots; `spare` more
        for the last one, to grow into. All or nothing: False if there is no room now, or, `sparing`, none without
        dropping what is kept for SOON or more; NeverFitsError if there never is.
        """
        storage, fetcher = self._storage, self._fetcher
        nodes: list[Node] = []
        for span in needs:
            if span.lo == span.node.lo:  # nearly always
                nodes.append(span.node)
            else:
                nodes += span.upwards()
        for node in nodes:
            storage.lock(node)
        missing = [node for node in nodes if node.owner is None and node.filled < len(node.tokens)]
        sizes = [len(n) for n in missing]
        if missing:
            sizes[-1] += spare
        have = [length_of(node.extents or []) for node in missing]
        sizes = [max(size, slots) for size, slots in zip(sizes, have, strict=True)]
        want = sum(sizes) - sum(have)
        spared = sum(self._idle.slots_by_level[Keep.SOON :]) if sparing and self._idle.by_level else 0
        if want > self.pool.free + self.idle_slots - spared:
            for node in nodes:
                storage.unlock(node)
            total = spare + sum(span.length for span in needs)
            if total > self.pool.size:
                raise NeverFitsError(total, self.pool.size)
            return False
        copied = fetcher.pin(missing) if fetcher is not None else []
        self._reclaimer.make_room(want)
        for node in missing:
            node.owner = owner
        storage.allot(missing, sizes)
        if fetcher is not None:
            fetcher.fetch(copied)
        return True

    def abandon(self, needs: Sequence[Span], owner: object) -> None:
        """Undoes `acquire`. What has been computed stays as cache; what has not gives its slots back."""
        for span in reversed(needs):
            for node in (span.node,) if span.lo == span.node.lo else list(span.upwards()):
                if node.owner is owner:
                    node.owner = None
                self._storage.unlock(node)
                if node.locks == 0:
                    self._reclaimer.settle(node)
                    self._trees.prune(node)

    def fill(self, node: Node, count: int) -> int:
        """The next `count` tokens of `node`, which have slots, are written by the step being planned. Returns how many
        of them never were before."""
        filled, length = node.filled + count, len(node.tokens)
        assert filled <= length
        node.filled = filled
        first = filled - node.known
        if first > 0:
            node.known = filled
        if filled == length:
            self._storage.stored(node)  # while its owner is known
            node.owner = None
        return min(count, first) if first > 0 else 0

    def unfill(self, node: Node, depth: int) -> None:
        """The step that was to write the path of `node` from `depth` on has failed."""
        for part in list(Span(node, 0).upwards()):
            if part.hi <= depth:
                break
            was = len(part) if part.complete and part.indexed else 0
            part.filled = min(part.filled, max(0, depth - part.lo))
            self._storage.undone(part, was)
            if part.locks == 0 and part.attached:
                self._reclaimer.settle(part)
                self._trees.prune(part)

    def unlearn(self, node: Node, lo: int, hi: int) -> None:
        """The tokens at depths [lo, hi) of the path to `node` were to be computed for the first time, and were not."""
        for part in Span(node, 0).upwards():
            if part.lo < hi and part.hi > lo:
                part.known = min(part.known, max(0, lo - part.lo))

    def origins(self, span: Span) -> list[Node]:
        """The nodes of `span` and all that they were computed from, near and far."""
        return origins(span)

    def distrust(self, nodes: Iterable[Node]) -> None:
        """The KV of `nodes` may be wrong: where no running call uses it, it is dropped, here and in the tier below, and
        is computed again when somebody needs it."""
        for node in nodes:
            self._reclaimer.distrust(node)

    # ---- the tail of a running decode

    def grow(self, node: Node, capacity: int) -> bool:
        """Gives `node` slots for `capacity` tokens; False if there is no room."""
        have = length_of(node.extents or [])
        if capacity > have:
            if capacity - have > self.pool.free + self.idle_slots:
                return False
            self._reclaimer.make_room(capacity - have)
            self._storage.allot([node], [capacity])
        return True

    def append(self, node: Node, tokens: Sequence[int], owner: object) -> None:
        node.tokens.extend(tokens)
        node.owner = owner

    def push(self, node: Node, token: int, owner: object) -> None:
        """One token more."""
        node.tokens.append(token)
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
                    self._storage.stored(own)
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
            self._storage.give_back(node, rest)

    # ---- the tier below

    def promote(self, spans: Iterable[Span]) -> None:
        """Fetches what a call will read before it runs, as far as that costs nothing that anybody is kept for."""
        if self._fetcher is not None:
            self._fetcher.promote(spans)

    def landed(self, arrived: Iterable[int], failed: Iterable[int], lost: Iterable[bytes]) -> None:
        """Moves have come to an end: tickets of those that came, and of those that could not; `lost` are the keys of
        what could not be kept."""
        assert self._fetcher is not None
        self._fetcher.landed(arrived, failed, lost)

    def forget(self, entry: Entry) -> None:
        """Drops what a tier holds; no move from it may be under way."""
        self._reclaimer.forget(entry)

    # ---- eviction

    def evict(self, count: int) -> int:
        """Drops the KV of idle nodes, in the order of eviction.py, until `count` slots are freed. Returns how many are.

        Of a long node only the end goes, if that is enough: its beginning is what others are likelier to share. But at
        least half of it, or decodes that grow by a few slots would slice it finely.
        """
        return self._reclaimer.evict(count)

    # ---- parts

    def _hold(self, node: Node, level: Keep) -> None:
        node.holders[level] += 1
        if level > node.level:
            self._storage.regrade(node, level)

    def _let_go(self, node: Node, level: Keep) -> None:
        if not node.holders[level]:
            raise ValueError(f"level {level.name} of depth {node.lo}..{node.hi}: nobody has retained it at this level")
        node.holders[level] -= 1
        if level == node.level and not node.holders[level]:
            self._storage.regrade(node, next((held for held in reversed(LEVELS) if node.holders[held]), Keep.NONE))

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
            self._storage.lock(twin)
            needs[-1:] = [Span(twin, twin.lo)] + ([Span(below, below.lo)] if below is not None else [])
        if own.extents is not None:
            self._storage.give_back(own, own.extents)
        if self.tier is not None:
            self.tier.detach(own)
