"""The table of the worker's settings: names, types, bounds, and which values contradict each other.

What `auto` becomes is decided where the machine and the model are known. Nothing here reads
`os.environ`, and no secret is shown in a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from gguf_worker.config.redaction import HIDDEN, passwords_in, queries_in, without_queries
from gguf_worker.config.setting_types import (
    ALL_LAYERS,
    LONGEST_NAME,
    ONE_LINE,
    AnyCase,
    AutoChoice,
    AutoInt,
    DatabaseAddress,
    Key,
    Keys,
    LayerCount,
    Names,
    OrAuto,
    Origins,
    RedisAddress,
    Revision,
    WebAddress,
    split_list,
)

_QUANTISED_KV = frozenset({"q8_0", "q5_1", "q5_0", "q4_1", "q4_0"})


class Settings(BaseModel):
    """The worker's settings, frozen; None is `auto`, or "not set" where there is no `auto`.

    Fields are the variables' names in lower case. Build one with `load_settings(environ)`; in code,
    `Settings(model=..., ctx_size=4096)` checks the same bounds.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    model: str = Field(
        min_length=1,
        max_length=4096,
        pattern=ONE_LINE,
        description="The model: a path, `org/repo:QUANT`, `org/repo/file.gguf`, `org/repo`, or an "
        "https address of a file with `MODEL_SHA256`.",
        json_schema_extra={
            "allowed": "a path to a .gguf file, org/repo:QUANT, org/repo/file.gguf or "
            "https://host/file.gguf"
        },
    )
    model_revision: Revision = Field(
        "main",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$",
        description="Branch, tag or commit of the repository; a commit never changes under you.",
        json_schema_extra={"allowed": "a branch, tag or commit"},
    )
    model_sha256: Annotated[str | None, AnyCase] = Field(
        None,
        pattern=r"^[0-9a-f]{64}$",
        description="Refuse a model file with another SHA-256. Required where `MODEL` is an "
        "address.",
        json_schema_extra={"allowed": "64 hexadecimal digits"},
    )
    chat_template: str | None = Field(
        None,
        min_length=1,
        max_length=4096,
        pattern=ONE_LINE,
        description="Chat template (jinja2) in place of the model's own: a path, or the name of a "
        "file in the model's repository, such as `chat_template.jinja`. Tried out at the start.",
        json_schema_extra={"allowed": "a path, or a file of the model's repository"},
    )
    lora_adapters: str | None = Field(
        None,
        max_length=16384,
        pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]+$",
        description="LoRA adapters (GGUF) that are applied to every request, separated by commas "
        "or lines: each a path, `org/repo/file.gguf` or an https address, and behind it, after "
        "blanks, what applies of `scale=0.5`, `revision=main` and `sha256=...` (required for an "
        "address).",
        json_schema_extra={"allowed": "adapters, separated by commas or lines"},
    )
    hf_token: Key | None = Field(
        None,
        description="Hugging Face token, for private and gated repositories.",
        json_schema_extra={"allowed": "a token without spaces"},
    )
    hf_endpoint: WebAddress = Field(
        "https://huggingface.co",
        description="Address of the Hub, or of a mirror of it.",
        json_schema_extra={"allowed": "an http(s) address without user name and password"},
    )
    hf_hub_offline: bool = Field(
        False,
        description="1: nothing is fetched and nobody asked; the model has to be on the volume, in "
        "a cache or in the image.",
        json_schema_extra={"allowed": "0 or 1"},
    )
    volume_path: Path = Field(
        Path("/runpod-volume"),
        description="Directory that keeps downloaded models; a network volume outlives the worker. "
        "Where it does not exist, they go to `~/.cache/gguf-worker`, which ends with the worker.",
        json_schema_extra={"allowed": "a directory"},
    )
    baked_models: Path | None = Field(
        None,
        description="Directory of the models in this image, set by an image that has one: they are "
        "read there, and nothing is fetched to it or removed from it. Without `MODEL` the model of "
        "the image is served.",
        json_schema_extra={"allowed": "a directory"},
    )
    volume_max_gb: float | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="GB (10^9 bytes) that stored models may take. Before a download those that no "
        "worker uses make way, the least recently used first. Not set: nothing is removed.",
    )
    verify: Literal["stamp", "full", "off"] = Field(
        "stamp",
        description="How a stored model is looked at before use. `stamp`: size, time of change and "
        "header, and every byte if it was written to since; `full`: every byte, while the engine "
        "loads it, and before that where a hash was given; `off`: size and header.",
    )
    models_file: Path | None = Field(
        None,
        description="Several models for one worker, loaded when they are asked for. `MODEL` is "
        "then a name in it, of the one that is loaded at the start; not set: its first.",
        json_schema_extra={"allowed": "a path to a YAML file"},
    )

    ctx_size: AutoInt = Field(
        None,
        ge=256,
        le=10_000_000,
        description="Tokens that one request may hold, prompt and answer together. "
        "`auto`: as trained, up to 16384 on a GPU and 8192 without, and what memory allows.",
    )
    max_concurrency: AutoInt = Field(
        None,
        ge=1,
        le=256,
        description="Requests computed at the same time. `auto`: 32 on a GPU, 8 without, "
        "fewer where memory is short.",
    )
    kv_size: AutoInt = Field(
        None,
        ge=256,
        le=100_000_000,
        description="Tokens of KV cache that all requests share. `auto`: on a GPU enough for every "
        "request to fill its context, without one for every fourth, as far as memory allows.",
    )
    kv_layout: AutoChoice[Literal["unified", "partitioned"]] = Field(
        None,
        description="`unified`: one pool of KV cells, in which a common prefix is held once. "
        "`partitioned`: `CTX_SIZE` cells for each request, into which it is copied; computes "
        "faster. `auto`: `partitioned` where that fits into memory (without a GPU into 1 GiB).",
    )
    gpu_layers: LayerCount = Field(
        None,
        ge=ALL_LAYERS,
        le=10_000,
        description="Layers of the model on the GPU. `auto`: all, or as many as fit. A number "
        "beyond the model's layers means all.",
        json_schema_extra={"allowed": "auto, all, or a whole number from 0 to 10000"},
    )
    kv_type: AutoChoice[Literal["f16", "f32", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]] = (
        Field(
            None,
            description="Number format of the KV cache; `q8_0` halves it. `auto`: `f16`.",
        )
    )
    flash_attention: AutoChoice[Literal["on", "off"]] = Field(
        None,
        description="Flash attention. `auto`: where the model and the device support it.",
    )
    threads: AutoInt = Field(
        None,
        ge=1,
        le=512,
        description="CPU threads of the engine. `auto`: the cores this container may use, "
        "at most 4 when the whole model is on the GPU.",
    )
    batch_size: AutoInt = Field(
        None,
        ge=32,
        le=65_536,
        description="Most tokens in one step of the engine. `auto`: 2048 on a GPU, 512 without.",
    )
    ubatch_size: AutoInt = Field(
        None,
        ge=32,
        le=65_536,
        description="Tokens computed in one pass, at most `BATCH_SIZE`. `auto`: 512.",
    )
    prefill_chunk: AutoInt = Field(
        None,
        ge=16,
        le=65_536,
        description="Tokens in one step of the engine while answers are being generated: a smaller "
        "step keeps their pace when long prompts arrive, a larger one reads those sooner. "
        "`auto`: 512 on a GPU, 192 without.",
    )
    step_mixing: AutoChoice[Literal["mixed", "alternate"]] = Field(
        None,
        description="`mixed`: prompts are read in the same steps in which answers go on. "
        "`alternate`: in steps between them. `auto`: `mixed` in a unified layout, else "
        "`alternate`.",
    )
    stream_interval: float = Field(
        0.03,
        ge=0,
        le=1,
        description="Seconds for which the texts of a stream may be collected before they are "
        "sent; its first and its end are sent at once. Short steps spend less on sending then. 0: "
        "every token.",
    )
    stream_keep_alive: float = Field(
        15.0,
        ge=0,
        le=3_600,
        description="Seconds of silence after which a stream over HTTP sends the comment "
        "`: keep-alive`, so that no proxy gives it up. 0: never.",
    )
    max_queue: AutoInt = Field(
        None,
        ge=0,
        le=100_000,
        description="Requests that may wait for their turn; further ones are refused as "
        "`overloaded`. `auto`: four for each that is computed.",
    )
    pooling: AutoChoice[Literal["none", "mean", "cls", "last", "rank"]] = Field(
        None,
        description="How the tokens of a text become one embedding; `rank`: scores of a reranker. "
        "A chat model where it is set gives embeddings too. `auto`: as the model says, else `mean` "
        "for an encoder and `none` for a model that writes text.",
    )

    served_model_name: Annotated[Names | None, OrAuto] = Field(
        None,
        min_length=1,
        max_length=16384,
        pattern=ONE_LINE,
        description="The name under which clients ask for the model, or several, separated by "
        "commas; answers have the first. `*` among them: every name is taken. `auto`: from the "
        "model.",
        json_schema_extra={
            "allowed": f"auto or names of at most {LONGEST_NAME} characters, separated by commas"
        },
    )
    request_timeout: float = Field(
        600.0,
        ge=1,
        le=604_800,
        description="Seconds that a request may take, waiting included, unless the job or the "
        "request says otherwise.",
    )
    engine_timeout: float = Field(
        30.0,
        ge=1,
        le=3_600,
        description="Seconds without a sign of life after which the engine process is replaced.",
    )
    worker_mode: Annotated[Literal["queue", "http"], AnyCase] = Field(
        "queue",
        description="`queue`: jobs of a RunPod queue endpoint. `http`: an HTTP server, for a "
        "load-balancing endpoint or for use at home.",
    )
    host: str = Field(
        "0.0.0.0",
        pattern=r"^[A-Za-z0-9._:-]{1,255}$",
        description="Address that the HTTP server listens on.",
        json_schema_extra={"allowed": "an IP address or a host name"},
    )
    port: int = Field(8000, ge=1, le=65_535, description="Port that the HTTP server listens on.")
    port_health: int | None = Field(
        None,
        ge=1,
        le=65_535,
        description="Port that tells `/ping` and `/health` too, for a load balancer that asks "
        "there; where it is `PORT`, it changes nothing.",
    )
    api_key: Keys | None = Field(
        None,
        description="Keys, any of which clients of the HTTP server must send as `Authorization: "
        "Bearer` or as `X-Api-Key`.",
        json_schema_extra={"allowed": "keys without spaces, separated by commas or lines"},
    )
    cors_origins: Origins | None = Field(
        None,
        description="Origins whose pages may call the HTTP server from a browser.",
        json_schema_extra={"allowed": "* or http(s)://host[:port], separated by commas"},
    )
    redis_url: RedisAddress | None = Field(
        None,
        description="Redis for the state that several workers share.",
        json_schema_extra={"allowed": "redis://, rediss:// or unix://", "reserved": True},
    )
    audit_database_url: DatabaseAddress | None = Field(
        None,
        description="SQL database for the audit log.",
        json_schema_extra={"allowed": "driver://...", "reserved": True},
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], AnyCase] = Field(
        "info", description="Least severe messages that are logged, as JSON lines on stderr."
    )

    _warnings: tuple[str, ...] = PrivateAttr(default=())
    _catalog: Catalog | None = PrivateAttr(default=None)
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def catalog(self) -> Catalog | None:
        """The catalog, if there is one; these settings are then those of its default model."""
        return self._catalog

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for the log about each variable that is set and has no effect."""
        return self._warnings

    @property
    def api_keys(self) -> tuple[str, ...]:
        """The keys in `api_key`, in the clear."""
        return () if self.api_key is None else split_list(self.api_key.get_secret_value())

    @property
    def served_names(self) -> tuple[str, ...]:
        """The names in `served_model_name`; none if they are to be made from the model."""
        return () if self.served_model_name is None else split_list(self.served_model_name)

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins in `cors_origins`; if there are none, no page of another origin may call."""
        return () if self.cors_origins is None else split_list(self.cors_origins)

    def with_warnings(self, warnings: tuple[str, ...]) -> Settings:
        """Return these settings with warnings."""
        copy = self.model_copy()
        copy._warnings = warnings
        return copy

    def with_catalog(self, path: Path, catalog: Catalog) -> Settings:
        """Return these settings, those of the default model, with the catalog read from `path`."""
        copy = self.model_copy(update={"models_file": path})
        copy._catalog = catalog
        return copy

    def with_origin(self, origin: str, fields: Iterable[str]) -> Settings:
        """Return these settings, with the note that `fields` came from `origin`."""
        copy = self.model_copy()
        copy._origins = {**self._origins, **dict.fromkeys(fields, origin)}
        return copy

    def describe(self) -> tuple[SettingDescription, ...]:
        """Describe every setting: its value and where that came from. Secrets are hidden."""
        return tuple(
            SettingDescription(
                name=field.upper(),
                value=_shown(field, getattr(self, field)),
                source=self._source(field),
            )
            for field in type(self).model_fields
        )

    def _source(self, field: str) -> str:
        given = "environment" if field in self.model_fields_set else "default"
        return self._origins.get(field, given)

    def secrets(self) -> tuple[str, ...]:
        """Return the texts that must never be logged: secrets, addresses' passwords and queries."""
        found = []
        for field in type(self).model_fields:
            value = getattr(self, field)
            if isinstance(value, SecretStr):
                found.append(value.get_secret_value())
                found.extend(passwords_in(value.get_secret_value()))
        entries = self._catalog.entries if self._catalog else ()
        for each in (self, *(entry.settings for entry in entries)):
            found.extend(queries_in("model", each.model))
            found.extend(queries_in("lora_adapters", each.lora_adapters or ""))
        return tuple(dict.fromkeys((*found, *self.api_keys)))

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Settings:
        conflicts = tuple(self._conflicts())
        if conflicts:
            raise PydanticCustomError("conflict", "{text}", {"text": "\n".join(conflicts)})
        return self

    def _conflicts(self) -> Iterator[str]:
        if self.batch_size and self.ubatch_size and self.ubatch_size > self.batch_size:
            yield (
                f"UBATCH_SIZE={self.ubatch_size} is more than BATCH_SIZE={self.batch_size}: "
                "lower the one or raise the other"
            )
        if self.batch_size and self.max_concurrency and self.max_concurrency > self.batch_size:
            yield (
                f"MAX_CONCURRENCY={self.max_concurrency} is more than "
                f"BATCH_SIZE={self.batch_size}: a step needs room for a token of every "
                "request; lower the one or raise the other"
            )
        if self.kv_size and self.ctx_size and self.kv_size < self.ctx_size:
            yield (
                f"KV_SIZE={self.kv_size} is less than CTX_SIZE={self.ctx_size}: not even one "
                "request could fill its context; raise KV_SIZE or lower CTX_SIZE"
            )
        if self.kv_size and self.kv_layout == "partitioned":
            yield (
                f"KV_SIZE={self.kv_size} cannot be set with KV_LAYOUT=partitioned, where each "
                "request has CTX_SIZE tokens of its own: leave one of them out"
            )
        if self.kv_type in _QUANTISED_KV and self.flash_attention == "off":
            yield (
                f"KV_TYPE={self.kv_type} needs flash attention, which FLASH_ATTENTION=off forbids: "
                "leave FLASH_ATTENTION at auto, or set KV_TYPE to f16"
            )


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """One model of a catalog. `settings`: the worker's, overridden by those of this entry.

    `keep_alive`: seconds without a request after which it leaves memory; None: it leaves when
    others need its memory. `preload`: it is loaded at the start, if there is memory beside the
    default.
    """

    name: str
    settings: Settings
    aliases: tuple[str, ...] = ()
    keep_alive: float | None = None
    preload: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


@dataclass(frozen=True, slots=True)
class Catalog:
    """The models of one worker, in the file's order; names and aliases are unique.

    `default`: the one that is loaded at the start, and serves requests that name none.
    """

    entries: tuple[CatalogEntry, ...]
    default: CatalogEntry

    def find(self, name: str) -> CatalogEntry | None:
        """Return the model with this name or alias."""
        return next((entry for entry in self.entries if name in entry.names), None)


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting and its value.

    `value`: None if it is not set. `source`: environment, MODELS_FILE, BAKED_MODELS or default.
    """

    name: str
    value: str | int | float | None
    source: str


def _shown(field: str, value: object) -> str | int | float | None:
    if isinstance(value, SecretStr):
        return HIDDEN
    if field == "gpu_layers" and value == ALL_LAYERS:
        return "all"
    if value is None and has_auto(field):
        return "auto"
    if isinstance(value, str):
        return without_queries(field, value)
    return value if value is None or isinstance(value, int | float) else str(value)


def has_auto(field: str) -> bool:
    """Tell whether `auto` is a value of the field."""
    return OrAuto in Settings.model_fields[field].metadata
