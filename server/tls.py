"""The server's certificate, and the authority that signs those of its clients, for handshakes from now on.

gRPC asks before each handshake whether there is a new certificate (`dynamic_ssl_server_credentials`), so that
connections that stand are not touched by a change.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import Any

import grpc

from pavane.server.reload import stamp


class Certificates:
    """PEM files: certificate chain, private key, and, where clients must show certificates, the authorities that sign
    theirs. `load` and `fetch` may be called from any threads."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None = None) -> None:
        self.paths = (cert, key) if client_ca is None else (cert, key, client_ca)
        self._cert = cert
        self._key = key
        self._client_ca = client_ca
        self._lock = threading.Lock()
        self._fresh: grpc.ServerCertificateConfiguration | None = None

    def load(self) -> str:
        """Reads the files; returns what they are, for the log. ValueError if they cannot be used."""
        fresh = self._read()
        with self._lock:
            self._fresh = fresh
        return f"certificate {self._cert}" + (f", clients signed by {self._client_ca}" if self._client_ca else "")

    def credentials(self) -> grpc.ServerCredentials:
        """With what is in the files now. ValueError if they cannot be used."""
        fetch: Any = self._fetch  # None, which the types leave out, is gRPC's word for: as before
        return grpc.dynamic_ssl_server_credentials(
            self._read(), fetch, require_client_authentication=self._client_ca is not None
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC's threads. None: as before."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh

    def _read(self) -> grpc.ServerCertificateConfiguration:
        while True:
            before = stamp(self.paths)
            cert, key = _pem(self._cert, "--tls-cert"), _pem(self._key, "--tls-key")
            roots = _pem(self._client_ca, "--tls-client-ca") if self._client_ca else None
            self._check()
            if stamp(self.paths) == before:  # what was checked is what was read
                return grpc.ssl_server_certificate_configuration([(key, cert)], roots)

    def _check(self) -> None:
        """gRPC itself would take anything and fail at each handshake."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(
                f"--tls-cert {self._cert} and --tls-key {self._key} are no certificate with its key ({_short(error)}); "
                "give PEM files, the key without a password"
            ) from None
        for what, path in (("--tls-cert", self._cert), ("--tls-client-ca", self._client_ca)):
            if path is None:
                continue
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
            except (ssl.SSLError, ValueError) as error:
                raise ValueError(f"{what} {path} has no certificates ({_short(error)}); give a PEM file") from None


def _pem(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{flag} {path}: cannot be read: {error.strerror}") from None


def _no_password() -> str:
    raise ValueError("the key has a password")


def _short(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
