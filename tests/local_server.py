"""A web server on this machine, from which the tests of downloads obtain their files."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import pytest


class LocalHandler(BaseHTTPRequestHandler):
    """Answers requests without writing them to the terminal."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def send(self, body: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        """Send a response.

        Args:
            body: the bytes that are sent.
            status: the HTTP status.
            length: the size that the response states, by default that of the body.
            **headers: further headers, with underscores for hyphens.
        """
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


class LocalServer(ThreadingHTTPServer):
    """Listens on a free port; `url` is its address."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, handler: type[LocalHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    @contextmanager
    def running(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Self]:
        """Serve in a thread until the context ends. A proxy of the environment is bypassed."""
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()
