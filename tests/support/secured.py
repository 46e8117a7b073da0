"""Servers in this process, of a tiny model that computes nothing, with the security that a test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import trustme

from pavane.clients import TLS
from pavane.kernels.batch import Batch, Runner, StepResult
from pavane.server.app import start
from pavane.server.config import ServerConfig
from pavane.server.keys import digest, make_key, new_secret
from pavane.server.running import Server
from tests.models.test_serving import QWEN, write

FIRST, WORDS = 300, 100  # tokens that spell something


class FakeRunner:
    """Samples tokens by their place in the message."""

    def execute(self, batch: Batch) -> StepResult:
        count = batch.samples.count
        tokens = (FIRST + batch.samples.counters[:count] % WORDS).astype(np.int32)
        return StepResult(tokens, np.zeros(count, dtype=np.float32), 0.0)


def tiny_model(folder: Path) -> Path:
    return write(folder, QWEN)


@asynccontextmanager
async def served(model: Path, runner: Callable[[], Runner] = FakeRunner, **settings: Any) -> AsyncIterator[Server]:
    config = ServerConfig(
        **{"model": str(model), "port": 0, "metrics_port": -1, "num_slots": 4096, "drain_timeout": 0.0} | settings
    )
    server = await start(config, lambda loaded, config, positions: runner())
    try:
        yield server
    finally:
        await server.shutdown()


class KeyFile:
    """A file of API keys, and the keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.secrets: dict[str, str] = {}
        self._lines: dict[str, str] = {}
        self._write()

    def add(self, name: str, **words: str) -> str:
        """The key of this name, new; its tenant is called like it unless `words` say otherwise."""
        secret = self.secrets[name] = new_secret()
        self._lines[name] = make_key(digest(secret), **{"tenant": name, "name": name} | words).line()
        self._write()
        return secret

    def change(self, name: str, **words: str) -> None:
        """The same key with other rights."""
        self._lines[name] = make_key(digest(self.secrets[name]), **{"tenant": name, "name": name} | words).line()
        self._write()

    def remove(self, name: str) -> None:
        del self._lines[name]
        self._write()

    def _write(self) -> None:
        self.path.write_text("\n".join(["# keys", *self._lines.values(), ""]))


@dataclass(frozen=True)
class Authority:
    """Signs certificates; those of one server lie in `cert` and `key`."""

    folder: Path
    ca: trustme.CA

    @classmethod
    def make(cls, folder: Path) -> Authority:
        made = cls(folder, trustme.CA())
        made.ca.cert_pem.write_to_path(str(made.root))
        made.renew()
        return made

    @property
    def root(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def cert(self) -> Path:
        return self.folder / "cert.pem"

    @property
    def key(self) -> Path:
        return self.folder / "key.pem"

    @property
    def flags(self) -> dict[str, str]:
        return {"tls_cert": str(self.cert), "tls_key": str(self.key)}

    def renew(self, *names: str) -> None:
        """A new certificate of the server, for these names."""
        self.issue(self.cert, self.key, *(names or ("localhost", "127.0.0.1")))

    def client(self, name: str = "agent") -> TLS:
        """What a client with a certificate of its own needs."""
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key.pem"
        self.issue(cert, key, name)
        return TLS(ca=self.root, cert=cert, key=key)

    def issue(self, cert: Path, key: Path, *names: str) -> None:
        made = self.ca.issue_cert(*names)
        cert.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        key.write_bytes(made.private_key_pem.bytes())
