"""Facts about llama.cpp's model architectures that are needed before a model is loaded.

They are the names that the pinned llama.cpp can load, those of them that are not served or only
give embeddings, and what each layer of a model keeps in memory: KV cells, or a recurrent state. The
file format is not known here: metadata comes as a mapping of GGUF keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MetadataValue = int | float | bool | str | tuple[int | float | bool, ...]
Metadata = Mapping[str, MetadataValue]

# From the source distribution of llama-cpp-python 0.3.36: LLM_ARCH_NAMES in
# vendor/llama.cpp/src/llama-arch.cpp, without "(unknown)" and "gptj", a name without a model.
# To be regenerated whenever the pin changes.
_NAMES = """
afmoe apertus arcee arctic arwkv7 baichuan bailingmoe bailingmoe2 bailingmoe3 bert
bitnet bloom chameleon chatglm clip codeshell cogvlm cohere2 cohere2moe command-r dbrx
deci deepseek deepseek2 deepseek2-ocr deepseek32 deepseek4 dflash dots1 dots3note dream
eagle3 ernie4_5 ernie4_5-moe eurobert exaone exaone-moe exaone4 falcon falcon-h1 gemma
gemma-embedding gemma2 gemma3 gemma3n gemma4 gemma4-assistant glm-dsa glm4 glm4moe
glm5-next gpt-oss gpt2 gptneox granite granite_swa granitehybrid granitemoe
graniteswitch grok grovemoe hrm_text hunyuan-dense hunyuan-moe hunyuan_vl hy_v3 hy_v4
internlm2 jais jais2 jamba jina-bert-v2 jina-bert-v3 kimi-k3 kimi-linear laguna lfm2
lfm2moe llada llada-moe llama llama-embed llama4 maincoder mamba mamba2 maple mellum
mimo2 minicpm minicpm3 minimax-01 minimax-m2 minimax-m3 mistral3 mistral4 modern-bert
mpt muse-glimmer nanbeige nemotron nemotron_h nemotron_h_moe neo-bert nomic-bert
nomic-bert-moe olmo olmo2 olmoe openelm orion paddleocr pangu-embedded phi2 phi3 phimoe
plamo plamo2 plamo3 plm pockettts qwen qwen2 qwen2moe qwen2vl qwen3 qwen35 qwen35moe
qwen3moe qwen3next qwen3tts qwen3vl qwen3vlmoe qwen4exp refact rnd1 rwkv6 rwkv6qwen2
rwkv7 seed_oss smallthinker smollm3 spark2_5 stablelm starcoder starcoder2 step35 t5
t5encoder talkie wavtokenizer-dec xverse
"""
ARCHITECTURES = frozenset(_NAMES.split())
"""Every architecture that the pinned llama.cpp loads."""

ENCODERS = frozenset(
    {
        "bert",
        "eurobert",
        "gemma-embedding",
        "jina-bert-v2",
        "jina-bert-v3",
        "modern-bert",
        "neo-bert",
        "nomic-bert",
        "nomic-bert-moe",
    }
)
"""Architectures that read a whole text at once, in both directions, and keep no KV cells.

