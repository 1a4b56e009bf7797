"""Health check of the container: over HTTP, it fails unless /ping says that the worker is ready.

On the queue nothing listens: RunPod watches the SDK's heartbeat there, and a container whose first
process lives is healthy. Only little of the standard library is imported, because this runs twice a
minute beside the engine.
"""

import os
import socket
import sys

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
SECONDS = 4.0


def ready(host: str, port: int) -> bool:
    """Return whether GET /ping is answered with 200; 204 says that the worker is starting."""
    try:
        with socket.create_connection((host, port), timeout=SECONDS) as connection:
            connection.sendall(b"GET /ping HTTP/1.0\r\nHost: health\r\n\r\n")
            return connection.recv(64).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False


def main() -> int:
    if os.environ.get("WORKER_MODE", "").strip().lower() != "http":
        return 0
    host = os.environ.get("HOST", "").strip() or "0.0.0.0"
    port = int(os.environ.get("PORT", "").strip() or "8000")
    return 0 if ready(ANYWHERE.get(host, host), port) else 1


if __name__ == "__main__":
    sys.exit(main())
