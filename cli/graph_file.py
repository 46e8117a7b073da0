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
    groups:                                # parents that are the first `need` of several messages
      - {id: best, members: [a, b, c], need: 2, cancel_rest: true}

The options of prefill and decode are the Python client's. An edge takes id, fidelity (reuse or exact), at (an offset in
tokens) or as_encoded, and last (release the parent afterwards). A group may be a parent of messages below its members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml

from pavane.cli.graph import Choice, Graph, Node
from pavane.cli.yaml_values import GraphError, YamlValues
from pavane.clients import DecodeOptions, Edge, Fidelity, PrefillOptions
from pavane.clients.calls import DECODE_OPTIONS, PREFILL_OPTIONS, decode_call, prefill_call
from pavane.clients.group import group_message
from pavane.clients.sampling import derived_seed

_GROUP_KEYS = ("id", "members", "need", "cancel_rest")
_EDGE_KEYS = ("id", "fidelity", "at", "as_encoded", "last")


def load_graph(
    path: Path, variables: Mapping[str, str], *, fidelity: Fidelity | None = None, seed: int | None = None
) -> Graph:
    """The graph in a file. `fidelity` and `seed` are for calls that name none. Raises GraphError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"cannot read {path}: {error}") from error
    return _Reader(str(path), variables, fidelity, seed).read(text)


class _Reader(YamlValues):
    def __init__(self, name: str, variables: Mapping[str, str], fidelity: Fidelity | None, seed: int | None) -> None:
        super().__init__(name, variables)
        self._fidelity = fidelity
        self._seed = seed

    def read(self, text: str) -> Graph:
        root = self.compose(text)
        if root is None:
            raise GraphError(f"{self._name}: the file is empty; it needs messages")
        top = self.mapping(root, "the file", ("description", "vars", "defaults", "messages", "groups"))
        self.read_variables(top.get("vars"))
        defaults = self._options(top["defaults"], "defaults", DECODE_OPTIONS - {"id"}) if "defaults" in top else {}
        messages = top.get("messages")
        if not isinstance(messages, yaml.SequenceNode) or not messages.value:
            raise self.error(messages or root, "messages must be a list with at least one message")
        groups = self._groups(top["groups"]) if "groups" in top else []
        nodes: list[Node] = []
        for item in messages.value:
            ids = [node.id for node in nodes]
            nodes.append(self._node(item, [*ids, *(g.id for g, _ in groups if set(g.members) <= set(ids))], defaults))
        self._check_groups(groups, [node.id for node in nodes])
        description = self.value(top["description"]) if "description" in top else ""
        return Graph(str(description), tuple(nodes), tuple(group for group, _ in groups))

    def _node(self, item: yaml.Node, earlier: Sequence[str], defaults: Mapping[str, Any]) -> Node:
        fields = self.mapping(item, "a message", ("id", "parents", "prefill", "decode"))
        if "id" not in fields:
            raise self.error(item, "a message needs an id")
        message_id = str(self.value(fields["id"]))
        if message_id in earlier:
            raise self.error(fields["id"], f"message {message_id!r} is there twice")
        if ("prefill" in fields) == ("decode" in fields):
            raise self.error(item, f"message {message_id!r} must have prefill or decode, and not both")
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
                    raise self.error(where, self._unknown(copied, message_id, earlier))
                return Node(message_id, parents, prefill, None)
            where = fields["decode"]
            own = self._options(where, "decode", DECODE_OPTIONS - {"id"})
            seed = {"seed": derived_seed(self._seed, message_id)} if self._seed is not None else {}
            decode = cast("DecodeOptions", common | seed | dict(defaults) | own)
            decode_call(message_id, parents, decode)
            return Node(message_id, parents, None, decode)
        except (ValueError, TypeError) as error:
            raise self.error(where, f"message {message_id!r}: {error}") from error

    def _groups(self, node: yaml.Node) -> list[tuple[Choice, yaml.Node]]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, "groups must be a list")
        groups = []
        for item in node.value:
            fields = {k: self.value(v) for k, v in self.mapping(item, "a group", _GROUP_KEYS).items()}
            missing = next((key for key in _GROUP_KEYS[:3] if key not in fields), None)
            if missing is not None:
                raise self.error(item, f"a group needs {missing}")
            members, cancel_rest = fields["members"], fields.get("cancel_rest", False)
            if not isinstance(members, list):
                raise self.error(item, "members must be a list, such as [a, b]")
            if not isinstance(cancel_rest, bool):
                raise self.error(item, f"cancel_rest must be true or false, not {cancel_rest!r}")
            edges = [Edge(str(member)) for member in members]
            try:
                group_message(str(fields["id"]), edges, fields["need"], cancel_rest)
            except (ValueError, TypeError) as error:
                raise self.error(item, f"group {fields['id']!r}: {error}") from error
            ids = tuple(edge.id for edge in edges)
            groups.append((Choice(str(fields["id"]), ids, fields["need"], cancel_rest), item))
        return groups

    def _check_groups(self, groups: Sequence[tuple[Choice, yaml.Node]], ids: Sequence[str]) -> None:
        taken = set(ids)
        for group, node in groups:
            if group.id in taken:
                raise self.error(node, f"the id {group.id!r} is there twice")
            taken.add(group.id)
            unknown = next((member for member in group.members if member not in ids), None)
            if unknown is not None:
                raise self.error(node, f"group {group.id!r} names {unknown!r}, which is no message of the file")

    def _edges(self, node: yaml.Node, message_id: str, earlier: Sequence[str]) -> list[Edge]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(node, f"the parents of {message_id!r} must be a list, such as [start, debate]")
        edges: list[Edge] = []
        for item in node.value:
            edge = self._edge(item, message_id)
            if edge.id not in earlier:
                raise self.error(item, self._unknown(edge.id, message_id, earlier))
            if edge.id in [other.id for other in edges]:
                raise self.error(item, f"message {message_id!r} lists its parent {edge.id!r} twice")
            edges.append(edge)
        return edges

    def _edge(self, item: yaml.Node, message_id: str) -> Edge:
        if not isinstance(item, yaml.MappingNode):
            return Edge(str(self.value(item)))
        fields = {key: self.value(value) for key, value in self.mapping(item, "an edge", _EDGE_KEYS).items()}
        if "id" not in fields:
            raise self.error(item, f"an edge of {message_id!r} needs the id of the parent")
        edge = Edge(str(fields["id"]))
        if (fidelity := fields.get("fidelity")) is not None:
            if fidelity not in ("reuse", "exact"):
                raise self.error(item, f"fidelity must be reuse or exact, not {fidelity!r}")
            edge = edge.exact() if fidelity == "exact" else edge.reuse()
        if (offset := fields.get("at")) is not None:
            if fields.get("as_encoded"):
                raise self.error(item, "an edge has at or as_encoded, not both")
            if isinstance(offset, bool) or not isinstance(offset, int) or offset < 0:
                raise self.error(item, f"at must be an offset in tokens, 0 or more, not {offset!r}")
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
        if isinstance(node, yaml.ScalarNode) and self.plain(node) is None:
            return {}  # `decode:` with nothing behind it takes the defaults
        return {key: self.value(value) for key, value in self.mapping(node, what, sorted(allowed)).items()}
