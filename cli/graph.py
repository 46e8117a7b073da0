"""Graphs of calls in YAML: read, checked, with the line of what is wrong.

    description: what it does
    vars: {problem: "2 + 2?"}              # used as {{problem}} in any text, replaced by --var problem=...
    defaults: {max_tokens: 96}             # for every decode
    messages:                              # parents before their children
      - id: start
        prefill: {system: Be brief., user: "{{problem}}"}
      - id: answer
        parents: [start, {id: hint, fidelity: exact, at: 40, last: true}]
        decode: {prefix: "So: ", stop: ["\\n\\n"]}

The options of prefill and decode are the Python client's. An edge takes id, fidelity (reuse or exact), at (an offset in
tokens) or as_encoded, and last (release the parent afterwards).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, Unpack, cast

import yaml

from pavane.cli.extras import UsageError
from pavane.clients import DecodeOptions, Edge, Fidelity, Parent, PrefillOptions
from pavane.clients.calls import DECODE_OPTIONS, PREFILL_OPTIONS, decode_call, prefill_call
from pavane.clients.sampling import derived_seed

Handle = TypeVar("Handle", covariant=True)

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")
_EDGE_KEYS = ("id", "fidelity", "at", "as_encoded", "last")


class GraphError(UsageError):
    """What is wrong with a graph, and in which line."""


class Caller(Protocol[Handle]):
    """What takes calls and gives handles for them."""

    def prefill(self, *parents: str | Parent, **options: Unpack[PrefillOptions]) -> Handle: ...

    def decode(self, *parents: str | Parent, **options: Unpack[DecodeOptions]) -> Handle: ...


@dataclass(frozen=True)
class Node:
    """One call: its id, its parents and the client's options for it."""

    id: str
    parents: tuple[Edge, ...]
    prefill: PrefillOptions | None
    decode: DecodeOptions | None


@dataclass(frozen=True)
class Graph:
    """Calls in an order in which they can be submitted."""

    description: str
    nodes: tuple[Node, ...]

    def submit(self, to: Caller[Handle]) -> list[Handle]:
        """All calls at once, to a workflow or a draft. Handles in the graph's order."""
        handles = []
        for node in self.nodes:
            if node.prefill is not None:
                handles.append(to.prefill(*node.parents, **node.prefill))
            elif node.decode is not None:
                handles.append(to.decode(*node.parents, **node.decode))
        return handles


