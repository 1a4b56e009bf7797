"""Bounds on what one body may hold. Each is defined here once, for all dialects."""

from __future__ import annotations

MAX_FIELDS = 8192
MAX_NAME = 64
"""Characters of a field's name that are repeated to the caller."""
MAX_WARNINGS = 16
"""Warnings of one kind, before the rest is counted."""
MAX_OPTIONS = 64 * 1024
"""Bytes, as JSON, of an object that is passed on unchecked."""
MAX_NESTING = 200
"""Levels of nested objects and lists: far below Python's recursion limit."""
MAX_WIDTH = 100_000
"""Objects and lists on one level: more than any real body has, and checked in some milliseconds."""

MAX_MESSAGES = 4096
MAX_PARTS = 1024
"""Content parts of one message."""
MAX_ALL_PARTS = 16_384
"""Content parts of all messages: a million empty ones would hold up all requests for seconds."""
MAX_CALLS = 128
"""Tool calls of one message."""
MAX_TOOLS = 1024
MAX_TOOL_BYTES = 2 * 1024 * 1024
"""Bytes of all tools, as JSON."""

MAX_PROMPTS = 128
"""Prompts of a completion; also answers to all of them together."""
MAX_ANSWERS = 16
"""Answers to one prompt."""
MAX_BIAS = 1024
MAX_STOPS = 64
"""Stop strings, and bad words."""
MAX_STOP_TOKENS = 1024
MAX_ALLOWED = 2**16
"""Token ids of which an answer may be made, where it may not be made of all."""
MAX_USER = 256
MAX_TOP_LOGPROBS = 20

MAX_CHARACTERS = 2**24
"""Characters of all texts of a body that are embedded or ranked."""
MAX_TOKENS = 2**22
"""Token ids of one body."""
MAX_INT32 = 2**31 - 1
"""The largest token id, and the largest count of tokens, that llama.cpp can hold."""

MAX_TIMEOUT = 7 * 24 * 3600.0
"""Seconds; the longest that RunPod lets a job run."""
