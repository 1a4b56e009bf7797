"""The HTTP front: every route of the gateway over HTTP, with health, metrics and a page to try it by hand.

Knows nothing of generation. A client that goes away cancels its request at once, also while it waits for
a token. The only package that imports starlette and uvicorn; nothing else here needs them.

    server      sockets, signals, limits of the process
    connection  one TCP connection and its limits
    door        who may come in
    front       the routes
    bodies      reading what was sent
    answer      delivering what is answered, whole or as a stream of events
    responses   JSON and errors
"""

from gguf_worker.api.http.front import build_http
from gguf_worker.api.http.server import serve

__all__ = ["build_http", "serve"]
