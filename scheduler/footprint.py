"""What planned steps hold and read, in slots: of step after step, without going through those that only decode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from pavane.cache import Node, Span
from pavane.scheduler.calls import Call


@dataclass(slots=True)
class _Tail:
    """A decode under way: one token of its own when it began, the last of its header, and one more with each step
    since."""

    began: int
    inputs: list[Span]


class Footprint:
    """`peak`: the most slots at one time with tokens that the calls read or compute, if nothing of it is evicted.
    `read`: slots that steps read, each once a step however many calls see it; the rows that a step writes are among
    them."""

    def __init__(self) -> None:
        self.peak = 0
        self.read = 0
        self._held = 0  # slots of `_seen`, without what the tails have grown
        self._seen: set[Node] = set()
        self._tails: dict[Call, _Tail] = {}
        self._reading: Counter[Node] = Counter()  # inputs of the tails
        self._reading_slots = 0
        self._extra: set[Node] = set()  # what else this step reads

    def cut(self, upper: Node, lower: Node) -> None:
        """A node was cut in two."""
        for nodes in (self._seen, self._extra):
            if lower in nodes:
                nodes.add(upper)
        if lower in self._reading:
            self._reading[upper] = self._reading[lower]

    def hold(self, nodes: Iterable[Node]) -> None:
        for node in nodes:
            if node not in self._seen:
                self._seen.add(node)
                self._held += len(node)

    def give_back(self, count: int) -> None:
        """So many slots held the same as others."""
        self._held -= count

    def replace(self, node: Node) -> None:
        """`node` is what was held as a tail, or as a part of one."""
        self._seen.add(node)

    def begin(self, call: Call, own: Node, began: int, inputs: list[Span]) -> None:
        """A decode begins."""
        self._seen.add(own)
        self._held += 1
        self._tails[call] = _Tail(began, inputs)
        for node in chain.from_iterable(span.upwards() for span in inputs):
            self._reading_slots += 0 if self._reading[node] else len(node)
            self._reading[node] += 1

    def end(self, call: Call, length: int) -> None:
        """A decode has all the `length` tokens of its tail."""
        self._held += length
        self.drop(call)

    def drop(self, call: Call) -> None:
        """A decode is cancelled: nothing of its own stays."""
        tail = self._tails.pop(call)
        self._held -= 1
        for node in chain.from_iterable(span.upwards() for span in tail.inputs):
            self._reading[node] -= 1
            if not self._reading[node]:
                del self._reading[node]
                self._reading_slots -= len(node)

    def reads(self, nodes: Iterable[Node]) -> None:
        """This step reads `nodes`."""
        self._extra.update(nodes)

    def step(self, number: int) -> None:
        """The step with this number is complete."""
        self._steps(number, 1)
        self.read += sum(len(node) for node in self._extra if node not in self._reading)
        self._extra.clear()

    def quiet(self, first: int, count: int) -> None:
        """`count` steps from number `first` on do nothing but move decodes on."""
        self._steps(first, count)

    def _steps(self, first: int, count: int) -> None:
        last = first + count - 1
        self.peak = max(self.peak, self._held + sum(last - tail.began for tail in self._tails.values()))
        self.read += count * self._reading_slots
        for tail in self._tails.values():
            self.read += count * (1 + first - tail.began) + count * (count - 1) // 2
