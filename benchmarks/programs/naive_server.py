"""The handler that most people write first, as a server: one `Llama` object, used under a lock.

It runs on the peers' own Python and streams chat completions, one request at a time, while the
others wait.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from typing import Any

import llama_cpp
import uvicorn
from fastapi import Body, FastAPI
from fastapi.responses import StreamingResponse


def build(llama: llama_cpp.Llama) -> FastAPI:
    """Return the server's application over a loaded model."""
    app = FastAPI()
    lock = threading.Lock()

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any] = Body()) -> StreamingResponse:  # noqa: B008 - FastAPI's way
        def stream() -> Iterator[str]:
            with lock:
                chunks = llama.create_chat_completion(
                    body["messages"],
                    max_tokens=body["max_tokens"],
                    temperature=body["temperature"],
                    stream=True,
                )
                for chunk in chunks:
                    yield f"data: {json.dumps(chunk)}\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    llama = llama_cpp.Llama(
        given.model,
        n_ctx=given.context,
        n_threads=given.threads,
        n_threads_batch=given.threads,
        n_gpu_layers=-1,
        verbose=False,
    )
    uvicorn.run(build(llama), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
