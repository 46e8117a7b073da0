"""API keys: what a line of `--api-keys` says, how keys are made, and how one is found again.

    sha256:9f86d081... tenant=team-a role=user priority=5 shared=library,docs name=ci expires=2027-01-31
    sha256:60303ae2... tenant=ops role=admin

All but the hash (of 64 hex digits) and the tenant may be left out. The file holds hashes: who reads it cannot call
the server. A key is 256 random bits, so there is nothing to guess, and a slow hash, which makes guessing dear, would
only let strangers make the server work; SHA-256 once is enough. A key is looked up by its hash. How long that takes may
depend on what the hash of a wrong key looks like, but nobody can choose keys by their hashes, and a hash known in part
brings no key nearer; so nothing needs to be compared in constant time.

What a tenant may use has one place, the file of `--tenants`: several keys of one tenant share its bounds.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from pavane.server.fields import NAMESPACE

PREFIX = "pvn_"  # lets scanners of repositories and logs recognise a key
SECRET_BYTES = 32
LONGEST = 256  # characters of what is sent as a key; more is not hashed
PRIORITIES = range(-(2**31), 2**31)
_FIELDS = ("tenant", "role", "priority", "shared", "name", "expires")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,64}")


class Role(StrEnum):
    USER = "user"
    ADMIN = "admin"  # AdminService as well, which shows all namespaces


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What a key may do. `priority` is the highest that its workflows may have, None: any. `expires` in seconds since
    the epoch."""

    digest: bytes = field(repr=False)
    tenant: str
    role: Role = Role.USER
    priority: int | None = None
    shared: frozenset[str] = frozenset()
    name: str = ""
    expires: float | None = None

    def may_use(self, namespace: str) -> bool:
        return namespace == self.tenant or namespace in self.shared

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires

    def line(self) -> str:
        """As the file has it."""
        words = [f"sha256:{self.digest.hex()}", f"tenant={self.tenant}", f"role={self.role}"]
        if self.priority is not None:
            words.append(f"priority={self.priority}")
        if self.shared:
            words.append(f"shared={','.join(sorted(self.shared))}")
        if self.name:
            words.append(f"name={self.name}")
        if self.expires is not None:
            words.append(f"expires={datetime.fromtimestamp(self.expires, UTC):%Y-%m-%dT%H:%M:%SZ}")
        return " ".join(words)


class Keys:
    """The keys of one file."""

    def __init__(self, keys: Mapping[bytes, ApiKey]) -> None:
        self._by_digest = dict(keys)

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[ApiKey]:
        return iter(self._by_digest.values())

    def find(self, secret: str) -> ApiKey | None:
        return None if len(secret) > LONGEST else self._by_digest.get(digest(secret))

    def still(self, key: ApiKey) -> ApiKey | None:
        """The key as it is in this file."""
        return self._by_digest.get(key.digest)


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def parse_keys(text: str) -> Keys:
    """Raises ValueError with the number of the line; of what should be a hash it repeats nothing."""
    if not text.strip():
        raise ValueError("it is empty; if nobody is to be let in, leave a line that begins with #")
    found: dict[bytes, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _parse_line(line.split())
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        if key.digest in found:
            raise ValueError(f"line {number}: this key is there twice; leave one of its lines out")
        found[key.digest] = key
    return Keys(found)


def _parse_line(words: list[str]) -> ApiKey:
    match = _HASH.fullmatch(words[0])
    if match is None:
        raise ValueError("it does not begin with sha256: and 64 hex digits; `pavane keys new` prints such a line")
    given: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or name not in _FIELDS:
            bounds = "; bounds belong to the tenant: --tenants" if name.startswith(("max_", "weight")) else ""
            raise ValueError(f"{word[:40]!r} is none of {', '.join(f'{name}=' for name in _FIELDS)}{bounds}")
        if name in given:
            raise ValueError(f"{name} is there twice")
        given[name] = value
    if "tenant" not in given:
        raise ValueError("tenant=NAMESPACE is missing (tenant= alone is the namespace without a name)")
    return make_key(bytes.fromhex(match[1]), **given)


def make_key(
    digest: bytes,
    tenant: str,
    role: str = Role.USER,
    priority: str = "",
    shared: str = "",
    name: str = "",
    expires: str = "",
) -> ApiKey:
    """From words as a line has them. ValueError names the one that is wrong."""
    granted = frozenset(shared.split(",")) if shared else frozenset()
    if "" in granted:
        raise ValueError(f"shared={shared[:80]!r} has an empty name between commas; leave it out")
    for what, namespace in (("tenant", tenant), *(("shared", one) for one in granted)):
        if not NAMESPACE.fullmatch(namespace):
            raise ValueError(f"{what}={namespace[:80]!r}: at most 64 of the characters A-Z a-z 0-9 . _ -")
    if role not in tuple(Role):
        raise ValueError(f"role={role[:40]!r}; use {' or '.join(Role)}")
    if name and not _NAME.fullmatch(name):
        raise ValueError(f"name={name[:80]!r}: 1 to 64 of the characters A-Z a-z 0-9 . _ @ + -")
    return ApiKey(digest, tenant, Role(role), _priority(priority), granted, name, _moment(expires))


def _priority(word: str) -> int | None:
    if not word:
        return None
    if not re.fullmatch(r"-?[0-9]{1,10}", word) or int(word) not in PRIORITIES:
        raise ValueError(f"priority={word[:40]!r}; use a whole number from {PRIORITIES.start} to {PRIORITIES.stop - 1}")
    return int(word)


def _moment(word: str) -> float | None:
    if not word:
        return None
    try:
        moment = datetime.fromisoformat(word)
    except ValueError:
        raise ValueError(f"expires={word[:40]!r}; use a date (2027-01-31) or a time (2027-01-31T18:00:00Z)") from None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
