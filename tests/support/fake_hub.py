"""A Hugging Face hub on a loopback port: models are folders; it answers what the library asks for a snapshot."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """`models` maps an id and a revision to a folder; those in `gated` need `token`."""

    url: str
    models: dict[tuple[str, str], Path]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_granted"
    fetched: list[str] = field(default_factory=list)

    def commit(self, folder: Path) -> str:
        return hashlib.sha1(str(folder).encode()).hexdigest()

    def find(self, name: str, revision: str) -> Path | None:
        for (known, label), folder in self.models.items():
            if known == name and revision in (label, self.commit(folder)):
                return folder
        return None


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serves until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"] and len(parts) > 5:
                self.tell(f"{parts[2]}/{parts[3]}", parts[5], parts[4])
            elif len(parts) > 4 and parts[2] == "resolve":
                self.send_file(f"{parts[0]}/{parts[1]}", parts[3], "/".join(parts[4:]))
            else:
                self.answer(404, {})

        def do_HEAD(self) -> None:
            self.do_GET()

        def tell(self, name: str, revision: str, what: str) -> None:
            folder = self.folder(name, revision)
            if folder is None:
                return
            if what == "revision":
                self.answer(200, {"id": name, "sha": hub.commit(folder), "siblings": []})
            else:
                self.answer(200, [{"type": "file", **entry} for entry in map(describe, sorted(folder.iterdir()))])

        def send_file(self, name: str, revision: str, file: str) -> None:
            folder = self.folder(name, revision)
            if folder is None:
                return
            if name in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
                self.answer(403, {"error": "gated"}, code="GatedRepo")
                return
            if self.command == "GET":
                hub.fetched.append(file)
            body = (folder / file).read_bytes()
            self.send_response(200)
            self.send_header("X-Repo-Commit", hub.commit(folder))
            self.send_header("ETag", f'"{describe(folder / file)["oid"]}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def folder(self, name: str, revision: str) -> Path | None:
            found = hub.find(name, revision)
            if found is None:
                known = any(name == model for model, _ in hub.models)
                self.answer(404, {"error": "not found"}, code="RevisionNotFound" if known else "RepoNotFound")
            return found

        def answer(self, status: int, value: Any, code: str = "") -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Tests print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = FakeHub(f"http://127.0.0.1:{server.server_port}", {})
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def describe(path: Path) -> dict[str, Any]:
    body = path.read_bytes()
    return {"path": path.name, "size": len(body), "oid": hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()}
