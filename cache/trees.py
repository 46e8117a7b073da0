"""Contexts and their radix trees: which encodings exist and which are the same. Knows no slots and no calls."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b

from pavane.cache.nodes import KEY_BYTES, Context, Member, Node, Position, Span
from pavane.cache.slots import cut

BOS_START = -1


class Trees:
    """See the module's docstring; `GraphCache` has the arguments. `on_split(upper, lower)` is told of every cut."""

    def __init__(
        self, *, bos_id: int | None, identity: bytes, absolute: bool, on_split: Callable[[Node, Node], None]
    ) -> None:
        self.contexts: dict[bytes, Context] = {}
        self.bos_id = bos_id
        self._identity = identity
        self._absolute = absolute
        self._on_split = on_split

    def position(self, namespace: str, visible: Sequence[Member], start: int) -> Position:
        """See `GraphCache.position`."""
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
        """See `GraphCache.extend`."""
        data = array("i", tokens)
        lo = node.hi
        done = 0
        while done < len(data):
            child = node.children.get(data[done])
            if child is None:
                child = Node(node.context, node, node.hi, data[done:])
                node.children[data[done]] = child
                return Span(child, lo)
            same = common(child.tokens, data, done)
            if same < len(child):
                child = self.split(child, same)
            done += same
            node = child
        return Span(node, lo)

    def branch(self, node: Node, tokens: Sequence[int]) -> Span:
        """See `GraphCache.branch`."""
        child = Node(node.context, node, node.hi, array("i", tokens))
        node.branches[child] = None
        return Span(child, child.lo)

    def split(self, node: Node, at: int) -> Node:
        """Cuts `node` after `at` tokens. The upper part is new and is returned; `node` becomes the lower part."""
        assert 0 < at < len(node)
        parent = node.parent
        assert parent is not None
        upper = Node(node.context, parent, node.lo, node.tokens[:at])
        upper.refs, upper.locks, upper.owner = node.refs, node.locks, node.owner
        upper.holders, upper.level = node.holders.copy(), node.level
        upper.filled, upper.known = min(node.filled, at), min(node.known, at)
        if node.extents is not None:
            head, tail = cut(node.extents, at)
            upper.extents, node.extents = head or None, tail or None
        if node.indexed:
            parent.children[node.tokens[0]] = upper
        else:
            del parent.branches[node]
            parent.branches[upper] = None
        upper.children = {node.tokens[at]: node}
        node.parent, node.lo = upper, node.lo + at
        node.tokens = node.tokens[at:]
        node.filled -= upper.filled
        node.known -= upper.known
        if upper.complete:
            upper.owner = None
        node.context.splits += 1
        self._on_split(upper, node)
        return upper

    def prune(self, node: Node) -> None:
        """Removes `node` and what it alone kept, if it has no KV (nor in a tier), nobody who needs it, and nothing
        below it."""
        pending = [node]
        while pending:
            current = pending.pop()
            while not (current.children or current.branches or current.refs or current.locks):
                parent = current.parent
                if parent is None:
                    context = current.context
                    if self.contexts.get(context.key) is context:
                        del self.contexts[context.key]
                        del context.root  # which knows its context: not a cycle for a collector that comes seldom
                        for member in context.members:
                            for seen in member.span.nodes():
                                seen.refs -= 1
                                pending.append(seen)
                    break
                if current.extents is not None or current.copy is not None:
                    break
                first = current.tokens[0]
                if parent.children.get(first) is current:
                    del parent.children[first]
                elif current in parent.branches:
                    del parent.branches[current]
                else:
                    break  # it is in no tree any more
                current = parent

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


def common(edge: array[int], data: array[int], begin: int) -> int:
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
