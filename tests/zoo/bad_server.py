# SPDX-License-Identifier: Apache-2.0
"""A local web server that serves files, well or as badly as a test asks for."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What one answer is to be like; an answer without a word in front is a good one.
Behaviour = str


class BadServer:
    """Files by path; ``behaviours`` holds what the next answers are like, one each."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.files: dict[str, bytes] = {}
        self.behaviours: list[Behaviour] = []
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()  # ends what stalls

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: BadServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.owner.requests.append((self.path, dict(self.headers)))
        behaviour = self.owner.behaviours.pop(0) if self.owner.behaviours else ""
        self.close_connection = True
        word, _, value = behaviour.partition(" ")
        if word == "status":
            return self.answer(int(value), b"no", {})
        if word == "html":
            return self.answer(200, b"<html>log in</html>", {"Content-Type": "text/html"})
        if word == "redirect":
            return self.answer(302, b"", {"Location": value})
        body = self.owner.files.get(self.path.partition("?")[0])
        if body is None:
            return self.answer(404, b"no", {})
        self.give(body, word, value)
        return None

    def give(self, body: bytes, word: str, value: str) -> None:
        etag = f'"{hashlib.sha256(body).hexdigest()[:8]}"'
        headers = {} if word == "no_etag" else {"ETag": etag}
        status, start = 200, 0
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range", etag) == etag and word != "no_range":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            status = 206
            first = start - 1 if word == "wrong_range" else start
            headers["Content-Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        rest = body[start:]
        if word == "no_length":
            return self.answer(status, rest, headers, length=None)
        if word == "longer":
            return self.answer(status, rest, headers, length=len(rest) + 10)
        if word == "cut":
            return self.answer(status, rest[: int(value)], headers, length=len(rest))
        if word == "stall":
            self.answer(status, rest[: int(value)], headers, length=len(rest))
            self.wfile.flush()
            self.owner.released.wait(10)
            return None
        if word == "flip":
            rest = rest[:-1] + bytes([rest[-1] ^ 1])
        return self.answer(status, rest, headers)

    def answer(
        self, status: int, body: bytes, headers: dict[str, str], length: int | None = -1
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length == -1 else length))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[BadServer]:
    """Run a server for the time of a block."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        server = handler.owner = BadServer(http.server_address[1])
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            http.shutdown()
            thread.join()
