"""What has to be there for encodings to be read: they themselves and, where they are missing, all that makes them."""

from __future__ import annotations

from collections.abc import Iterable

from pavane.cache.nodes import Node, Span


def requirements(spans: Iterable[Span]) -> list[Span]:
    """The nodes of `spans` and, for those that nobody has computed or is computing, all that their computation reads,
    as spans of one node each; inputs stand before what needs them."""
    seen: set[Node] = set()
    out: list[Span] = []
    for span in spans:
        for wanted in span.nodes():
            if wanted in seen:
                continue
            if wanted.complete:  # nearly always
                seen.add(wanted)
                out.append(Span(wanted, wanted.lo))
                continue
            stack: list[tuple[Node, bool]] = [(wanted, False)]
            while stack:
                node, inputs_done = stack.pop()
                if inputs_done:
                    out.append(Span(node, node.lo))
                elif node not in seen:
                    seen.add(node)
                    stack.append((node, True))
                    if not node.complete and node.owner is None and not node.covered:
                        stack.extend((n, False) for n in _inputs(node) if n not in seen)
    return out


def _inputs(node: Node) -> list[Node]:
    """What computing `node` reads: its context's members and the path above it."""
    inputs = [n for member in node.context.members for n in member.span.nodes()]
    if node.parent is not None and len(node.parent):
        inputs.extend(Span(node.parent, 0).nodes())
    return inputs
