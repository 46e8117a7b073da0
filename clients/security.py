"""What makes a connection safe: TLS, and the key that says who calls."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

File = str | PathLike[str]


@dataclass(frozen=True, slots=True)
class TLS:
    """PEM files. `ca`: authorities that may have signed the server's certificate, default: those gRPC brings along.
    `cert` and `key`: this client's own, for servers that ask for one. `server_name`: what the server's certificate is
    for, if that is not the target's name."""

    ca: File | None = None
    cert: File | None = None
    key: File | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError("TLS has a client certificate without its key, or a key without certificate; give both")

    def credentials(self) -> grpc.ChannelCredentials:
        """Raises ValueError if a file cannot be read."""
        return grpc.ssl_channel_credentials(
            root_certificates=_pem("ca", self.ca),
            private_key=_pem("key", self.key),
            certificate_chain=_pem("cert", self.cert),
        )


def open_channel(target: str, tls: TLS | bool | None, options: Sequence[tuple[str, Any]]) -> grpc.aio.Channel:
    """A channel, encrypted unless `tls` is false."""
    if not tls:
        return grpc.aio.insecure_channel(target, options=options)
    chosen = TLS() if tls is True else tls
    named = [("grpc.ssl_target_name_override", chosen.server_name)] if chosen.server_name else []
    return grpc.aio.secure_channel(target, chosen.credentials(), options=[*named, *options])


def check_api_key(api_key: str, target: str, tls: TLS | bool | None) -> str:
    """The key, if it can be sent so. ValueError, which never repeats it, otherwise."""
    if not api_key:
        return ""
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise ValueError("the API key has characters that no key has; give it as `pavane keys new` printed it")
    if tls is None and not _is_loopback(target):
        raise ValueError(
            f"the API key would be sent to {target} for all on the way to read: encrypt (tls=True, --tls), or say that "
            "something else does (tls=False, --no-tls)"
        )
    return api_key


def _is_loopback(target: str) -> bool:
    if target.startswith("unix"):
        return True
    host = target.rpartition("/")[2].rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _pem(what: str, path: File | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"TLS {what} {path} cannot be read: {error.strerror}") from None
