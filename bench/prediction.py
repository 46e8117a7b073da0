"""What a workflow costs in tokens, by class, from the counting rule alone (docs/architecture.md, "Receipts").

REUSE, packed. A prefill is encoded once, but for what it begins with in common with another of the same parents; an
answer encodes its header. Everything else is read: in place if it stands where it was encoded, else repositioned.

EXACT. What is read is one path of tokens. Encoded are the roots that stand first, all headers, and what is read behind
them without having been written there: one formula for each workflow, below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from pavane.clients import Fidelity, Receipt
from pavane.clients.workflows import Outcome
from pavane.clients.workflows.outcome import header

CLASSES = ("in_place", "repositioned", "encoded", "generated", "trailer")
Path = Sequence[str]  # ids of messages that are read one after the other


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

    def ids(self, *beginnings: str) -> list[str]:
        """The messages whose ids begin so."""
        return [i for i in self._tokens if i.startswith(beginnings)]

    def length(self, *ids: str) -> int:
        """Tokens of messages, together."""
        return sum(len(self._tokens[i]) for i in ids)

    def union(self, paths: Iterable[Path]) -> int:
        """Tokens of a prefix tree that holds these paths."""
        lines = sorted([token for i in path for token in self._tokens[i]] for path in paths)
        return sum(len(b) - common(a, b) for a, b in zip([[], *lines], lines, strict=False))


def predict(outcome: Outcome, fidelity: Fidelity) -> dict[str, int]:
    """The tokens by class of a packed run of `outcome`'s graph and answers in a namespace of its own, all edges of this
    fidelity: of the run itself, or of one that repeats its script."""
    n = Parts(outcome)
    in_place, moved, encoded = _exact(n, outcome.workflow) if fidelity == "exact" else _reuse(n)
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


def _reuse(n: Parts) -> tuple[int, int, int]:
    alike = defaultdict(list)  # prefills that see the same
    for i in n.prefills:
        alike[n.parents[i]].append([i])
    given = sum(map(n.union, alike.values()))
    in_place, moved = n.length(*n.prefills) - given, 0
    begins: dict[str, int] = {}
    for i, parents in n.parents.items():
        at = 0
        for parent in parents:
            if at == begins[parent]:
                in_place += n.length(parent)
            else:
                moved += n.length(parent)
            at += n.length(parent)
        begins[i] = at
    return in_place, moved, given + sum(n.headers.values())


def _exact(n: Parts, workflow: str) -> tuple[int, int, int]:
    first = {n.parents[i][0] for i in n.headers}  # other prefills cost nothing but where they are read
    encoded = n.union([[i] for i in first]) + sum(n.headers.values()) + BEHIND[workflow](n)
    visible = sum(n.length(*n.parents[i]) + own for i, own in n.headers.items())
    return visible - encoded, 0, encoded


def _tree_of_thoughts(n: Parts) -> int:
    """All proposals, by the first voter; the winner."""
    return n.length(*n.ids("proposal"), *n.parents["final"][1:])


def _iterative_debate(n: Parts) -> int:
    """What a side says, once by the other side if it speaks again, and once by the moderator after the opening."""
    heard = [i for i in n.ids("affirmative-", "negative-") if not i.endswith("-0")]
    return n.length(*n.ids("affirmative-"), *n.ids("negative-")[:-1], *heard)


def _debate(n: Parts) -> int:
    """What each agent reads behind the start, but for the answers of round 0, which were written there; what is
    summarised. Where equal answers came from several agents, all of it only once."""
    agents: list[Path] = [n.parents[i][1:] for i in n.ids("agent")]
    written: list[Path] = [(i,) for i in n.ids("agent") if i.endswith("-round0")]
    return n.union(agents + written) - n.union(written) + n.union(n.parents[i][1:] for i in n.ids("summary-"))


def _branch_solve_merge(n: Parts) -> int:
    """Both stories, to merge them."""
    return n.length(*n.ids("story"))


def _multi_question(n: Parts) -> int:
    """All questions."""
    return n.length(*n.ids("question"))


def _prisoners(n: Parts) -> int:
    """Each utterance by the one who listens; the last prompt by both."""
    said = [i for i in n.ids("alice-", "bob-") if i.rpartition("-")[2].isdigit()]
    return n.length(*said, "decide", "decide")


def _coarse_to_fine(n: Parts) -> int:
    """All sections but the first, by the first reviser."""
    return n.length(*n.ids("section")[1:])


def _rag_team(n: Parts) -> int:
    """The documents and the question by every reader, the readers by the judge."""
    readers = n.ids("reader")
    return len(readers) * n.length(*n.ids("document"), "question") + n.length(*readers)


BEHIND: Mapping[str, Callable[[Parts], int]] = {
    "tree-of-thoughts": _tree_of_thoughts,
    "iterative-debate": _iterative_debate,
    "debate": _debate,
    "branch-solve-merge": _branch_solve_merge,
    "multi-question": _multi_question,
    "prisoners": _prisoners,
    "coarse-to-fine": _coarse_to_fine,
    "rag-team": _rag_team,
}
