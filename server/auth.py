"""Who calls: found out once for each RPC, before anything of its request is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

from pavane.scheduler.errors import Reason, RequestError
from pavane.server.fields import check_namespace
from pavane.server.keys import ApiKey, Keys, Role

NAMESPACE_METADATA = "pavane-namespace"
KEY_METADATA = "authorization"
OPEN_SERVICE = "/grpc.health.v1.Health/"  # whoever reaches the port may ask whether the server is well
ADMIN_SERVICE = "/pavane.v1.AdminService/"
_SCHEME = "bearer "
_HOW = f"send it as metadata `{KEY_METADATA}: Bearer KEY`"

Metadata = Iterable[tuple[str, str | bytes]]


class KeyWord(StrEnum):
    """What is wrong with the key of a request, for who counts refusals."""

    MISSING = "key_missing"
    UNKNOWN = "key_unknown"
    EXPIRED = "key_expired"
    CHANGED = "key_changed"


class KeyRefused(RequestError):  # noqa: N818 - a kind of RequestError
    """UNAUTHENTICATED."""

    def __init__(self, word: KeyWord, text: str) -> None:
        super().__init__(Reason.UNAUTHENTICATED, text)
        self.word = word


@dataclass(frozen=True, slots=True)
class Caller:
    """The namespace that an RPC is about, and the key that lets it in; None on a server without keys."""

    namespace: str
    key: ApiKey | None = None

    def priority(self, asked: int | None) -> int | None:
        """Of a workflow that is opened, None: as it is. RequestError if the key does not go so high."""
        highest = None if self.key is None else self.key.priority
        if highest is None:
            return asked
        if asked is None:
            return min(highest, 0) or None
        if asked > highest:
            raise RequestError(
                Reason.PERMISSION_DENIED,
                f"priority is {asked}; this API key may ask for {highest} at most: lower it, or leave it out",
            )
        return asked


_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller() -> Caller:
    """Of the RPC that is being answered. LookupError outside of one."""
    return _CALLER.get()


def answer_for(one: Caller) -> None:
    """What follows in this task is done for `one`."""
    _CALLER.set(one)


class Guard:
    """Owner of the keys in force; None lets everybody in, with the namespace that they name."""

    def __init__(self, keys: Keys | None, clock: Callable[[], float] = time.time) -> None:
        self._keys = keys
        self._clock = clock

    @property
    def keyed(self) -> bool:
        return self._keys is not None

    def replace(self, keys: Keys) -> None:
        """From now on; see `check` for the streams that are open."""
        self._keys = keys

    def caller(self, method: str, metadata: Metadata) -> Caller:
        """RequestError if this RPC is not for whoever sent it. `method` is /package.Service/Name."""
        pairs = tuple(metadata)
        named = _only(pairs, NAMESPACE_METADATA)
        if self._keys is None:
            return Caller(check_namespace(named or ""))
        key = self._key(self._keys, _only(pairs, KEY_METADATA))
        if method.startswith(ADMIN_SERVICE) and key.role is not Role.ADMIN:
            raise RequestError(
                Reason.PERMISSION_DENIED, "AdminService shows all tenants; it needs an API key with role=admin"
            )
        namespace = key.tenant if named is None else check_namespace(named)
        if not key.may_use(namespace):
            raise RequestError(
                Reason.PERMISSION_DENIED,
                f"this API key belongs to tenant {key.tenant!r} and may not use the namespace {namespace!r}; leave the "
                f"metadata {NAMESPACE_METADATA} out, or have the namespace granted to the key (shared=)",
            )
        return Caller(namespace, key)

    def check(self, one: Caller) -> None:
        """RequestError if the key has expired since, or was removed, or has lost the namespace or role that it had."""
        if one.key is None or self._keys is None:
            return
        key = self._keys.still(one.key)
        if key is None or not key.may_use(one.namespace) or key.role is not one.key.role:
            raise KeyRefused(
                KeyWord.CHANGED, "the API key was removed or changed while the stream was open; open it again"
            )
        if key.expires is not None:
            self._check_expiry(key)

    def _key(self, keys: Keys, sent: str | None) -> ApiKey:
        if sent is None:
            raise KeyRefused(KeyWord.MISSING, f"this server asks for an API key; {_HOW}")
        if sent[: len(_SCHEME)].lower() != _SCHEME:
            raise KeyRefused(KeyWord.MISSING, f"the metadata {KEY_METADATA} holds no bearer token; {_HOW}")
        key = keys.find(sent[len(_SCHEME) :].strip())
        if key is None:
            raise KeyRefused(KeyWord.UNKNOWN, "the API key is not one of this server's; check it, or ask for a new one")
        self._check_expiry(key)
        return key

    def _check_expiry(self, key: ApiKey) -> None:
        if key.expired(self._clock()):
            assert key.expires is not None
            when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(key.expires))
            raise KeyRefused(KeyWord.EXPIRED, f"the API key expired on {when}; ask for a new one")


def _only(metadata: Metadata, name: str) -> str | None:
    """The value, if it is sent. RequestError if it is sent more than once: nobody knows which one others go by."""
    values = [value for key, value in metadata if key == name]
    if len(values) > 1:
        raise RequestError(Reason.INVALID_REQUEST, f"the metadata {name} is sent {len(values)} times; send it once")
    if not values:
        return None
    value = values[0]
    return value if isinstance(value, str) else value.decode("latin-1")