def load_graph(
    path: Path, variables: Mapping[str, str], *, fidelity: Fidelity | None = None, seed: int | None = None
) -> Graph:
    """The graph in a file. `fidelity` and `seed` are for calls that name none. Raises GraphError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"cannot read {path}: {error}") from error
    return _Reader(str(path), variables, fidelity, seed).read(text)


class _Reader:
    def __init__(self, name: str, variables: Mapping[str, str], fidelity: Fidelity | None, seed: int | None) -> None:
        self._name = name
        self._given = dict(variables)
        self._variables: dict[str, str] = {}
        self._fidelity = fidelity
        self._seed = seed

    def read(self, text: str) -> Graph:
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise GraphError(f"{self._name}:{line}: {error.problem or error.context}") from error
        if root is None:
            raise GraphError(f"{self._name}: the file is empty; it needs messages")
        top = self._mapping(root, "the file", ("description", "vars", "defaults", "messages"))
        self._read_variables(top.get("vars"))
        defaults = self._options(top["defaults"], "defaults", DECODE_OPTIONS - {"id"}) if "defaults" in top else {}
        messages = top.get("messages")
        if not isinstance(messages, yaml.SequenceNode) or not messages.value:
            raise self._error(messages or root, "messages must be a list with at least one message")
        nodes: list[Node] = []
        for item in messages.value:
            nodes.append(self._node(item, [node.id for node in nodes], defaults))
        description = self._value(top["description"]) if "description" in top else ""
        return Graph(str(description), tuple(nodes))

    def _read_variables(self, node: yaml.Node | None) -> None:
        declared = self._mapping(node, "vars", None) if node is not None else {}
        unknown = sorted(self._given.keys() - declared.keys())
        if unknown:
            known = ", ".join(declared) or "none"
            raise GraphError(f"{self._name}: there is no variable {unknown[0]!r} to set; the file declares {known}")
        for key, value in declared.items():
            plain = self._given.get(key, self._plain(value))
            if plain is None:
                raise self._error(value, f"variable {key!r} has no default; give --var {key}=...")
            self._variables[key] = str(plain)

    def _node(self, item: yaml.Node, earlier: Sequence[str], defaults: Mapping[str, Any]) -> Node:
        fields = self._mapping(item, "a message", ("id", "parents", "prefill", "decode"))
        if "id" not in fields:
            raise self._error(item, "a message needs an id")
        message_id = str(self._value(fields["id"]))
        if message_id in earlier:
            raise self._error(fields["id"], f"message {message_id!r} is there twice")
        if ("prefill" in fields) == ("decode" in fields):
            raise self._error(item, f"message {message_id!r} must have prefill or decode, and not both")
        parents = tuple(self._edges(fields["parents"], message_id, earlier)) if "parents" in fields else ()
        common: dict[str, Any] = {"id": message_id}
        if self._fidelity is not None:
            common["fidelity"] = self._fidelity
        try:
            if "prefill" in fields:
                where = fields["prefill"]
                options = common | self._options(where, "prefill", PREFILL_OPTIONS - {"id"})
                prefill = cast("PrefillOptions", options)
                prefill_call(message_id, parents, prefill)
                if (copied := options.get("copy")) is not None and copied not in earlier:
                    raise self._error(where, self._unknown(copied, message_id, earlier))
                return Node(message_id, parents, prefill, None)
            where = fields["decode"]
            own = self._options(where, "decode", DECODE_OPTIONS - {"id"})
            seed = {"seed": derived_seed(self._seed, message_id)} if self._seed is not None else {}
            decode = cast("DecodeOptions", common | seed | dict(defaults) | own)
            decode_call(message_id, parents, decode)
            return Node(message_id, parents, None, decode)
        except (ValueError, TypeError) as error:
            raise self._error(where, f"message {message_id!r}: {error}") from error

    def _edges(self, node: yaml.Node, message_id: str, earlier: Sequence[str]) -> list[Edge]:
        if not isinstance(node, yaml.SequenceNode):
            raise self._error(node, f"the parents of {message_id!r} must be a list, such as [start, debate]")
        edges: list[Edge] = []
        for item in node.value:
            edge = self._edge(item, message_id)
            if edge.id not in earlier:
                raise self._error(item, self._unknown(edge.id, message_id, earlier))
            if edge.id in [other.id for other in edges]:
                raise self._error(item, f"message {message_id!r} lists its parent {edge.id!r} twice")
            edges.append(edge)
        return edges

    def _edge(self, item: yaml.Node, message_id: str) -> Edge:
        if not isinstance(item, yaml.MappingNode):
            return Edge(str(self._value(item)))
        fields = {key: self._value(value) for key, value in self._mapping(item, "an edge", _EDGE_KEYS).items()}
        if "id" not in fields:
            raise self._error(item, f"an edge of {message_id!r} needs the id of the parent")
        edge = Edge(str(fields["id"]))
        if (fidelity := fields.get("fidelity")) is not None:
            if fidelity not in ("reuse", "exact"):
                raise self._error(item, f"fidelity must be reuse or exact, not {fidelity!r}")
            edge = edge.exact() if fidelity == "exact" else edge.reuse()
        if (offset := fields.get("at")) is not None:
            if fields.get("as_encoded"):
                raise self._error(item, "an edge has at or as_encoded, not both")
            if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
                raise self._error(item, f"at must be an offset in tokens, 0 or more, not {offset!r}")
            edge = edge.at(offset)
        elif fields.get("as_encoded"):
            edge = edge.as_encoded()
        return edge.last() if fields.get("last") else edge

    def _unknown(self, parent: object, message_id: str, earlier: Sequence[str]) -> str:
        return (
            f"message {message_id!r} names {parent!r}, which is not declared above it; "
            f"declared so far: {', '.join(earlier) or 'nothing'}"
        )

    def _options(self, node: yaml.Node, what: str, allowed: frozenset[str]) -> dict[str, Any]:
        if isinstance(node, yaml.ScalarNode) and self._plain(node) is None:
            return {}  # `decode:` with nothing behind it takes the defaults
        return {key: self._value(value) for key, value in self._mapping(node, what, sorted(allowed)).items()}

    def _mapping(self, node: yaml.Node, what: str, allowed: Sequence[str] | None) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self._error(node, f"{what} must be a mapping of keys to values")
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = str(key_node.value)
            if allowed is not None and key not in allowed:
                raise self._error(key_node, f"{what} has no key {key!r}; it knows {', '.join(allowed)}")
            if key in found:
                raise self._error(key_node, f"{what} has the key {key!r} twice")
            found[key] = value
        return found

    def _plain(self, node: yaml.Node) -> Any:
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except yaml.MarkedYAMLError as error:
            raise self._error(node, error.problem or "not a plain value") from error
        finally:
            loader.dispose()

    def _value(self, node: yaml.Node) -> Any:
        return self._fill(node, self._plain(node))

    def _fill(self, node: yaml.Node, value: Any) -> Any:
        if isinstance(value, str):
            return _VARIABLE.sub(lambda match: self._variable(node, match[1]), value)
        if isinstance(value, list):
            return [self._fill(node, item) for item in value]
        if isinstance(value, dict):
            return {key: self._fill(node, item) for key, item in value.items()}
        return value

    def _variable(self, node: yaml.Node, name: str) -> str:
        if name not in self._variables:
            known = ", ".join(self._variables) or "none"
            raise self._error(node, f"variable {name!r} is not declared under vars; declared: {known}")
        return self._variables[name]

    def _error(self, node: yaml.Node, text: str) -> GraphError:
        return GraphError(f"{self._name}:{node.start_mark.line + 1}: {text}")
