"""The KV cache of message graphs: one token radix tree per context over one pool of slots.

Three kinds of verbs: structure (`position`, `extend`, `branch`, `retain`, `release`) says which encodings exist;
`acquire` and `abandon` lock what a running call reads and give slots to what it has to compute; `grow`, `truncate` and
`seal` serve the one node that a running decode appends to. Nothing here waits, and nothing here knows calls: an owner
is any object.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Literal

from pavane.cache.nodes import KEY_BYTES, Context, Member, Node, Position, Span
from pavane.cache.slots import Extent, SlotPool, cut, join, length_of

BOS_START = -1
OnChange = Callable[[Literal["stored", "evicted"], Node, int], None]


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
    rounding, which batch-invariant serving does not accept.
    """

    def __init__(self, slots: int, *, bos_id: int | None = None, identity: bytes = b"", absolute: bool = False) -> None:
        self.pool = SlotPool(slots)
        self.bos_id = bos_id
        self.contexts: dict[bytes, Context] = {}
        self._identity = identity
        self._absolute = absolute
        # Nodes with KV that no running call uses, oldest first: those without and those with readers.
        self._idle: tuple[OrderedDict[Node, None], OrderedDict[Node, None]] = (OrderedDict(), OrderedDict())
        self.idle_slots = 0
        self.slots_held: Counter[str] = Counter()  # by namespace; those of none are free
        # Told of a node whose KV is complete, or gone, and of how many tokens; of a running decode at its end.
        self.on_change: OnChange | None = None

    # ---- structure

    def position(self, namespace: str, visible: Sequence[Member], start: int) -> Position:
        """Where tokens that see `visible` (in any order) and begin at offset `start` are found or put.

        They continue the path of one of the visible encodings if what that one sees, and itself, is exactly what is
        visible, in the same relative placement; else they have a context of their own.
        """
        runs = _merge(visible)
        bos = self._bos(namespace)
        for i, run in enumerate(runs):
            seen = run.span.node.context
            if run.span.lo or run.end != start or seen.signature is None:
                continue
            if len(seen.members) != len(runs) - 1 + (bos is not None):
                continue
            others = ([bos] if bos else []) + runs[:i] + runs[i + 1 :]
            if seen.signature == self._signature(others, run.at):
                return Position(run.span.node, run.at - seen.start)
        # Where BOS stands before everything, or bits count, a context is bound to its offset. Else only distances
        # matter, and the frame is the one in which the first of the members and what follows stands at 0.
        frame = 0 if bos or self._absolute else min([start, *(run.at for run in runs)])
        members = ([bos] if bos else []) + [Member(run.span, run.at - frame) for run in runs]
        members.sort(key=lambda m: (m.at, m.span.node.key, m.span.lo))
        signature = self._signature(members, start - frame)
        key = blake2b(self._root_key(namespace) + repr(signature).encode(), digest_size=KEY_BYTES).digest()
        context = self.contexts.get(key)
        if context is None:
            context = Context(namespace, key, start - frame, tuple(members), signature)
            self.contexts[key] = context
            for member in members:
                for node in member.span.upwards():
                    node.refs += 1
        return Position(context.root, start - context.start)

    def extend(self, node: Node, tokens: Sequence[int]) -> Span:
        """The encoding of `tokens` below `node`, found as far as there is one, made (without KV) from there on."""
        data = array("i", tokens)
        lo = node.hi
        done = 0
        while done < len(data):
            child = node.children.get(data[done])
            if child is None:
                child = self._attach(node, data[done:])
                return Span(child, lo)
            same = _common(child.tokens, data, done)
            if same < len(child):
                child = self._split(child, same)
            done += same
            node = child
        return Span(node, lo)

    def branch(self, node: Node, tokens: Sequence[int]) -> Span:
        """A path of its own below `node`, hidden from lookups until it is sealed: a running decode."""
        child = Node(node.context, node, node.hi, array("i", tokens))
        node.branches.add(child)
        return Span(child, child.lo)

    def retain(self, span: Span) -> None:
        """Keeps the nodes of `span` known (not their KV) until released."""
        for node in span.upwards():
            node.refs += 1
            node.readers += 1
            if node.readers == 1 and node in self._idle[0]:
                del self._idle[0][node]
                self._idle[1][node] = None

    def release(self, span: Span) -> None:
        for node in list(span.upwards()):
            node.refs -= 1
            node.readers -= 1
            if node.readers == 0 and node in self._idle[1]:
                del self._idle[1][node]
                self._idle[0][node] = None
            if node.refs == 0 and node in self._idle[0] and not node.indexed:
                self._drop(node)  # a branch that nobody can find any more
            else:
                self._prune(node)

    # ---- what running calls hold

    def requirements(self, spans: Iterable[Span]) -> list[Span]:
        """The nodes of `spans` and, for those that nobody has computed or is computing, all that their computation
        reads, as spans of one node each; inputs stand before what needs them."""
        seen: set[Node] = set()
        out: list[Span] = []
        for span in spans:
            for wanted in span.nodes():
                stack: list[tuple[Node, bool]] = [(wanted, False)]
                while stack:
                    node, inputs_done = stack.pop()
                    if inputs_done:
                        out.append(Span(node, node.lo))
                    elif node not in seen:
                        seen.add(node)
                        stack.append((node, True))
                        if not node.complete and node.owner is None:
                            stack.extend((n, False) for n in _inputs(node) if n not in seen)
        return out

    def acquire(self, needs: Sequence[Span], owner: object, *, spare: int = 0) -> bool:
        """Locks `needs`, makes `owner` the one who computes what is missing in them and gives it slots; `spare` more
        for the last one, to grow into. All or nothing: False if there is no room now, NeverFitsError if there never is.
        """
        for span in needs:
            self._lock(span)
        missing = [n for s in needs for n in s.upwards() if n.owner is None and not n.complete]
        sizes = [len(n) for n in missing]
        if missing:
            sizes[-1] += spare
        want = sum(max(0, size - length_of(n.extents or [])) for n, size in zip(missing, sizes, strict=True))
        if want > self.pool.free + self.idle_slots:
            for span in needs:
                self._unlock(span)
            total = spare + sum(span.length for span in needs)
            if total > self.pool.size:
                raise NeverFitsError(total, self.pool.size)
            return False
        self._make_room(want)
        for node, size in zip(missing, sizes, strict=True):
            node.owner = owner
            self._allot(node, max(size, length_of(node.extents or [])))
        return True

    def abandon(self, needs: Sequence[Span], owner: object) -> None:
        """Undoes `acquire`. What has been computed stays as cache; what has not gives its slots back."""
        for span in reversed(needs):
            nodes = list(span.upwards())
            self._unlock(span)
            for node in nodes:
                if node.owner is owner:
                    node.owner = None
                if node.locks == 0:
                    self._settle(node)
                    self._prune(node)

    def fill(self, node: Node, count: int) -> int:
        """The next `count` tokens of `node` are written by the step being planned. Returns how many of them never were
        before."""
        assert node.filled + count <= min(len(node), length_of(node.extents or []))
        node.filled += count
        first = max(0, min(count, node.filled - node.known))
        node.known = max(node.known, node.filled)
        if node.complete:
            if node.indexed:
                self._tell("stored", node, len(node))
            node.owner = None
        return first

    def unfill(self, node: Node, depth: int) -> None:
        """The step that was to write the path of `node` from `depth` on has failed."""
        for part in list(Span(node, 0).upwards()):
            if part.hi <= depth:
                break
            if part.complete and part.indexed:
                self._tell("evicted", part, min(len(part), part.hi - depth))
            part.filled = min(part.filled, max(0, depth - part.lo))
            part.known = min(part.known, max(0, depth - part.lo))
            if part.locks == 0 and part.attached:
                self._settle(part)
                self._prune(part)

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
                above.branches.remove(own)
                above.children[own.tokens[0]] = own
                break
            same = _common(child.tokens, own.tokens, 0)
            if own.refs > 1 or own.children or own.branches:
                break  # somebody reads or continues this very copy
            if child.filled < same or length_of(own.extents or []) < same:
                break  # what they have in common has lost its KV: stay a branch, found by its message alone
            if same < len(child):
                child = self._split(child, same)
            if same == len(own):
                self._fold(own, child, needs)
                return Span(child, span.lo)
            self._fold(self._split(own, same), child, needs)
        self._tell("stored", own, own.filled)
        return Span(own, span.lo)

    def trim(self, node: Node) -> None:
        """Gives back the slots that a finished decode did not grow into."""
        keep, rest = cut(node.extents or [], len(node))
        if rest:
            node.extents = keep or None
            self._give_back(node, rest)

    # ---- eviction

    def evict(self, count: int) -> int:
        """Drops the KV of idle nodes, those without readers first, oldest first, until `count` slots are freed."""
        freed = 0
        for idle in self._idle:
            while freed < count and idle:
                node = next(iter(idle))
                freed += self._drop(node)
        return freed

    def _make_room(self, count: int) -> None:
        if count > self.pool.free:
            self.evict(count - self.pool.free)

    def _drop(self, node: Node) -> int:
        assert node.extents is not None
        self._remove_idle(node)
        freed = length_of(node.extents)
        self._tell("evicted", node, node.filled)
        self._give_back(node, node.extents)
        node.extents = None
        node.filled = 0
        self._prune(node)
        return freed

    def _settle(self, node: Node) -> None:
        """An unlocked node keeps its KV if it is whole; else what is written becomes a node of its own. A branch stays
        one node, partly written: its call goes on with it."""
        if node.complete or node.extents is None or (node.filled and not node.indexed):
            return
        if node.filled:
            self._split(node, node.filled)
        self._remove_idle(node)
        self._give_back(node, node.extents)
        node.extents = None

    # ---- parts

    def _lock(self, span: Span) -> None:
        for node in span.upwards():
            if node.locks == 0:
                self._remove_idle(node)
            node.locks += 1

    def _unlock(self, span: Span) -> None:
        for node in span.upwards():
            node.locks -= 1
            if node.locks == 0:
                self._add_idle(node)

    def _add_idle(self, node: Node) -> None:
        if node.extents is not None and node.locks == 0:
            self._idle[node.readers > 0][node] = None
            self.idle_slots += length_of(node.extents)

    def _remove_idle(self, node: Node) -> None:
        idle = self._idle[node.readers > 0]
        if node in idle:
            del idle[node]
            self.idle_slots -= length_of(node.extents or [])

    def _allot(self, node: Node, capacity: int) -> None:
        have = node.extents or []
        before = have or (node.parent.extents if node.parent is not None else None)
        after = before[-1].end if before else None
        extra = self.pool.allocate(capacity - length_of(have), after)
        node.extents = join(have, extra)
        self.slots_held[node.context.namespace] += length_of(extra)

    def _give_back(self, node: Node, extents: list[Extent]) -> None:
        self.pool.release(extents)
        namespace = node.context.namespace
        self.slots_held[namespace] -= length_of(extents)
        if not self.slots_held[namespace]:
            del self.slots_held[namespace]

    def _tell(self, kind: Literal["stored", "evicted"], node: Node, tokens: int) -> None:
        if self.on_change is not None:
            self.on_change(kind, node, tokens)

    def _attach(self, parent: Node, tokens: array[int]) -> Node:
        child = Node(parent.context, parent, parent.hi, tokens)
        parent.children[tokens[0]] = child
        return child

    def _split(self, node: Node, at: int) -> Node:
        """Cuts `node` after `at` tokens. The upper part is new and is returned; `node` becomes the lower part."""
        assert 0 < at < len(node)
        parent = node.parent
        assert parent is not None
        idle = self._idle[node.readers > 0]
        upper = Node(node.context, parent, node.lo, node.tokens[:at])
        upper.refs, upper.readers, upper.locks, upper.owner = node.refs, node.readers, node.locks, node.owner
        upper.filled, upper.known = min(node.filled, at), min(node.known, at)
        if node.extents is not None:
            head, tail = cut(node.extents, at)
            upper.extents, node.extents = head or None, tail or None
        if node.indexed:
            parent.children[node.tokens[0]] = upper
        else:
            parent.branches.remove(node)
            parent.branches.add(upper)
        upper.children = {node.tokens[at]: node}
        node.parent, node.lo = upper, node.lo + at
        node.tokens = node.tokens[at:]
        node.filled -= upper.filled
        node.known -= upper.known
        if upper.complete:
            upper.owner = None
            if upper.indexed and not node.complete:
                self._tell("stored", upper, at)
        if node in idle:
            idle[upper] = None
            if upper.extents is None or node.extents is None:  # only a whole node is idle and cut
                raise AssertionError("an idle node was only partly stored")
        return upper

    def _fold(self, own: Node, twin: Node, needs: list[Span]) -> None:
        """`twin` has the same tokens and KV as `own`, the first part of a branch: it takes its place."""
        assert own.parent is not None
        own.parent.branches.remove(own)
        below = next(iter(own.children.values()), None)
        if below is not None:
            below.parent = twin
            twin.branches.add(below)
        twin.refs += own.refs
        if twin.readers == 0 and own.readers and twin in self._idle[0]:
            del self._idle[0][twin]
            self._idle[1][twin] = None
        twin.readers += own.readers
        if own.locks:
            self._lock(Span(twin, twin.lo))
            needs[-1:] = [Span(twin, twin.lo)] + ([Span(below, below.lo)] if below is not None else [])
        if own.extents is not None:
            self._give_back(own, own.extents)

    def _prune(self, node: Node) -> None:
        """Removes `node` and what it alone kept, if it has no KV, nobody who needs it, and nothing below it."""
        pending = [node]
        while pending:
            current = pending.pop()
            parent = current.parent
            if current.children or current.branches or current.refs or current.locks:
                continue
            if parent is None:
                context = current.context
                if self.contexts.get(context.key) is context:
                    del self.contexts[context.key]
                    for member in context.members:
                        for seen in member.span.nodes():
                            seen.refs -= 1
                            pending.append(seen)
            elif current.extents is None and current.attached:
                if current.indexed:
                    del parent.children[current.tokens[0]]
                else:
                    parent.branches.remove(current)
                pending.append(parent)

    def _root_key(self, namespace: str) -> bytes:
        parts = (namespace.encode(), self._identity, repr(self.bos_id).encode(), repr(self._absolute).encode())
        return blake2b(b"".join(len(p).to_bytes(4, "big") + p for p in parts), digest_size=KEY_BYTES).digest()

    def _bos(self, namespace: str) -> Member | None:
        """The encoding of BOS, which every context sees at the offset before 0."""
        if self.bos_id is None:
            return None
        key = blake2b(self._root_key(namespace) + b"bos", digest_size=KEY_BYTES).digest()
        context = self.contexts.get(key)
        if context is None:
            context = Context(namespace, key, BOS_START, (), None)
            self.contexts[key] = context
        return Member(self.extend(context.root, [self.bos_id]), BOS_START)

    def _signature(self, members: Sequence[Member], start: int) -> object:
        """What two calls have to agree in to have the same context."""
        relative = tuple(sorted((m.span.node.key, m.span.length, m.at - start) for m in members))
        return (start, relative) if self._absolute else relative


