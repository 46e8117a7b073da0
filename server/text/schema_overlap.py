"""What in a JSON schema or a Lark grammar may make it too costly to compile: patterns that meet, large multiples.

llguidance asks whether any text matches all of them, which takes time and memory that double with each, without end: a
compilation cannot be broken off, so what would take too long has to be known before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from decimal import Decimal
from urllib.parse import unquote

MOST = 10
LARGEST_MULTIPLE = 100_000  # llguidance makes a state for each remainder
_ALONE = ("pattern", "format")
_EACH_OF = ("anyOf", "oneOf")
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\\n])+/|(?://|#).*')


def joined_in_grammar(text: str) -> int:
    """Terminals that a Lark grammar joins by `&`, as if all met in one."""
    return _LITERAL.sub("", text).count("&") + 1


class Overlap:
    """Counts from above: of schemas that `allOf` joins, the places that have most patterns are taken to be one."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._all = sum(1 for node in _objects(root) for key in _ALONE if key in node)
        # References that a pointer from the root does not resolve count as everything there is.
        self._pointers = not any("$id" in node for node in _objects(root))
        self._known: dict[str, int] = {}

    def count(self) -> int:
        """Patterns and formats that may meet in one string."""
        return self._of(self._root) if self._all > MOST else self._all

    def multiple(self) -> int:
        """The largest `multipleOf` without its decimal point; where schemas are joined, the least multiple of all."""
        found = [node["multipleOf"] for node in _objects(self._root) if "multipleOf" in node]
        numbers = [Decimal(repr(value)).normalize() for value in found if type(value) in (int, float) and value]
        if any("allOf" in node or "$ref" in node for node in _objects(self._root)):
            least = min((_exponent(number) for number in numbers), default=0)
            return math.lcm(*(abs(int(number.scaleb(-least))) for number in numbers))
        return max((abs(int(number.scaleb(-min(_exponent(number), 0)))) for number in numbers), default=0)

    def _of(self, node: object) -> int:
        if isinstance(node, list):
            return max(map(self._of, node), default=0)
        if not isinstance(node, dict):
            return 0
        joined = 0
        below = 0
        for key, value in node.items():
            if key == "allOf" and isinstance(value, list):
                joined += sum(map(self._of, value))
            elif key in _EACH_OF:
                joined += self._of(value)
            elif key == "$ref" and isinstance(value, str):
                joined += self._referred(value)
            elif key not in ("$defs", "definitions"):  # these count where they are referred to
                below = max(below, self._of(value))
        return joined + max(below, sum(key in node for key in _ALONE))

    def _referred(self, reference: str) -> int:
        if reference not in self._known:
            self._known[reference] = 0  # what a schema refers to itself by joins nothing new
            plain = reference == "#" or (self._pointers and reference.startswith("#/"))
            self._known[reference] = self._of(self._found(reference)) if plain else self._all
        return self._known[reference]

    def _found(self, reference: str) -> object:
        node = self._root
        for part in unquote(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict):
                node = node.get(name)
            elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
        return node


def _exponent(number: Decimal) -> int:
    return int(number.as_tuple().exponent)


def _objects(node: object) -> Iterable[dict[str, object]]:
    todo = [node]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo += node.values()
        elif isinstance(node, list):
            todo += node
