"""The data of the cache: contexts, the nodes of their radix trees, and the handles others hold on them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import blake2b
from typing import NamedTuple

from pavane.cache.slots import Extent, cut

KEY_BYTES = 20


class Keep(IntEnum):
    """What the KV of an encoding is kept for; what is kept for less goes first."""

    NONE = 0  # nobody; a lookup may find it
    IDLE = 1  # a message of a workflow that waits for a person or a tool
    HELD = 2  # a message of an active workflow, without declared readers
    LATER = 3  # a declared reader, which is still to come, or whose workflow waits for its turn
    SOON = 4  # a declared reader, whose workflow is under way
    PINNED = 5  # somebody asked for it


LEVELS = tuple(Keep)


class Node:
    """An edge of a context's radix tree: a run of tokens, and the slots of its KV if it has any.

    The node and its KV have separate lives: `extents` is None while nothing is stored. `filled` counts the leading
    tokens whose K and V are written (by steps up to the one being planned). `owner` is the call that is computing the
    rest. `locks` counts running calls that read or write the node, `refs` everything that needs it to exist, `holders`
    the messages and waiting calls among these by what they keep it for, and `level` is the highest that has one.
    `children` are found by lookups, `branches` (running decodes) are not. `known` is the most that `filled` ever was:
    what is computed below it is computed again. `rank` is its place in the order of eviction while it is idle. `copy`
    is where its KV lies in a tier below the slots, if it does; while it is `coming` from there into its slots, these
    are locked and nobody may read them.
    """

    __slots__ = (
        "_hash",
        "branches",
        "children",
        "coming",
        "context",
        "copy",
        "extents",
        "filled",
        "holders",
        "known",
        "level",
        "lo",
        "locks",
        "owner",
        "parent",
        "rank",
        "refs",
        "tokens",
    )

    def __init__(self, context: Context, parent: Node | None, lo: int, tokens: array[int]) -> None:
        self.context = context
        self.parent = parent
        self.lo = lo
        self.tokens = tokens
        self.children: dict[int, Node] = {}
        self.branches: dict[Node, None] = {}
        self.extents: list[Extent] | None = None
        self.filled = 0
        self.known = 0
        self.locks = 0
        self.refs = 0
        self.holders = [0] * len(LEVELS)
        self.level = Keep.NONE
        self.rank: int | None = None
        self.copy: Copy | None = None
        self.coming = False
        self.owner: object | None = None
        self._hash: blake2b | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def hi(self) -> int:
        return self.lo + len(self.tokens)

    @property
    def complete(self) -> bool:
        return self.filled == len(self.tokens)

    def slots(self) -> list[Extent]:
        """Where its tokens lie, without what a running decode has in reserve."""
        return cut(self.extents or [], len(self))[0]

    @property
    def indexed(self) -> bool:
        """Lookups find it; if not, it is a branch, and always a single node."""
        return self.parent is not None and self.parent.children.get(self.tokens[0]) is self

    @property
    def attached(self) -> bool:
        return self.parent is not None and (self.indexed or self in self.parent.branches)

    @property
    def key(self) -> bytes:
        """Content key: H(context key, tokens from the context's start to the node's end)."""
        return self._hasher().digest()

    def key_at(self, count: int) -> bytes:
        """The content key after its first `count` tokens; also of a branch, which may still change behind them."""
        assert self.parent is not None
        state = self.parent._hasher().copy()
        state.update(self.tokens[:count].tobytes())
        return state.digest()

    @property
    def covered(self) -> bool:
        """All of it can be fetched from a copy: it need not be computed, nor what that would read."""
        return self.copy is not None and self.copy.length == len(self) and not self.filled

    def _hasher(self) -> blake2b:
        chain: list[Node] = []
        node: Node | None = self
        while node is not None and node._hash is None:
            chain.append(node)
            node = node.parent
        state = node._hash if node is not None else None
        for node in reversed(chain):
            state = state.copy() if state is not None else blake2b(node.context.key, digest_size=KEY_BYTES)
            state.update(node.tokens.tobytes())
            node._hash = state
        assert state is not None
        return state


@dataclass(slots=True, eq=False)
class Entry:
    """KV in a tier below the slots. `nodes` are those of which it holds all or a part; moves from it that are under way
    pin it."""

    key: bytes  # content key at its end, and its length
    tokens: int
    pages: int
    nodes: set[Node] = field(default_factory=set)
    pins: int = 0
    level: Keep = Keep.NONE  # the highest of its nodes'


class Copy(NamedTuple):
    """Of a node's first `length` tokens: the tokens [first, first + length) of `entry`."""

    entry: Entry
    first: int
    length: int


class Span(NamedTuple):
    """Handle of an encoding: the tokens at depths [lo, node.hi) of the path that ends with `node`.

    Both borders are borders of nodes. Nodes are split by inserting the upper part above, so a span stays valid.
    """

    node: Node
    lo: int

    @property
    def length(self) -> int:
        node, lo = self
        return node.lo + len(node.tokens) - lo

    def upwards(self) -> Iterator[Node]:
        node: Node | None = self.node
        while node is not None and node.lo >= self.lo and node.tokens:
            yield node
            node = node.parent

    def nodes(self) -> list[Node]:
        if self.lo == self.node.lo and self.node.tokens:  # nearly always
            return [self.node]
        return list(self.upwards())[::-1]

    @property
    def encoded_at(self) -> int:
        """Offset, in the frame of its context, of the first token."""
        return self.node.context.start + self.lo

    def tokens(self) -> array[int]:
        out = array("i")
        for node in self.nodes():
            out.extend(node.tokens)
        return out


class Member(NamedTuple):
    """An encoding that a context sees, and the offset of its first token in the context's frame."""

    span: Span
    at: int

    @property
    def end(self) -> int:
        return self.at + self.span.length

    @property
    def delta(self) -> int:
        return self.at - self.span.encoded_at


class Context:
    """Which encodings are visible, at which placement relative to `start`, where the paths of the tree begin.

    Offsets are in the frame of the call that opened the context; a later call with an equal context computes in this
    same frame, shifted. `deltas` are those of its members, `visible` counts their tokens, `segments` the frames in
    which they stand, and what it sees at its own place; `splits` how often a node of its tree was cut.
    """

    __slots__ = ("deltas", "key", "members", "namespace", "root", "segments", "signature", "splits", "start", "visible")

    def __init__(self, namespace: str, key: bytes, start: int, members: tuple[Member, ...], signature: object) -> None:
        self.namespace = namespace
        self.key = key
        self.start = start
        self.members = members
        self.signature = signature
        self.visible = sum(member.span.length for member in members)
        self.deltas = tuple([member.delta for member in members])
        self.segments = 1 + len({*self.deltas} - {0})
        self.splits = 0
        self.root = Node(self, None, 0, array("i"))


class Position(NamedTuple):
    """Where a path continues: below `node`; `shift` = the caller's frame minus the context's."""

    node: Node
    shift: int
