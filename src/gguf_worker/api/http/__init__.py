"""The HTTP front: the gateway's routes, health, metrics and a page to try them by hand.

Knows nothing of generation. A client that goes away cancels its request at once, also while it
waits for a token. This is the only room that imports starlette and uvicorn.

    server          sockets, signals, limits of the process
    connection      one TCP connection and its limits
    auth            names of requests, keys, refusals at the door
    front           the routes
    bodies          reading what was sent
    delivery        delivering what is answered, whole or as a stream of events
    json_responses  JSON and errors
"""

from gguf_worker.api.http.front import build_http
from gguf_worker.api.http.server import serve

__all__ = ["build_http", "serve"]
