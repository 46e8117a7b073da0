"""Where the attention of a decode goes, parent by parent, for calls that ask.

The merge of a row's segments by log-sum-exp knows what each of them weighs. So a call that asks has its parents laid
out as segments of their own instead of by their frames, which costs merges, and reads nothing together with others.
What is averaged are the rows that its tokens are chosen after, the one that ends the turn too: the last row of the
header, and those of the content but the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pavane.cache import Extent, Member, Node, Span, cut
from pavane.kernels.batch import Float32, Float64, Int32

if TYPE_CHECKING:
    from pavane.scheduler.calls import Call, Use
    from pavane.scheduler.plan import Item

BOS, OWN = "(bos)", "(own)"  # no parent can be called that


@dataclass(frozen=True, slots=True)
class Piece:
    """The tokens at depths [lo, hi) of what `member` sees, or of the path that the call's own tokens continue."""

    member: Member
    lo: int
    hi: int

    def extents(self) -> list[Extent]:
        span = self.member.span
        slots = [extent for node in span.nodes() for extent in node.slots()]
        return cut(cut(slots, self.hi - span.lo)[0], self.lo - span.lo)[1]


@dataclass(slots=True, eq=False)
class Attention:
    """Of one call: what it sees, piece by piece (BOS if there is one, then its parents), and the sum over `rows` rows
    of their shares, the call's own tokens last."""

    names: tuple[str, ...]
    pieces: tuple[Piece, ...]
    sums: Float64
    rows: int = 0

    def means(self) -> tuple[tuple[str, float], ...]:
        """By name; they sum to 1. Nothing if there were no rows."""
        return tuple(zip(self.names, (self.sums / self.rows).tolist(), strict=True)) if self.rows else ()


@dataclass(slots=True)
class WatchedRows:
    """Of a step: `count` rows of the call from depth `depth` of its path on, which nobody has counted yet."""

    call: Call
    item: Item
    depth: int
    count: int


def watched_rows(parts: Sequence[WatchedRows]) -> Int32 | None:
    """Their rows in the batch, part after part; None if there are none."""
    if not parts:
        return None
    first = [part.item.first_row + part.depth - part.item.lo for part in parts]
    return np.concatenate(
        [np.arange(row, row + part.count, dtype=np.int32) for row, part in zip(first, parts, strict=True)]
    )


def take_shares(parts: Sequence[WatchedRows], shares: Float32) -> None:
    """What the step gave for them."""
    at = 0
    for part in parts:
        attention = attention_of(part.call)
        size = part.count * len(attention.names)
        if not part.call.state.ended:
            attention.sums += shares[at : at + size].reshape(part.count, -1).sum(axis=0, dtype=np.float64)
            attention.rows += part.count
        at += size


def layout(item: Item) -> list[tuple[list[Extent], int]]:
    """The extents of every segment that rows of the call's own tokens read, and its delta; the causal one last."""
    call = item.call
    assert call.span is not None
    segments = [(piece.extents(), piece.member.delta) for piece in attention_of(call).pieces]
    own = [extent for node in call.span.nodes() for extent in node.slots()]
    segments.append((cut(own, item.hi - call.span.lo)[0], 0))
    return segments


def attention_of(call: Call) -> Attention:
    """Of a call that has been resolved."""
    if call.attention is None:
        assert call.span is not None
        context, lo = call.span.node.context, call.span.lo
        pieces: dict[str, Piece] = {}
        runs: list[Member] = []
        for member in context.members:
            if member.span.node.context.signature is None:
                pieces[BOS] = Piece(member, member.span.lo, member.span.node.hi)
            else:
                runs.append(member)
        above = call.span.nodes()[0].parent
        if above is not None and len(above):
            runs.append(Member(Span(above, 0), context.start))
        taken: set[tuple[int, int]] = set()
        shift = call.start - (context.start + lo)
        # Long ones first: of two that begin alike in the same place, the run of the long one would do for both.
        found = {
            use.id: _piece(use, use.placed_at - shift, runs, taken)
            for use in sorted(call.uses, key=lambda use: -use.tokens)
        }
        pieces |= {use.id: found[use.id] for use in call.uses}
        names = (*pieces, OWN)
        call.attention = Attention(names, tuple(pieces.values()), np.zeros(len(names)))
    return call.attention


def _piece(use: Use, at: int, runs: Sequence[Member], taken: set[tuple[int, int]]) -> Piece:
    """The part of what the call reads that stands for a parent: the same content in the same place. It need not be the
    parent's own copy, and may be one run with others beside it; equal parents are as many parts."""
    for i, run in enumerate(runs):
        first = run.span.lo + at - run.at
        if first != use.span.lo or (i, first) in taken or first + use.tokens > run.span.node.hi:
            continue
        if _key(run.span, first + use.tokens) == use.span.node.key:
            taken.add((i, first))
            return Piece(run, first, first + use.tokens)
    raise AssertionError(f"what the call reads of parent {use.id!r} is not among what it sees")


def _key(span: Span, depth: int) -> bytes:
    """The content key of the path after its first `depth` tokens."""
    node: Node = next(node for node in span.upwards() if node.lo < depth <= node.hi)
    return node.key_at(depth - node.lo)
