"""Variables that look like settings but are not: misspelt, or named as in other servers.

A worker's environment holds hundreds of foreign variables, so only clear cases count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

_FOREIGN: Mapping[str, str] = {
    "MODEL_NAME": "MODEL",
    "MODEL_REPO": "MODEL",
    "MODEL_PATH": "MODEL",
    "MODEL_FILE": "MODEL",
    "LLAMA_ARG_MODEL": "MODEL",
    "LLAMA_ARG_HF_REPO": "MODEL",
    "LLAMA_ARG_LORA": "LORA_ADAPTERS",
    "LORA_MODULES": "LORA_ADAPTERS",
    "LLAMA_ARG_CHAT_TEMPLATE_FILE": "CHAT_TEMPLATE",
    "CUSTOM_CHAT_TEMPLATE": "CHAT_TEMPLATE",
    "HUGGING_FACE_HUB_TOKEN": "HF_TOKEN",
    "HUGGINGFACE_TOKEN": "HF_TOKEN",
    "HF_OFFLINE": "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE": "HF_HUB_OFFLINE",
    "LLAMA_ARG_OFFLINE": "HF_HUB_OFFLINE",
    "BASE_PATH": "VOLUME_PATH",
    "MAX_MODEL_LEN": "CTX_SIZE",
    "CONTEXT_SIZE": "CTX_SIZE",
    "CONTEXT_LENGTH": "CTX_SIZE",
    "N_CTX": "CTX_SIZE",
    "LLAMA_ARG_CTX_SIZE": "CTX_SIZE",
    "MAX_NUM_SEQS": "MAX_CONCURRENCY",
    "N_PARALLEL": "MAX_CONCURRENCY",
    "LLAMA_ARG_N_PARALLEL": "MAX_CONCURRENCY",
    "N_GPU_LAYERS": "GPU_LAYERS",
    "LLAMA_ARG_N_GPU_LAYERS": "GPU_LAYERS",
    "KV_CACHE_DTYPE": "KV_TYPE",
    "LLAMA_ARG_CACHE_TYPE_K": "KV_TYPE",
    "FLASH_ATTN": "FLASH_ATTENTION",
    "LLAMA_ARG_FLASH_ATTN": "FLASH_ATTENTION",
    "N_THREADS": "THREADS",
    "LLAMA_ARG_THREADS": "THREADS",
    "N_BATCH": "BATCH_SIZE",
    "MAX_NUM_BATCHED_TOKENS": "BATCH_SIZE",
    "LLAMA_ARG_BATCH": "BATCH_SIZE",
    "N_UBATCH": "UBATCH_SIZE",
    "LLAMA_ARG_UBATCH": "UBATCH_SIZE",
    "OPENAI_SERVED_MODEL_NAME_OVERRIDE": "SERVED_MODEL_NAME",
    "LLAMA_ARG_ALIAS": "SERVED_MODEL_NAME",
    "LLAMA_API_KEY": "API_KEY",
}
"""Settings of other servers of language models, with ours of the same meaning."""

_SIMILARITY = 0.88
"""One wrong letter in seven passes; HOSTNAME, X_API_KEY and the like don't."""

_SHORT = 5
"""Names up to this length resemble too many others, and have to be exact."""


def suggestions(given: Iterable[str], ours: Iterable[str]) -> dict[str, str]:
    """Return the given names that clearly stand for one of `ours`, each with that one."""
    names = tuple(ours)
    found = {}
    for name in given:
        meant = None if name in names else _meant(name, names)
        if meant is not None:
            found[name] = meant
    return found


def _meant(name: str, ours: tuple[str, ...]) -> str | None:
    upper = name.upper().replace("-", "_")
    if upper in _FOREIGN:
        return _FOREIGN[upper]
    if upper in ours:
        # `host` and `port` in lower case may belong to any program.
        return upper if len(upper) >= _SHORT else None
    long_names = [candidate for candidate in ours if len(candidate) > _SHORT]
    return next(iter(get_close_matches(upper, long_names, n=1, cutoff=_SIMILARITY)), None)
