"""A Hub on this machine with one file, which it sends on to a second port, as the Hub does.

    python -m benchmarks.programs.loopback_hub FILE --rate 20

It prints its address once it listens, and serves until its input ends. Several processes send the
file by `sendfile`, so that the server takes as little of the processor as can be. `--rate`: MB/s
(10^6 bytes) that one connection gets; 0 for no limit.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REPO = "bench/model"
FILE = "model.gguf"
COMMIT = "1f" * 20

_SLICE = 1 << 19
_PROCESSES = 4


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _hub(path: Path, cdn: str) -> type[_Quiet]:
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    lfs = {"sha256": sha256, "size": size, "pointerSize": 134}
    sibling = {"rfilename": FILE, "size": size, "blobId": "0" * 40, "lfs": lfs}
    info = json.dumps({"id": REPO, "sha": COMMIT, "siblings": [sibling]}).encode()
    told = {
        "X-Repo-Commit": COMMIT,
        "X-Linked-Size": str(size),
        "X-Linked-Etag": f'"{sha256}"',
        "Location": f"{cdn}/{sha256}?signature=0",
    }

    class Hub(_Quiet):
        def do_GET(self) -> None:
            if self.path.startswith("/api/"):
                self.answer(200, {"Content-Type": "application/json"}, info)
            elif urlsplit(self.path).path.startswith(f"/{REPO}/resolve/"):
                self.answer(302, told)
            else:
                self.answer(404, {"X-Error-Code": "EntryNotFound"})

        do_HEAD = do_GET

    return Hub


def _cdn(path: Path, rate: float) -> type[_Quiet]:
    size = path.stat().st_size
    source = os.open(path, os.O_RDONLY)

    class Cdn(_Quiet):
        def do_GET(self) -> None:
            first, last = 0, size - 1
            asked = self.headers.get("Range")
            if asked:
                start, _, end = asked.removeprefix("bytes=").partition("-")
                first, last = int(start), min(int(end or size - 1), size - 1)
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.send_header("Content-Length", str(last + 1 - first))
            self.end_headers()
            if self.command != "HEAD":
                with contextlib.suppress(ConnectionError):
                    self._send(first, last + 1)

        do_HEAD = do_GET

        def _send(self, at: int, end: int) -> None:
            began, start = time.monotonic(), at
            while at < end:
                most = _SLICE if rate else end - at
                at += os.sendfile(self.connection.fileno(), source, at, min(most, end - at))
                if rate:
                    ahead = (at - start) / rate - (time.monotonic() - began)
                    time.sleep(max(ahead, 0.0))

    return Cdn


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--rate", type=float, default=0.0)
    given = parser.parse_args()
    cdn = _Server(("127.0.0.1", 0), _cdn(given.file, given.rate * 1e6))
    children = []
    for _ in range(_PROCESSES):  # all accept from the one socket
        if not (child := os.fork()):
            cdn.serve_forever()
        children.append(child)
    hub = _Server(("127.0.0.1", 0), _hub(given.file, f"http://127.0.0.1:{cdn.server_address[1]}"))
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{hub.server_address[1]}", flush=True)
    try:
        sys.stdin.read()
    finally:
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main()
