"""Serve a GGUF model on RunPod Serverless: many requests at once, one pipeline for every front door."""

__version__ = "0.1.0"
