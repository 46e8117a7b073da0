"""The work of a step, as it is being put together."""

from __future__ import annotations

from dataclasses import dataclass, field

from pavane.cache import Node
from pavane.kernels.batch import NO_TOKEN
from pavane.scheduler.attention import WatchedRows
from pavane.scheduler.calls import Call, Use, Workflow
from pavane.scheduler.scoring import ScoreRows


@dataclass(slots=True)
class Item:
    """Rows of one call: the tokens at depths [lo, hi) of the path that leads to `tail`."""

    call: Call
    tail: Node
    lo: int
    hi: int
    first_row: int = 0

    @property
    def rows(self) -> int:
        return self.hi - self.lo


@dataclass(slots=True)
class Sample:
    """A token to take after the row that encodes depth `depth` of the call's path; `index` counts in the content."""

    call: Call
    item: Item
    depth: int
    index: int
    forced: int = NO_TOKEN


@dataclass(slots=True)
class Step:
    """What one step does, as it is being put together, and until it is committed."""

    budget: int  # rows that may still be added
    pairs: int  # (row, segment) pairs that may still be added
    items: list[Item] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    scores: list[ScoreRows] = field(default_factory=list)
    watched: list[WatchedRows] = field(default_factory=list)
    busy: set[Call] = field(default_factory=set)  # have rows in this step
    finishing: list[Call] = field(default_factory=list)  # complete once it has run
    mended: dict[Call, None] = field(default_factory=dict)  # have the piece they wanted once it has run

    first: list[tuple[Node, int, int]] = field(default_factory=list)  # paths, and depths computed for the first time
    counted: list[tuple[Call | Use | Workflow, str, int]] = field(default_factory=list)  # tokens on receipts
    going_on: list[Item] = field(default_factory=list)  # of one new token each, which is in neither of these two

    def count(self, receipt: Call | Use | Workflow, name: str, tokens: int) -> None:
        """Adds `tokens` to the attribute `name`, unless the step fails."""
        if tokens:
            setattr(receipt, name, getattr(receipt, name) + tokens)
            self.counted.append((receipt, name, tokens))

    def uncount(self) -> None:
        """The step has failed."""
        for receipt, name, tokens in self.counted:
            setattr(receipt, name, getattr(receipt, name) - tokens)
        for item in self.going_on:
            item.call.workflow.spent -= 1

    def room(self, call: Call, node: Node) -> int:
        """Rows of `node`'s path that fit; at least one in an empty step."""
        rows = min(self.budget, self.pairs // _segments_of(call, node))
        return max(rows, 0 if self.items else 1)

    def add(self, call: Call, node: Node, lo: int, hi: int) -> Item:
        self.budget -= hi - lo
        self.pairs -= (hi - lo) * _segments_of(call, node)
        self.busy.add(call)
        last = self.items[-1] if self.items else None
        if call.asks_attention and last is not None and last.tail is not node:
            last = None  # its own tokens are laid out apart
        if last is not None and last.call is call and last.hi == lo and (last.tail is node or last.tail is node.parent):
            last.tail, last.hi = node, hi
            return last
        item = Item(call, node, lo, hi)
        self.items.append(item)
        return item


def _segments_of(call: Call, node: Node) -> int:
    return len(call.uses) + 2 if call.asks_attention else node.context.segments
