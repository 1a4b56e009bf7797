"""Serves GGUF models on RunPod Serverless: many requests at once, one pipeline for every door."""

import time

STARTED = time.monotonic()
"""About when the interpreter had started and our own first line ran, by the monotonic clock."""

__version__ = "0.1.0"
