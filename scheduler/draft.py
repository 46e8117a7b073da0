"""The structure of calls that are only planned: put into the cache's trees, and taken out again.

Which encodings exist is structure and needs no KV, so that a plan stands in the real trees: it finds what is there,
and its own calls find each other's. What they would compute is written down here, never in a node. `undo` takes all of
it out; what stays is that nodes which planned tokens left in the middle are cut in two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from pavane.cache import GraphCache, Keep, Member, Node, Position, Span, common, inputs_first, inputs_of


class Draft:
    """The verbs of the cache that `resolve` uses, and what would be stored. `on_cut` hears of nodes that are cut: of
    the upper part, which is new, and the lower one, which was the whole."""

    def __init__(self, cache: GraphCache, on_cut: Callable[[Node, Node], None]) -> None:
        self.pool = cache.pool
        self._cache = cache
        self._on_cut = on_cut
        self._retained: Counter[Span] = Counter()
        self._written: dict[Node, int] = {}  # leading tokens that planned calls have computed by now

    # ---- structure

    def position(self, namespace: str, visible: Sequence[Member], start: int) -> Position:
        return self._cache.position(namespace, visible, start)

    def extend(self, node: Node, tokens: Sequence[int]) -> Span:
        lower = _left_in_the_middle(node, tokens)
        span = self._cache.extend(node, tokens)
        if lower is not None:
            upper = lower.parent
            assert upper is not None
            written = self._written.get(lower, 0)
            self._written[upper] = min(written, len(upper))
            self._written[lower] = max(0, written - len(upper))
            self._on_cut(upper, lower)
        return span

    def branch(self, node: Node, tokens: Sequence[int]) -> Span:
        return self._cache.branch(node, tokens)

    def retain(self, span: Span, level: Keep = Keep.NONE) -> None:
        """At the level NONE, whatever `level` says: the order of eviction stays as it is."""
        self._cache.retain(span, Keep.NONE)
        self._retained[span] += 1

    def release(self, span: Span) -> None:
        self._retained[span] -= 1
        self._cache.release(span, Keep.NONE)

    def undo(self) -> None:
        """Gives up all that is retained, and with it all that only this draft has put into the trees."""
        for span in list(self._retained.elements())[::-1]:
            self.release(span)
        self._retained.clear()

    def seal(self, span: Span, capacity: int) -> tuple[Span, int]:
        """As `GraphCache.seal`, of a branch with slots for `capacity` tokens. Returns the span, and how many of its
        tokens the tree had already."""
        folded = 0
        while True:
            own, above = span.node, span.node.parent
            assert above is not None
            twin = above.children.get(own.tokens[0])
            if twin is None:
                self._cache.seal(Span(own, own.lo), [])
                return span, folded
            same = common(twin.tokens, own.tokens, 0)
            if own.refs > 1 or own.children or own.branches:
                return span, folded
            if capacity - folded < same or (self.written(twin) < same and twin.owner is None):
                return span, folded
            tokens, written = own.tokens, self._written.pop(own, 0)
            node = self.extend(above, tokens[:same]).node
            if same < len(tokens):
                node = self.branch(node, tokens[same:]).node
                self._written[node] = max(0, written - same)
            self.retain(Span(node, span.lo))
            self.release(span)
            span = Span(node, span.lo)
            folded += same
            if same == len(tokens):
                return span, folded

    # ---- what would be stored

    def needs(self, spans: Iterable[Span]) -> list[Node]:
        """As `GraphCache.requirements`: the nodes of `spans` and all that computing the missing ones reads, inputs
        before what needs them."""
        seen: set[Node] = set()
        out: list[Node] = []
        for span in spans:
            for wanted in span.nodes():
                out += inputs_first(wanted, seen, lambda node: not self.stored(node))
        return out

    def written(self, node: Node) -> int:
        """How many of the leading tokens of `node` have KV by now, or a copy of it that is fetched when needed."""
        stored = node.filled or (node.copy.length if node.copy is not None else 0)
        return max(stored, self._written.get(node, 0))

    def stored(self, node: Node) -> bool:
        """Whether all of `node` has KV by now, or a call that runs already computes it."""
        return self.written(node) == len(node) or node.owner is not None

    def write(self, node: Node, count: int) -> None:
        """The leading `count` tokens of `node` are computed."""
        self._written[node] = max(count, self._written.get(node, 0))


def reads(node: Node) -> list[Node]:
    """What computing `node` reads besides itself."""
    return [n for span in inputs_of(Span(node, node.lo)) for n in span.upwards()]


def _left_in_the_middle(node: Node, tokens: Sequence[int]) -> Node | None:
    """The node that `extend` has to cut, if there is one."""
    done = 0
    while done < len(tokens):
        child = node.children.get(tokens[done])
        if child is None:
            return None
        if child.tokens != tokens[done : done + len(child)]:
            return child
        done += len(child)
        node = child
    return None
