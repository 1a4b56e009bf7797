"""The HTTP front: the gateway's routes, health, metrics and a page to try them by hand.

Generation is the gateway's business. A client that disconnects cancels its request at once, also
while it waits for a token. This is the only room that imports starlette and uvicorn.

    server          sockets, signals, limits of the process
    connection      one TCP connection and its limits
    auth            ids of requests, API keys, early refusals
    front           the routes
    bodies          the reading of request bodies
    delivery        the delivery of answers, whole or as a stream of events
    json_responses  JSON and errors
"""

from gguf_worker.api.http.front import build_http
from gguf_worker.api.http.server import serve

__all__ = ["build_http", "serve"]