llama.cpp gives them no memory (llama_model::create_memory).
"""
EMBEDDERS = ENCODERS | {"llama-embed"}
"""Architectures that give embeddings or scores and never text."""

_DIFFUSION = "it is a diffusion model, which does not write token by token"
_SPEECH = "it produces sound, and this version serves text generation"
_PROJECTOR = "it is the vision part (mmproj) of another model; name the language model instead"
DRAFT = "it is a draft head that only speeds up another model; name that model instead"

NOT_SERVED: Mapping[str, str] = {
    "t5encoder": "it is the encoder of an encoder-decoder model, and this version serves neither",
    "t5": "it is an encoder-decoder model, and this version serves decoder-only models",
    "clip": _PROJECTOR,
    "dream": _DIFFUSION,
    "llada": _DIFFUSION,
    "llada-moe": _DIFFUSION,
    "rnd1": _DIFFUSION,
    "pockettts": _SPEECH,
    "qwen3tts": _SPEECH,
    "wavtokenizer-dec": _SPEECH,
    "dflash": DRAFT,
    "eagle3": DRAFT,
    "gemma4-assistant": DRAFT,
}
"""Architectures that llama.cpp loads and this worker does not serve, and why not."""

_RECURRENT = frozenset({"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"})
# Hybrids whose recurrent layers are those without KV heads.
_BY_KV_HEADS = frozenset(
    {
        "bailingmoe3",
        "glm5-next",
        "granitehybrid",
        "jamba",
        "kimi-k3",
        "kimi-linear",
        "lfm2",
        "lfm2moe",
        "nemotron_h",
        "nemotron_h_moe",
        "plamo2",
    }
)
# Hybrids with full attention in every n-th layer only, and the n that llama.cpp takes by default.
_BY_INTERVAL: Mapping[str, int] = {
    "minimax-01": 8,
    "qwen3next": 4,
    "qwen35": 4,
    "qwen35moe": 4,
    "qwen4exp": 4,
}
# A sliding window in all but every n-th layer, where the file does not say which: llama.cpp's n.
_SLIDING_PERIOD: Mapping[str, int] = {
    "afmoe": 4,
    "cohere2": 4,
    "exaone-moe": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "mellum": 4,
    "muse-glimmer": 4,
    "olmo2": 4,
    "plamo3": 8,
}
_GEMMA3N_LAYERS_WITH_KV = 20


@dataclass(frozen=True, slots=True)
class Layer:
    """The memory of one layer: elements of K and V per token, and of state (f32) per sequence."""

    key: int
    value: int
    state: int
    sliding: bool = False
    """K and V are only kept for the tokens inside the sliding window."""


def layers(architecture: str, metadata: Metadata) -> tuple[Layer, ...]:
    """Return the memory of each layer that takes part in generation, or in the reading of a text.

    For an architecture that needs less than its metadata shows, the result is too large, never too
    small. `block_count` must be small: the caller has checked it.
    """
    shape = _LayerShapes(architecture, metadata)
    return tuple(shape.layer(index) for index in range(shape.count))


def recurrent_width(architecture: str, metadata: Metadata) -> int:
    """Return the elements per token that llama.cpp holds in a recurrent layer, beside its input.

    Exact for mamba2's layers and lfm2's short convolutions; a guess for the others.
    """
    return _LayerShapes(architecture, metadata).recurrent_width()


class _LayerShapes:
    """Reads the memory of each layer from a model's metadata."""

    def __init__(self, architecture: str, metadata: Metadata) -> None:
        self._architecture = architecture
        self._metadata = metadata
        blocks = self._one("block_count")
        drafting = self._one("nextn_predict_layers")
        self.count = blocks - drafting if drafting < blocks else blocks
        self._embedding = self._one("embedding_length")
        self._window = self._one("attention.sliding_window")
        self._heads = self._each("attention.head_count", 0)
        self._kv_heads = self._each("attention.head_count_kv", self._heads)
        head = self._embedding // self._heads[0] if self._heads and self._heads[0] else 0
        self._key = self._one("attention.key_length", head)
        self._value = self._one("attention.value_length", head)
        self._state = self._state_elements()

    def layer(self, index: int) -> Layer:
        if self._architecture in ENCODERS:
            return Layer(0, 0, 0, sliding=self._window > 0)
        recurrent = self._is_recurrent(index)
        state = self._state if recurrent else 0
        if (recurrent and self._architecture != "falcon-h1") or not self._has_kv(index):
            return Layer(0, 0, state)
        sliding = self._is_sliding(index)
        key, value = self._key, self._value
        if sliding:
            key = self._one("attention.key_length_swa", key)
            value = self._one("attention.value_length_swa", value)
        if self._one("attention.key_length_mla"):
            value = 0  # multi-head latent attention: V is a part of K
        heads = self._kv_heads[index]
        return Layer(
            key * heads + self._one("attention.indexer.key_length"), value * heads, state, sliding
        )

    def recurrent_width(self) -> int:
        if not any(self.layer(index).state for index in range(self.count)):
            return 0
        if self._one("shortconv.l_cache"):
            return 6 * self._embedding
        if inner := self._one("ssm.inner_size"):
            groups, states = self._one("ssm.group_count"), self._one("ssm.state_size")
            convolved = inner + 2 * groups * states
            projected = inner + convolved + self._one("ssm.time_step_rank")
            return projected + 3 * convolved + inner
        return 12 * self._embedding

    def _has_kv(self, index: int) -> bool:
        if self._architecture == "gemma3n":
            return index < _GEMMA3N_LAYERS_WITH_KV
        return index < self.count - self._one("attention.shared_kv_layers")

    def _is_recurrent(self, index: int) -> bool:
        name = self._architecture
        if name in _RECURRENT or name == "falcon-h1":
            return True
        if name in _BY_KV_HEADS:
            feed_forward = self._each("feed_forward_length", 0)[index]
            return self._kv_heads[index] == 0 and not (
                name.startswith("nemotron_h") and feed_forward
            )
        if name in _BY_INTERVAL:
            listed = self._metadata.get(f"{name}.attention.recurrent_layers")
            if isinstance(listed, tuple) and index < len(listed):
                return bool(listed[index])
            interval = self._one("full_attention_interval", _BY_INTERVAL[name])
            return interval > 0 and (index + 1) % interval != 0
        return False

    def _is_sliding(self, index: int) -> bool:
        name = self._architecture
        if not self._window or name == "phi3" or (name == "exaone4" and self.count != 64):
            return False
        pattern = self._metadata.get(f"{name}.attention.sliding_window_pattern")
        if isinstance(pattern, tuple):
            return index < len(pattern) and bool(pattern[index])
        if name not in _SLIDING_PERIOD:
            return False
        period = self._one("attention.sliding_window_pattern", _SLIDING_PERIOD[name])
        return period == 0 or index % period < period - 1

    def _state_elements(self) -> int:
        """Return llama.cpp's llama_hparams::n_embd_r + n_embd_s, for one layer and sequence."""
        heads = self._heads[0] if self._heads else 0
        if width := self._one("wkv.head_size"):
            shifts = self._one("token_shift_count", 2)
            return self._embedding * (shifts + width)
        if length := self._one("shortconv.l_cache"):
            return self._embedding * (length - 1)
        kernel = self._one("ssm.conv_kernel")
        if width := self._one("kda.head_dim"):
            convolution = 3 * (kernel - 1 if kernel else 3) * heads * width
            return convolution + width * width * heads
        if self._architecture == "minimax-01":
            return self._key * self._key * heads
        inner, states = self._one("ssm.inner_size"), self._one("ssm.state_size")
        groups = self._one("ssm.group_count")
        return max(kernel - 1, 0) * (inner + 2 * groups * states) + states * inner

    def _one(self, key: str, default: int = 0) -> int:
        value = self._metadata.get(f"{self._architecture}.{key}")
        return max(value, 0) if isinstance(value, int) else default

    def _each(self, key: str, default: int | tuple[int, ...]) -> tuple[int, ...]:
        value = self._metadata.get(f"{self._architecture}.{key}", default)
        blocks = self._one("block_count")
        if isinstance(value, tuple):
            given = tuple(max(item, 0) if isinstance(item, int) else 0 for item in value[:blocks])
            return given + (0,) * (blocks - len(given))
        return (max(value, 0) if isinstance(value, int) else 0,) * blocks
