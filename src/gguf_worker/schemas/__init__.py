"""Callers' JSON schemas, translated into those that an answer can be held to.

A schema is written by a generator or by hand, in one of many drafts and dialects; the engine takes
a part of the newest. What means nothing is left out, what is only said otherwise is rewritten, and
what an answer cannot be held to is relaxed, and named. The room is pure, and bounded in work: it
knows no engine, no request and no model.
"""

from gguf_worker.schemas.relaxations import Relaxations
from gguf_worker.schemas.translator import TranslatedSchema, translated, translated_arguments

__all__ = ["Relaxations", "TranslatedSchema", "translated", "translated_arguments"]
