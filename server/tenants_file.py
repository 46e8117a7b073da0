"""What each namespace may use, from a JSON file.

    {
      "default": {"max_unfinished": 1000},
      "tenants": {"team-a": {"weight": 2, "max_running": 8, "max_stored_tokens": 100000, "max_workflows": 50,
                             "max_streams": 100}}
    }

`default` is for all namespaces that have no entry, `tenants` has an entry by name (the empty name is the default
namespace). The fields are those of TenantLimits; one that is left out has its default there, not that of `default`.
"""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from pavane.scheduler.tenants import NO_BOUND, TenantLimits, Tenants
from pavane.server.config import ConfigError
from pavane.server.fields import NAMESPACE

_FIELDS = tuple(item.name for item in fields(TenantLimits))
_LEAST = {"max_running": 1}  # others may be 0, which locks a tenant out


def read_tenants(path: Path) -> Tenants:
    """Raises ConfigError with the place in the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--tenants {path}: cannot be read: {error}") from None
    reader = _Reader(path)
    try:
        top = json.loads(text, object_pairs_hook=reader.mapping, parse_constant=reader.constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--tenants {path}:{error.lineno}:{error.colno}: {error.msg}") from None
    except RecursionError:
        raise ConfigError(f"--tenants {path}: nested too deep; it has tenants.NAME.FIELD at most") from None
    return reader.tenants(top)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def mapping(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            self._wrong(next(name for name in names if names.count(name) > 1), "is there twice")
        return made

    def constant(self, word: str) -> NoReturn:
        self._wrong(word, "is no number")

    def tenants(self, top: object) -> Tenants:
        given = self._object(top, "the file", ("default", "tenants"))
        default = self._limits(given.get("default", {}), "default")
        named = {}
        for name, entry in self._object(given.get("tenants", {}), "tenants", None).items():
            if not NAMESPACE.fullmatch(name):
                self._wrong(f"tenants.{name[:80]!r}", "is no namespace: at most 64 of the characters A-Z a-z 0-9 . _ -")
            named[name] = self._limits(entry, f"tenants.{name}")
        return Tenants(default=default, named=named)

    def _limits(self, entry: object, where: str) -> TenantLimits:
        given = self._object(entry, where, _FIELDS)
        for name, value in given.items():
            place = f"{where}.{name}"
            if name == "weight":
                if isinstance(value, bool) or not isinstance(value, int | float):
                    self._wrong(place, f"is {_short(value)}; use a number")
                if not 1e-6 <= value <= 1e6:
                    self._wrong(place, f"is {value:g}; use a number from 0.000001 to 1000000, 1 is an ordinary share")
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                self._wrong(place, f"is {_short(value)}; use a whole number")
            least = _LEAST.get(name, 0)
            if not least <= value <= NO_BOUND:
                self._wrong(place, f"is {_short(value)}; use {least} or more, or leave it out for no bound")
        return TenantLimits(**given)

    def _object(self, value: object, where: str, known: tuple[str, ...] | None) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._wrong(where, f"is {_short(value)}; use an object, {{...}}")
        unknown = next((name for name in value if known is not None and name not in known), None)
        if unknown is not None:
            self._wrong(where, f"has no field {unknown[:80]!r}; it knows {', '.join(known or ())}")
        return value

    def _wrong(self, place: str, text: str) -> NoReturn:
        raise ConfigError(f"--tenants {self._path}: {place} {text}")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
