"""What has to be there for encodings to be read: they themselves and, where they are missing, all that makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pavane.cache.nodes import Node, Span


def requirements(spans: Iterable[Span]) -> list[Span]:
    """See `GraphCache.requirements`."""
    seen: set[Node] = set()
    out: list[Span] = []
    for span in spans:
        node = span.node
        if span.lo == node.lo and 0 < node.filled == len(node.tokens):  # nearly always
            if node not in seen:
                seen.add(node)
                out.append(span)
            continue
        for wanted in span.nodes():
            if wanted in seen:
                continue
            if wanted.complete:
                seen.add(wanted)
                out.append(Span(wanted, wanted.lo))
            else:
                out += [Span(node, node.lo) for node in inputs_first(wanted, seen, _missing)]
    return out


def inputs_first(wanted: Node, seen: set[Node], missing: Callable[[Node], bool]) -> list[Node]:
    """`wanted` and, of what is `missing`, all that its computation reads, inputs before what needs them; without what
    was `seen` before, to which all of it is added."""
    out: list[Node] = []
    stack: list[tuple[Node, bool]] = [(wanted, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            out.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            if missing(node):
                for span in inputs_of(Span(node, node.lo)):
                    if span.lo != span.node.lo or span.node not in seen:
                        stack.extend([(n, False) for n in span.nodes() if n not in seen])
    return out


def origins(span: Span) -> list[Node]:
    """The nodes of `span` and all that they were computed from, near and far; inputs stand before what reads them."""
    seen: set[Node] = set()
    return [node for own in span.nodes() for node in inputs_first(own, seen, lambda _: True)]


def inputs_of(span: Span) -> list[Span]:
    """What computing `span` reads besides itself: its context's members and the path above it."""
    spans = [member.span for member in span.node.context.members]
    if span.lo:
        first = span.nodes()[0]
        assert first.parent is not None
        spans.append(Span(first.parent, 0))
    return spans


def _missing(node: Node) -> bool:
    """Nobody has computed or is computing it, and it is not to be fetched."""
    return not node.complete and node.owner is None and not node.covered
