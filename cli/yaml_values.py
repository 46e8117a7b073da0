"""The values of a YAML file, with the line of what is wrong and {{variables}} filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from pavane.cli.extras import UsageError

_VARIABLE = re.compile(r"\{\{\s*([A-Za-z_]\w*)\s*\}\}")


class GraphError(UsageError):
    """What is wrong with a graph, and in which line."""


class YamlValues:
    """Reads nodes of the file `name`; `variables` are given in place of the defaults that the file declares."""

    def __init__(self, name: str, variables: Mapping[str, str]) -> None:
        self._name = name
        self._given = dict(variables)
        self._variables: dict[str, str] = {}

    def compose(self, text: str) -> yaml.Node | None:
        """The root, None of an empty file. Like all methods it raises GraphError."""
        try:
            root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise GraphError(f"{self._name}:{line}: {error.problem or error.context}") from error
        return root

    def read_variables(self, node: yaml.Node | None) -> None:
        """The variables that the file declares, with their defaults; to be called before any `value`."""
        declared = self.mapping(node, "vars", None) if node is not None else {}
        unknown = sorted(self._given.keys() - declared.keys())
        if unknown:
            known = ", ".join(declared) or "none"
            raise GraphError(f"{self._name}: there is no variable {unknown[0]!r} to set; the file declares {known}")
        for key, value in declared.items():
            plain = self._given.get(key, self.plain(value))
            if plain is None:
                raise self.error(value, f"variable {key!r} has no default; give --var {key}=...")
            self._variables[key] = str(plain)

    def mapping(self, node: yaml.Node, what: str, allowed: Sequence[str] | None) -> dict[str, yaml.Node]:
        """The values of a mapping by key, each key once and, unless that is None, one of `allowed`."""
        if not isinstance(node, yaml.MappingNode):
            raise self.error(node, f"{what} must be a mapping of keys to values")
        found: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = str(key_node.value)
            if allowed is not None and key not in allowed:
                raise self.error(key_node, f"{what} has no key {key!r}; it knows {', '.join(allowed)}")
            if key in found:
                raise self.error(key_node, f"{what} has the key {key!r} twice")
            found[key] = value
        return found

    def plain(self, node: yaml.Node) -> Any:
        """What the node stands for in YAML."""
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except yaml.MarkedYAMLError as error:
            raise self.error(node, error.problem or "not a plain value") from error
        finally:
            loader.dispose()

    def value(self, node: yaml.Node) -> Any:
        """... with variables filled in."""
        return self._fill(node, self.plain(node))

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
            raise self.error(node, f"variable {name!r} is not declared under vars; declared: {known}")
        return self._variables[name]

    def error(self, node: yaml.Node, text: str) -> GraphError:
        """`text` with the file and the line of the node before it."""
        return GraphError(f"{self._name}:{node.start_mark.line + 1}: {text}")
