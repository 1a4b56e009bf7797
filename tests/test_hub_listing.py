"""The listing on RunPod's Hub: the format of its publishing guide, and settings as in the code.

Every new setting is either listed, or left out here with a reason.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import jsonschema
import pytest

from gguf_worker.api import answer_job
from gguf_worker.config import Gpu, Machine, Settings, load_settings
from gguf_worker.config.setting_descriptions import allowed, is_reserved
from gguf_worker.config.settings import has_auto
from gguf_worker.models.gguf import Header
from gguf_worker.models.gguf.architectures import Layer
from gguf_worker.models.memory import fit
from tests.api_doors import Bench
from tests.fakes import ScriptedProvider, text_deltas
from tests.paths import ROOT

HUB: dict[str, Any] = json.loads((ROOT / ".runpod/hub.json").read_text(encoding="utf-8"))
TESTS: dict[str, Any] = json.loads((ROOT / ".runpod/tests.json").read_text(encoding="utf-8"))

CONFIG = HUB["config"]
INPUTS = {entry["key"]: entry["input"] for entry in CONFIG["env"] if "input" in entry}
PRESETS = {preset["name"]: preset["defaults"] for preset in CONFIG["presets"]}
FIELDS = {field.upper(): field for field in Settings.model_fields}

RUNPODS_OWN = {"RUNPOD_INIT_TIMEOUT"}
"""Variables of the platform, not of the worker."""

HTTP_ONLY = "the listing makes a queue endpoint, which has no HTTP server"
MEASURED = "`auto` knows better; to be set after a measurement, not at a first deployment"
LEFT_OUT = {
    "HF_HUB_OFFLINE": "a model from the Hub has to be fetched by somebody",
    "MODELS_FILE": "the file has to be put on the volume first; a variable is set with it",
    "VOLUME_PATH": "RunPod mounts volumes and cached models where the default says",
    "BAKED_MODELS": "an image with a model in it sets it itself",
    "WORKER_MODE": HTTP_ONLY,
    "HOST": HTTP_ONLY,
    "PORT": HTTP_ONLY,
    "PORT_HEALTH": HTTP_ONLY,
    "API_KEY": HTTP_ONLY,
    "CORS_ORIGINS": HTTP_ONLY,
    "KV_SIZE": MEASURED,
    "THREADS": MEASURED,
    "BATCH_SIZE": MEASURED,
    "UBATCH_SIZE": MEASURED,
    "PREFILL_CHUNK": MEASURED,
    "STEP_MIXING": MEASURED,
    "STREAM_INTERVAL": MEASURED,
    "STREAM_KEEP_ALIVE": HTTP_ONLY,
    "ENGINE_TIMEOUT": MEASURED,
}
"""Settings that the listing lacks on purpose, each with the reason. It has no reserved ones."""

POOLS = {
    "AMPERE_16": 16,
    "AMPERE_24": 24,
    "ADA_24": 24,
    "AMPERE_48": 48,
    "ADA_48_PRO": 48,
    "AMPERE_80": 80,
    "ADA_80_PRO": 80,
    "HOPPER_141": 141,
}
"""RunPod's GPU pools, with the memory of their cards in GB."""

CUDA_OF_HOSTS = ("12.4", "12.5", "12.6", "12.7", "12.8", "12.9", "13.0", "13.1", "13.2", "13.3")
"""What RunPod's catalog of October 2026 says of its hosts' drivers, from 12.4 on.

An entry is matched exactly: a host with a newer driver than any that is listed gets no worker.
"""

USABLE = 0.92
"""The free GiB of a pool's smallest card, as a part of its GB.

An L4 has 22.0 of 24, an A40 44.4 of 48.
"""


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a preset's model, as in its file."""

    bytes: int
    blocks: int
    embedding: int
    feed_forward: int
    heads: int


