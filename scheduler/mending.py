"""A call that fits the pool, but not with all that has to be encoded again for it: it is mended piece by piece.

One call at a time, and no other starts meanwhile; those that run go on and end. What is mended stays locked for the
call as long as something depends on it. So it has the pool to itself in the end, and what other calls do decides when
it starts, never whether.

The order of the pieces is that of generalized tree pebbling (Liu, "An application of generalized tree pebbling to
sparse matrix factorization", 1987): of what is wanted together, that comes first whose encoding needs most room beyond
what it leaves. Of the orders that make one whole after the other it is the best where no two share an input; where
some do, that counts as far as it has been made by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from pavane.cache import NeverFitsError, Node, Span, inputs_of
from pavane.scheduler.calls import Call
from pavane.scheduler.resolve import inputs
from pavane.scheduler.states import States


class Mending:
    """Owner of which call is mended. Between two of its pieces it is QUEUED and holds locks."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._call: Call | None = None
        self._choices: dict[tuple[tuple[Span, ...], tuple[Span, ...]], Span] = {}  # of `_first`

    @property
    def call(self) -> Call | None:
        """Which one is mended, until it has begun or ended."""
        return self._call if self._call is not None and not self._call.state.ended else None

    def start(self, call: Call, spare: int) -> bool:
        """Locks the call's next piece, or, if that fits by now, all it needs, with `spare` slots to grow into. False if
        there is no room before others end; NeverFitsError if there is none in the whole pool."""
        cache = self._states.cache
        if call is not self._call:
            self._call, self._choices = call, {}
        self._states.let_go_of_needs(call)  # nothing goes before some of it is locked again
        call.mending, needs = self._next(call, spare)
        found = cache.acquire(needs, call, spare=0 if call.mending else spare)
        if not found:
            call.mending = False
            needs = [span for span in needs if span.node.complete]
            locked = cache.acquire(needs, call)
            assert locked, "what has KV needs no room"
        elif not call.mending:
            self._call, self._choices = None, {}
        call.needs = needs
        return found

    def _next(self, call: Call, spare: int) -> tuple[bool, list[Span]]:
        """False, and all that the call needs, if that fits; else True, and one hole with all it needs, what is to stay
        meanwhile, and as much as fits of what would have to be encoded again if it did not."""
        assert call.span is not None
        cache, size = self._states.cache, self._states.cache.pool.size
        all_needs = cache.requirements([*inputs(call), call.span])
        total = spare + _tokens(all_needs)
        if total <= size:
            return False, all_needs
        wanted, stays = inputs(call), list[Span]()
        while True:
            hole = None
            while wanted and hole is None:
                span = self._first(wanted, stays)
                hole = next((Span(node, node.lo) for node in span.nodes() if _is_hole(node)), None)
                if hole is None:
                    wanted.remove(span)
                    stays.append(span)
            if hole is None:
                raise NeverFitsError(total, size)
            kept = {node: Span(node, node.lo) for span in stays for node in span.nodes()}
            needs = [*kept.values(), *(span for span in cache.requirements([hole]) if span.node not in kept)]
            total = _tokens(needs)
            if total <= size:
                return True, _also(all_needs, size - total, needs) + needs
            wanted = inputs_of(hole)

    def _first(self, wanted: Sequence[Span], stays: Sequence[Span]) -> Span:
        """Which of `wanted` is to be made whole first, when `stays` are. It does not depend on what else has KV, so the
        order is the same from piece to piece."""
        key = tuple(stays), tuple(wanted)
        if key not in self._choices:
            made = {node for span in stays for node in span.nodes()}
            rooms: dict[Span, int] = {}
            self._choices[key] = min(wanted, key=lambda span: _left(span, made) - _room(span, made, rooms))
        return self._choices[key]


def _room(wanted: Span, made: AbstractSet[Node], rooms: dict[Span, int]) -> int:
    """Slots beside those of `made` that are in use while `wanted` is encoded from nothing else, at most, with its own.
    `rooms` are those known so far."""
    stack = [wanted]
    while stack:
        span = stack[-1]
        reads = inputs_of(span) if _left(span, made) else []
        missing = [read for read in reads if read not in rooms]
        if missing:
            stack += missing
            continue
        stack.pop()
        before, room = set[Node](), 0
        for read in sorted(reads, key=lambda read: _left(read, made) - rooms[read]):
            room = max(room, sum(map(len, before)) + rooms[read])
            before.update(node for node in read.nodes() if node not in made)
        before.update(node for node in span.nodes() if node not in made)
        rooms[span] = max(room, sum(map(len, before)))
    return rooms[wanted]


def _left(span: Span, made: AbstractSet[Node]) -> int:
    """Tokens of `span` that are not `made`."""
    return sum(len(node) for node in span.nodes() if node not in made)


def _is_hole(node: Node) -> bool:
    """It has to be encoded, and nobody does it."""
    return not node.complete and node.owner is None and not node.covered


def _also(spans: Sequence[Span], room: int, beside: Sequence[Span]) -> list[Span]:
    """Those of `spans` that have KV, as far as they fit, without those in `beside`."""
    known, out = {span.node for span in beside}, []
    for span in spans:
        if span.node.complete and span.node not in known and len(span.node) <= room:
            room -= len(span.node)
            out.append(span)
    return out


def _tokens(spans: Iterable[Span]) -> int:
    return sum(len(span.node) for span in spans)
