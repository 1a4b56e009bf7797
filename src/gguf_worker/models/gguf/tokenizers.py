"""The tokenisers that the pinned llama.cpp knows, by their names in GGUF files.

It refuses a model with any other, after the whole file was fetched and opened.
"""

from __future__ import annotations

# From the source distribution of llama-cpp-python 0.3.36: llama_vocab::impl::load in
# vendor/llama.cpp/src/llama-vocab.cpp. To be regenerated whenever the pin changes.
_NAMES = """
bert gemma4 gpt2 hybriddna llama no_vocab none plamo2 rwkv t5 test whitespace
"""
TOKENIZERS = frozenset(_NAMES.split())
"""The values of tokenizer.ggml.model."""

_SPLITTING = frozenset({"gpt2", "hybriddna", "whitespace"})
"""Those that split a text into words first, in a way that tokenizer.ggml.pre names."""

_PRE_NAMES = """
a.x-4.0 afmoe bailingmoe bailingmoe2 bloom chameleon chatglm-bpe codeshell cohere2moe
command-r dbrx deepseek-coder deepseek-llm deepseek-r1-qwen deepseek-v3 default exaone
exaone-moe exaone4 f2llmv2 falcon falcon-h1 falcon3 gemma4 gigachat glm4 glm5 gpt-2
gpt-4o gpt3-finnish granite-docling granite-embed-multi-311m granite-embed-multi-97m
grok-2 hunyuan hunyuan-dense hy_v4 jais jais-2 jina-de jina-es jina-v1-en jina-v2-code
jina-v2-de jina-v2-es jina-v5-nano joyai-llm kanana2 kimi-k2 kormo laguna lfm2 llada-moe
llama-bpe llama-v3 llama3 llama4 megrez mellum mellum2 midm-2.0 minerva-7b minicpm5
minimax-m2 modern-bert mpt olmo phi-2 pixtral poro-chat qwen2 qwen35 refact roberta-bpe
sarvam-moe seed-coder smaug-bpe smollm solar-open spark2_5 stablelm2 starcoder superbpe
talkie tekken tiny_aya trillion ufakzeka viking whitespace youtu
"""
PRE_TOKENIZERS = frozenset(_PRE_NAMES.split())
"""The values of tokenizer.ggml.pre."""


def splits_unknown(tokenizer: str, pre: str) -> bool:
    """Return whether llama.cpp does not know how this tokeniser splits a text into words."""
    return tokenizer in _SPLITTING and pre != "" and pre not in PRE_TOKENIZERS


def splits_fatally(tokenizer: str, pre: str) -> bool:
    """Return whether two spaces in a text would end llama.cpp's process: it leaves out white space
    for one tokeniser only, and never expects any behind this way of splitting."""
    return tokenizer in _SPLITTING and pre == "whitespace" != tokenizer