SHAPES = {
    "Qwen/Qwen3-1.7B-GGUF:Q8_0": Shape(1_834_426_016, 28, 2048, 6144, 16),
    "Qwen/Qwen3-8B-GGUF:Q4_K_M": Shape(5_027_783_488, 36, 4096, 12_288, 32),
    "Qwen/Qwen3-32B-GGUF:Q4_K_M": Shape(19_762_149_024, 64, 5120, 25_600, 64),
}

# --- the format ---

_ONE_OF = {"type": ["string", "number", "boolean"]}
_CUDA = {"type": "array", "items": {"type": "string", "pattern": r"^\d+\.\d+$"}, "minItems": 1}
_NAME = {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"}


def _object(required: str, /, **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these properties; `required` names some of them."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


_TEXT = {"type": "string", "minLength": 1}
_INPUT = _object(
    "name type description",
    name=_TEXT,
    type={"enum": ["string", "number", "boolean", "huggingface"]},
    description=_TEXT,
    default=_ONE_OF,
    required={"type": "boolean"},
    advanced={"type": "boolean"},
    options={
        "type": "array",
        "items": _object("label value", label=_TEXT, value=_TEXT),
        "minItems": 2,
    },
    min={"type": "number"},
    max={"type": "number"},
    trueValue=_TEXT,
    falseValue=_TEXT,
)
HUB_FORMAT = _object(
    "title description type category config",
    title=_TEXT,
    description=_TEXT,
    type={"const": "serverless"},
    category={"enum": ["audio", "embedding", "language", "video", "image"]},
    iconUrl=_TEXT,
    config=_object(
        "runsOn containerDiskInGb gpuCount gpuIds",
        runsOn={"const": "GPU"},
        endpointType={"const": "LB"},
        containerDiskInGb={"type": "integer", "minimum": 5},
        gpuCount={"type": "integer", "minimum": 1},
        gpuIds=_TEXT,
        allowedCudaVersions=_CUDA,
        presets={
            "type": "array",
            "items": _object(
                "name defaults",
                name=_TEXT,
                defaults={
                    "type": "object",
                    "propertyNames": _NAME,
                    "additionalProperties": _ONE_OF,
                    "minProperties": 1,
                },
            ),
        },
        env={
            "type": "array",
            "items": {
                "oneOf": [
                    _object("key value", key=_NAME, value={"type": "string"}),
                    _object("key input", key=_NAME, input=_INPUT),
                ]
            },
        },
    ),
)
TESTS_FORMAT = _object(
    "tests config",
    tests={
        "type": "array",
        "items": _object(
            "name input",
            name={"type": "string", "pattern": "^[a-z0-9_]+$"},
            input={"type": "object", "minProperties": 1},
            timeout={"type": "integer", "minimum": 1000},
        ),
        "minItems": 1,
    },
    config=_object(
        "gpuTypeId gpuCount",
        gpuTypeId=_TEXT,
        gpuCount={"type": "integer", "minimum": 1},
        allowedCudaVersions=_CUDA,
        env={"type": "array", "items": _object("key value", key=_NAME, value={"type": "string"})},
    ),
)


@pytest.mark.parametrize(("document", "format"), [(HUB, HUB_FORMAT), (TESTS, TESTS_FORMAT)])
def test_the_files_have_the_hubs_format(document: Any, format: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(format).validate(document)


@pytest.mark.parametrize("missing", ["handler.py", "Dockerfile", "README.md"])
def test_the_hub_finds_the_other_files_that_it_asks_for(missing: str) -> None:
    assert (ROOT / ".runpod" / missing).exists() or (ROOT / missing).exists()


def test_no_name_is_listed_twice() -> None:
    keys = [entry["key"] for entry in CONFIG["env"]]
    assert len(keys) == len(set(keys))
    assert len(PRESETS) == len(CONFIG["presets"])
    names = [case["name"] for case in TESTS["tests"]]
    assert len(names) == len(set(names))


# --- the settings ---


def test_every_setting_is_listed_or_left_out_for_a_reason() -> None:
    listed = {entry["key"] for entry in CONFIG["env"]} - RUNPODS_OWN
    reserved = {name for name, field in FIELDS.items() if is_reserved(field)}
    assert listed <= FIELDS.keys(), "listed, but no setting"
    assert LEFT_OUT.keys() <= FIELDS.keys() - reserved - listed, "left out, but need not be"
    undecided = FIELDS.keys() - listed - LEFT_OUT.keys() - reserved
    assert not undecided, "put them into .runpod/hub.json, or into LEFT_OUT with a reason"
    assert not listed & reserved, "of no effect yet"


@pytest.mark.parametrize("name", sorted(INPUTS.keys() - RUNPODS_OWN))
def test_an_input_says_what_the_setting_is(name: str) -> None:
    given = INPUTS[name]
    wanted = expected_input(FIELDS[name])
    shown = {key: value for key, value in given.items() if key not in ("name", "advanced")}
    assert shown == wanted


def expected_input(field: str) -> dict[str, Any]:
    """Return the listing's entry for a setting, without its label, from the settings class."""
    info = Settings.model_fields[field]
    schema = Settings.model_json_schema()["properties"][field]
    bounds = next(each for each in schema.get("anyOf", [schema]) if each["type"] != "null")
    text = (info.description or "").replace("`", "")
    wanted: dict[str, Any] = {"type": "string", "description": text}
    if "enum" in bounds:
        choices = (["auto"] if has_auto(field) else []) + bounds["enum"]
        wanted["options"] = [{"label": each, "value": each} for each in choices]
    elif bounds["type"] in ("integer", "number") and not has_auto(field):
        wanted |= {"type": "number", "min": bounds["minimum"], "max": bounds["maximum"]}
    else:
        wanted["description"] = f"{text} Allowed: {allowed(field)}."
    if info.is_required():
        wanted["required"] = True
    elif has_auto(field) and info.default is None:
        wanted["default"] = "auto"
    elif info.default is not None:
        wanted["default"] = info.default
    return wanted


def test_what_the_listing_fills_in_is_accepted_without_a_warning() -> None:
    defaults = {name: str(given["default"]) for name, given in INPUTS.items() if "default" in given}
    for preset in PRESETS.values():
        chosen = defaults | {name: str(value) for name, value in preset.items()}
        assert load_settings(chosen).warnings == ()


def test_the_fixed_values_are_accepted() -> None:
    fixed = {entry["key"]: entry["value"] for entry in CONFIG["env"] if "value" in entry}
    assert fixed.keys() <= RUNPODS_OWN or load_settings({"MODEL": "m.gguf"} | fixed)


# --- the presets ---


def test_there_is_a_preset_for_a_small_a_middle_and_a_large_model() -> None:
    assert [preset["MODEL"] for preset in PRESETS.values()] == list(SHAPES)


def test_a_preset_sets_only_what_the_listing_shows() -> None:
    assert {name for preset in PRESETS.values() for name in preset} <= INPUTS.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_each_pool_that_a_preset_names_holds_its_model_with_room_for_many_requests(
    preset: str, tiny_header: Header
) -> None:
    pools = re.findall(r"[A-Z]+_\d+(?:_[A-Z]+)?", preset)
    assert pools, "its name says where it runs"
    assert set(pools) <= set(CONFIG["gpuIds"].split(",")) & POOLS.keys()
    shape = SHAPES[PRESETS[preset]["MODEL"]]
    settings = load_settings({name: str(value) for name, value in PRESETS[preset].items()})
    for pool in pools:
        sizes = fit(settings, machine(POOLS[pool]), header(tiny_header, shape), gpu_offload=True)
        assert sizes.gpu_layers.value == -1, pool
        assert sizes.context.value == 16_384, pool
        assert sizes.sequences.value >= 16, pool


def test_every_preset_at_least_starts_in_every_pool_of_the_listing(tiny_header: Header) -> None:
    for preset in PRESETS.values():
        settings = load_settings({name: str(value) for name, value in preset.items()})
        for pool in CONFIG["gpuIds"].split(","):
            sizes = fit(
                settings,
                machine(POOLS[pool]),
                header(tiny_header, SHAPES[preset["MODEL"]]),
                gpu_offload=True,
            )
            assert sizes.context.value >= 4096, pool


def test_the_containers_disk_holds_the_largest_preset_beside_the_image() -> None:
    # Without a volume the model goes there. The SDK wants a tenth of the disk free, and the image
    # has some GB.
    largest = max(shape.bytes for shape in SHAPES.values()) / 1e9
    assert CONFIG["containerDiskInGb"] * 0.9 > largest + 8


def test_the_guides_table_of_what_fits_is_computed(tiny_header: Header) -> None:
    guide = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    begin, end = "<!-- fits:begin -->\n", "<!-- fits:end -->"
    assert guide.partition(begin)[2].partition(end)[0] == table_of_fits(tiny_header)


def table_of_fits(tiny: Header) -> str:
    memories = sorted(set(POOLS.values()))[:4]
    columns = ["model", *(f"{memory} GB" for memory in memories)]
    rows = [columns, ["---"] * len(columns)]
    for model, shape in SHAPES.items():
        row = [f"`{model}`, {shape.bytes / 1e9:.1f} GB"]
        for memory in memories:
            settings = load_settings({"MODEL": model})
            sizes = fit(settings, machine(memory), header(tiny, shape), gpu_offload=True)
            part = "" if sizes.gpu_layers.value == -1 else f" ({sizes.gpu_layers.value} layers)"
            row.append(
                f"{sizes.sequences.value} × {sizes.context.value:,}, {sizes.kv_cells.value:,}{part}"
            )
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def machine(gigabytes: int) -> Machine:
    memory = int(gigabytes * USABLE * 2**30)
    return Machine(8, 64 << 30, 48 << 30, gpus=(Gpu(0, "GPU", memory, memory),))


def header(tiny: Header, shape: Shape) -> Header:
    """Return the header of a Qwen3 of that shape, as far as sizes depend on it."""
    blocks = shape.blocks
    return dataclasses.replace(
        tiny,
        architecture="qwen3",
        tensor_bytes=shape.bytes,
        embedding_bytes=shape.bytes // 16,
        block_bytes=(shape.bytes * 14 // 16 // blocks,) * blocks,
        block_count=blocks,
        layers=(Layer(1024, 1024, 0),) * blocks,
        head_count=(shape.heads,) * blocks,
        head_count_kv=(8,) * blocks,
        key_length=128,
        value_length=128,
        context_length=40_960,
        embedding_length=shape.embedding,
        feed_forward_length=shape.feed_forward,
        vocabulary=151_936,
    )


# --- the image and the tests ---


def test_the_cuda_versions_are_that_of_the_image_and_all_newer_ones_of_runpods_hosts() -> None:
    (image,) = set(re.findall(r"nvidia/cuda:(\d+\.\d+)", (ROOT / "Dockerfile").read_text()))
    assert CONFIG["allowedCudaVersions"] == list(CUDA_OF_HOSTS[CUDA_OF_HOSTS.index(image) :])
    assert TESTS["config"]["allowedCudaVersions"] == CONFIG["allowedCudaVersions"]


def test_the_settings_of_the_hubs_tests_are_accepted() -> None:
    given = {entry["key"]: entry["value"] for entry in TESTS["config"]["env"]}
    ours = {name: value for name, value in given.items() if name not in RUNPODS_OWN}
    assert load_settings(ours).warnings == ()


@pytest.mark.parametrize("case", TESTS["tests"], ids=lambda case: case["name"])
async def test_what_the_hub_asks_is_answered(case: dict[str, Any]) -> None:
    bench = Bench(ScriptedProvider(text_deltas("Hello", " there")))
    items = answer_job(bench.gateway, {"id": "j", "input": case["input"]}, default_timeout=60)
    answer = [item async for item in items]
    assert answer
    assert all("error" not in item for item in answer if isinstance(item, dict))
    warned = [item["warnings"] for item in answer if isinstance(item, dict) and "warnings" in item]
    assert not any(warned), "what it asks has a misspelt name"
