"""What a workflow costs in tokens, by class, from the counting rule alone (docs/architecture.md, "Receipts").

REUSE, packed. Given tokens are encoded once by those that see the same: prefills, and headers but for the last token of
each, after which an answer's first token is chosen. Everything else is read: in place if it stands where it was
encoded, else repositioned.

EXACT. What is read is one path of tokens, and all paths make one prefix tree. What is in it was encoded, but for the
answers that were written there, each by itself from the last token of its header on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain

from pavane.clients import Fidelity, Receipt
from pavane.clients.workflows import Outcome
from pavane.clients.workflows.outcome import header

CLASSES = ("in_place", "repositioned", "encoded", "generated", "trailer")
Tokens = tuple[int, ...]


class Parts:
    """The messages of a run and their lengths. Raises ValueError for a run with calls that were given up."""

    def __init__(self, outcome: Outcome) -> None:
        for message in outcome.messages.values():
            if message.state != "done":
                raise ValueError(f"{message.id} is {message.state}: what it cost depends on when it was stopped")
        self._tokens = {i: m.tokens for i, m in outcome.messages.items()}
        self.parents = {i: tuple(edge.id for edge in edges) for i, edges in outcome.parents.items()}
        self.headers = {i: len(header(m)) for i, m in outcome.answers.items()}
        self.prefills = tuple(i for i in self._tokens if i not in self.headers)
        numbers: dict[object, int] = {}
        self._kinds: dict[str, int] = {}  # equal for equal tokens that see the same
        for i, parents in self.parents.items():
            self._kinds[i] = numbers.setdefault((self._tokens[i], *(self._kinds[p] for p in parents)), len(numbers))

    def sees(self, id: str) -> tuple[int, ...]:
        """The same for messages that see the same in the same order."""
        return tuple(self._kinds[parent] for parent in self.parents[id])

    def length(self, *ids: str) -> int:
        """Tokens of messages, together."""
        return sum(len(self._tokens[i]) for i in ids)

    def known(self, id: str) -> Tokens:
        """What is looked up: all of a prefill, of an answer its header but for the last token."""
        return self._tokens[id][: self.headers[id] - 1 if id in self.headers else None]

    def path(self, id: str) -> tuple[Tokens, Tokens]:
        """The tokens of an answer's parents with what is looked up of its own, and those that it computes itself."""
        known = self.known(id)
        before = chain.from_iterable(self._tokens[parent] for parent in self.parents[id])
        return (*before, *known), self._tokens[id][len(known) :]


def predict(outcome: Outcome, fidelity: Fidelity) -> dict[str, int]:
    """The tokens by class of a packed run of `outcome`'s graph and answers in a namespace of its own, all edges of this
    fidelity: of the run itself, or of one that repeats its script."""
    n = Parts(outcome)
    in_place, moved, encoded = _exact(n) if fidelity == "exact" else _reuse(n)
    receipts = [message.receipt for message in outcome.answers.values()]
    rest = (sum(receipt.generated for receipt in receipts), sum(receipt.trailer for receipt in receipts))
    return dict(zip(CLASSES, (in_place, moved, encoded, *rest), strict=True))


def counted(total: Receipt) -> dict[str, int]:
    """A receipt in the same form."""
    values = (total.reused_in_place, total.repositioned, total.encoded, total.generated, total.trailer)
    return dict(zip(CLASSES, values, strict=True))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def union(paths: Iterable[Tokens]) -> int:
    """Tokens of a prefix tree that holds these paths."""
    lines = sorted(paths)
    return sum(len(b) - common(a, b) for a, b in zip([(), *lines], lines, strict=False))


def _reuse(n: Parts) -> tuple[int, int, int]:
    alike = defaultdict(list)  # given tokens that see the same
    for i in n.parents:
        alike[n.sees(i)].append(n.known(i))
    encoded = sum(map(union, alike.values())) + len(n.headers)
    moved = 0
    begins: dict[str, int] = {}
    for i, parents in n.parents.items():
        at = 0
        for parent in parents:
            if at != begins[parent]:
                moved += n.length(parent)
            at += n.length(parent)
        begins[i] = at
    visible = n.length(*n.prefills) + sum(n.length(*n.parents[i]) for i in n.prefills) + _visible(n)
    return visible - moved - encoded, moved, encoded


def _exact(n: Parts) -> tuple[int, int, int]:
    """Prefills cost nothing but where they are read."""
    written = defaultdict(list)  # by what stands before it
    for i in n.headers:
        before, own = n.path(i)
        written[before].append(own)
    paths = [before + own for before, answers in written.items() for own in answers]
    encoded = union(paths) - sum(map(union, written.values())) + len(n.headers)
    return _visible(n) - encoded, 0, encoded


def _visible(n: Parts) -> int:
    """To all answers."""
    return sum(n.length(*n.parents[i]) + header for i, header in n.headers.items())
