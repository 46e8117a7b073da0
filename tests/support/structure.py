"""What a cache knows, as a value: which encodings exist and what is stored of them, however nodes are cut."""

from __future__ import annotations

from pavane.cache import GraphCache, Node

Structure = dict[bytes, list[object]]


def structure(cache: GraphCache) -> Structure:
    """By context: the tree of its tokens with KV, references and locks of each."""
    return {key: _below(context.root) for key, context in cache.contexts.items()}


def _below(node: Node) -> list[object]:
    children = [*sorted(node.children.values(), key=lambda n: n.tokens[0]), *node.branches]
    return [[child.indexed, *_tokens(child)] for child in children]


def _tokens(node: Node) -> list[object]:
    """Token by token, so that it is all the same where a path is cut."""
    out: list[object] = []
    while True:
        for i, token in enumerate(node.tokens):
            owner = id(node.owner) if i >= node.filled else None
            out.append((token, owner, i < node.filled, i < node.known, node.refs, *node.holders, node.locks))
        below = [*node.children.values(), *node.branches]
        if len(below) != 1 or not below[0].indexed:
            out.append(_below(node))
            return out
        node = below[0]