def _inputs(node: Node) -> list[Node]:
    """What computing `node` reads: its context's members and the path above it."""
    inputs = [n for member in node.context.members for n in member.span.nodes()]
    if node.parent is not None and len(node.parent):
        inputs.extend(Span(node.parent, 0).nodes())
    return inputs


def _common(edge: array[int], data: array[int], begin: int) -> int:
    """Length of the common prefix of `edge` and data[begin:]."""
    limit = min(len(edge), len(data) - begin)
    if edge[:limit] == data[begin : begin + limit]:
        return limit
    low, high = 0, limit  # edge[:low] is equal, edge[:high] is not
    while high - low > 1:
        mid = (low + high) // 2
        if edge[low:mid] == data[begin + low : begin + mid]:
            low = mid
        else:
            high = mid
    return low


def _merge(members: Sequence[Member]) -> list[Member]:
    """The visible encodings as maximal runs: neighbours on one path that also stand next to each other are one run."""
    begins: dict[tuple[Node, int], list[int]] = {}
    for i, member in enumerate(members):
        first = member.span.nodes()[0]
        if first.parent is not None and len(first.parent):
            begins.setdefault((first.parent, member.at), []).append(i)
    runs: list[Member] = []
    used: set[int] = set()
    followers = {i for indices in begins.values() for i in indices}
    heads = [i for i in range(len(members)) if i not in followers]
    # A follower whose predecessor is not visible here is a head as well; predecessors are unique per (path, place).
    ends = {(m.span.node, m.end) for m in members}
    heads += [i for key, indices in begins.items() if key not in ends for i in indices]
    for i in sorted(heads) + sorted(followers):
        if i in used:
            continue
        used.add(i)
        run = members[i]
        while True:
            more = [j for j in begins.get((run.span.node, run.end), ()) if j not in used]
            if not more:
                break
            used.add(more[0])
            run = Member(Span(members[more[0]].span.node, run.span.lo), run.at)
        runs.append(run)
    return runs
