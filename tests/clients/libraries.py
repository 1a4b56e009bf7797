"""The client libraries of PyPI that are driven: their packages, drivers and features.

A list of `python` has the locked packages of each environment; `builder/clients.sh` makes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

LISTS = Path(__file__).parent / "python"
ENVIRONMENTS = ROOT / ".cache/clients"

CHATS = ("text", "stream", "tools", "streamedTools", "structured", "errors", "cancel")


@dataclass(frozen=True)
class Library:
    """A client library. `environment` names its list and its driver; `api` is what it speaks."""

    package: str
    environment: str
    api: str
    driver: str = ""
    provider: str = ""
    features: tuple[str, ...] = CHATS

    @property
    def script(self) -> Path:
        return LISTS / f"drive_{self.driver or self.environment}.py"

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return ENVIRONMENTS / self.environment / "bin/python"

    @property
    def version(self) -> str:
        """The version that its environment's list pins."""
        return pins(LISTS / f"{self.environment}.txt")[self.package]


def pins(path: Path) -> dict[str, str]:
    """Return the packages of a list with their versions."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = (re.fullmatch(r"([a-z0-9._-]+)==([^ ;]+)(?: ; .*)?", line) for line in lines)
    return {each[1]: each[2] for each in found if each}


LIBRARIES = (
    Library("openai", "openai", "chats"),
    Library("openai", "openai", "responses", driver="openai_responses"),
    Library("anthropic", "anthropic", "messages"),
    Library("langchain-openai", "langchain", "chats", provider="openai"),
    Library("langchain-openai", "langchain", "responses", provider="responses"),
    Library("langchain-anthropic", "langchain", "messages", provider="anthropic"),
    Library("llama-index-llms-openai-like", "llama_index", "chats"),
    Library(
        "instructor",
        "instructor",
        "chats",
        features=("text", "structured", "structuredBySchema", "structuredInParts", "errors"),
    ),
    *(
        Library(
            "pydantic-ai-slim",
            "pydantic_ai",
            api,
            provider=provider,
            features=(*CHATS, "structuredBySchema"),
        )
        for api, provider in (("chats", ""), ("responses", "responses"))
    ),
    Library("pydantic-ai-slim", "pydantic_ai", "messages", provider="anthropic"),
    Library("openai-agents", "openai_agents", "chats"),
    Library("openai-agents", "openai_agents", "responses", provider="responses"),
    Library("litellm", "litellm", "chats", provider="openai"),
    Library("litellm", "litellm", "messages", provider="anthropic"),
    Library("litellm", "litellm", "Ollama", provider="ollama_chat"),
    Library("dspy", "dspy", "chats", features=("text", "structured", "errors")),
    Library("haystack-ai", "haystack", "chats"),
    *(
        Library(
            "outlines",
            "outlines",
            api,
            provider=provider,
            features=("text", "stream", "structured", "errors", "cancel"),
        )
        for api, provider in (("chats", ""), ("chats, as vLLM", "vllm"))
    ),
    Library("guidance", "guidance", "chats", features=("text", "structured", "errors")),
    Library("ollama", "ollama", "Ollama", features=(*CHATS, "generate", "models")),
    Library("cohere", "cohere", "rerank", features=("rerank", "errors")),
    Library("lm-eval", "lm_eval", "completions", features=("generate", "likelihoods")),
)
