"""The gRPC server itself: its port, who comes in by it, and what it takes from the network."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import grpc

from pavane.scheduler.tenants import Tenants
from pavane.server.access import Access
from pavane.server.auth import Guard
from pavane.server.config import ConfigError, ServerConfig
from pavane.server.interceptor import RpcInterceptor
from pavane.server.keys import Keys, parse_keys
from pavane.server.reload import Reloaded
from pavane.server.streams import MAX_HEALTH, Streams
from pavane.server.tls import Certificates

METADATA_BYTES = 16_384
CONNECTIONS = 10_000
FILES = 128  # of those that a process may open, kept for the model, the HTTP port and the threads
OPTIONS = {
    "grpc.so_reuseport": 0,  # a port in use is an error, not a second server behind it
    "grpc.max_metadata_size": METADATA_BYTES,
    "grpc.absolute_max_metadata_size": METADATA_BYTES,
    "grpc.server_handshake_timeout_ms": 20_000,
    # Clients may ping each 5 s, also while nothing is asked; the third ping that comes sooner ends the connection.
    "grpc.http2.min_ping_interval_without_data_ms": 5_000,
    "grpc.http2.max_ping_strikes": 2,
    "grpc.keepalive_permit_without_calls": 1,
    # A client that is gone without a word does not hold its streams for hours.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.http2.ping_timeout_ms": 20_000,  # of pings that gRPC sends to measure the line: while one is out, no other is
}


def is_news(record: logging.LogRecord) -> bool:
    """False of gRPC's own line, with a traceback, for each stream whose reader was gone while it was written to."""
    return record.exc_info is None or getattr(record.exc_info[0], "__name__", "") != "ExecuteBatchError"


def open_files(at_most: int = CONNECTIONS + FILES) -> int:
    """How many files this process may have open, once it may as many as it can be allowed, up to `at_most`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= at_most:
        return at_most
    wanted = at_most if hard == resource.RLIM_INFINITY else min(at_most, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Listener:
    """The security of a server's port, read from its files once. ConfigError if some of it cannot be used."""

    def __init__(self, config: ServerConfig, tenants: Tenants) -> None:
        self._config = config
        self._certificates = _certificates(config)
        self.guard = Guard(_read_keys(config) if config.api_keys else None)
        self.streams = Streams(tenants, config.max_streams)
        self._credentials: grpc.ServerCredentials | None = None
        if self._certificates is not None:
            try:
                self._credentials = self._certificates.credentials()
            except ValueError as error:
                raise ConfigError(str(error)) from None

    def server(self, access: Access) -> grpc.aio.Server:
        """Without services and ports yet. `access` hears how requests end. ConfigError if the process may not open
        enough files."""
        logging.getLogger("grpc._cython.cygrpc").addFilter(is_news)
        size = self._config.max_message_mb * 2**20
        files = open_files()
        if files <= FILES:
            raise ConfigError(
                f"at most {files} files may be open (ulimit -n); {FILES} are kept for the server itself, and each "
                "connection takes one: allow more"
            )
        return grpc.aio.server(
            interceptors=[RpcInterceptor(self.guard, self.streams, access)],
            options=[
                *OPTIONS.items(),
                # Beyond, connections are closed as they come. Running out of files would end more than that.
                ("grpc.max_allowed_incoming_connections", files - FILES),
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
                # Of one connection: more than the server takes, so that a client is refused and does not wait.
                ("grpc.max_concurrent_streams", self._config.max_streams + MAX_HEALTH),
            ],
        )

    def add_port(self, server: grpc.aio.Server) -> int:
        """The port that it listens on."""
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        address = f"{host}:{self._config.port}"
        if self._credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, self._credentials)

    def reloaded(self) -> list[Reloaded]:
        """What follows its files from now on."""
        found = []
        if self._certificates is not None:
            found.append(Reloaded("TLS", self._certificates.paths, self._certificates.load))
        if self.guard.keyed:
            found.append(Reloaded("API keys", [Path(self._config.api_keys)], self._load_keys))
        return found

    def _load_keys(self) -> str:
        keys = _read_keys(self._config)
        self.guard.replace(keys)
        return f"{len(keys)} keys of {len({key.tenant for key in keys})} tenants"


def _certificates(config: ServerConfig) -> Certificates | None:
    if not config.tls_cert:
        return None
    client_ca = Path(config.tls_client_ca) if config.tls_client_ca else None
    return Certificates(Path(config.tls_cert), Path(config.tls_key), client_ca)


def _read_keys(config: ServerConfig) -> Keys:
    path = Path(config.api_keys)
    try:
        return parse_keys(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--api-keys {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--api-keys {path}: it is no text; give lines as `pavane keys new` prints them") from None
    except ValueError as error:
        raise ConfigError(f"--api-keys {path}: {error}") from None
