"""Typed reading of a model's metadata: errors name the field and its value."""

import math
from collections.abc import Mapping

from pavane.models.errors import ModelError


class Fields:
    """The fields of one file or section; `label` stands before their names in errors. A field that is None is absent.

    `unread` tells what nobody asked for, which the forward pass would ignore.
    """

    def __init__(self, values: Mapping[str, object], label: str) -> None:
        self._values = values
        self._label = label
        self._read: set[str] = set()

    def get(self, key: str) -> object:
        self._read.add(key)
        return self._values.get(key)

    def given(self, key: str, default: object) -> object:
        """Like `get`, but a field that is written as null is None, and one that is not written `default`."""
        self._read.add(key)
        return self._values.get(key, default)

    def name(self, key: str) -> str:
        return self._label + key

    def refuse(self, key: str, instead: str) -> ModelError:
        """The error for a value that cannot be served; `instead` says which can, or what to do."""
        return ModelError(f"{self.name(key)} = {self._values.get(key)!r} is not supported, {instead}")

    def positive_int(self, key: str, default: int | None = None) -> int:
        value = self._required(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.refuse(key, "only one positive integer; choose another model")
        return value

    def positive_float(self, key: str, default: float | None = None) -> float:
        value = self._required(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise ModelError(f"{self.name(key)} = {value!r} must be a positive number; download the file again")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ModelError(f"{self.name(key)} = {value!r} must be true or false; download the file again")
        return value

    def unread(self) -> dict[str, object]:
        return {key: value for key, value in self._values.items() if key not in self._read}

    def _required(self, key: str, default: object) -> object:
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            raise ModelError(f"{self.name(key)} is missing; the file is incomplete, download it or convert it again")
        return value


def group_size(fields: Fields, heads_key: str, kv_heads_key: str, heads: int, kv_heads: int) -> None:
    """Raises ModelError where `heads` is no multiple of `kv_heads`."""
    if heads % kv_heads:
        raise ModelError(
            f"{fields.name(heads_key)} = {heads} is no multiple of {fields.name(kv_heads_key)} = {kv_heads}; "
            "download the file again"
        )
