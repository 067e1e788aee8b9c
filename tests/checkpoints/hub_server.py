"""A small web server that answers as the Hugging Face Hub and as a plain file server do, with the faults of both."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class HubServer(ThreadingHTTPServer):
    """files: path below the address -> content. A path OWNER/NAME/resolve/main/FILE is one of a repository."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.gated: set[str] = set()
        self.refused: dict[str, int] = {}
        self.cut_after: dict[str, int] = {}
        """Bytes after which the next answer for a path breaks off, once."""
        self.asked: list[tuple[str, str, str]] = []
        """Method, path and range of each request."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add_repository(self, name: str, files: dict[str, bytes]) -> None:
        self.files |= {f"/{name}/resolve/main/{file}": content for file, content in files.items()}


class _Handler(BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_content=False)

    def do_GET(self) -> None:
        self._answer(with_content=True)

    def _answer(self, with_content: bool) -> None:
        wanted = self.headers.get("Range", "")
        path = self.path.partition("?")[0].replace(f"/resolve/{COMMIT}/", "/resolve/main/")
        self.server.asked.append((self.command, path, wanted))
        repository = path.partition("/resolve/")[0].strip("/")
        known = any(other.startswith(f"/{repository}/resolve/") for other in self.server.files)
        if path in self.server.refused:
            self._fail(self.server.refused[path])
        elif repository in self.server.gated:
            self._fail(401, "GatedRepo")
        elif path in self.server.files:
            self._give(path, wanted, with_content)
        elif "/resolve/" in path and not known:
            self._fail(401, "RepoNotFound")
        else:
            self._fail(404, "EntryNotFound")

    def _fail(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _give(self, path: str, wanted: str, with_content: bool) -> None:
        content = self.server.files[path]
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if start and start >= len(content):
            self._fail(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_content:
            cut = self.server.cut_after.pop(path, len(content))
            self.wfile.write(content[start:cut])
            self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def serve() -> Iterator[HubServer]:
    """A server for the time of a `with`."""
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
