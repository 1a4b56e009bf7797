"""Reads the catalog of models, a YAML file, and reports all of its faults at once.

A model's settings have the environment's names in lower case, and the same bounds. A setting that
an entry lacks has the environment's value. PyYAML is imported only if there is a catalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gguf_worker.config.baked_model import read_baked_model
from gguf_worker.config.setting_descriptions import allowed
from gguf_worker.config.setting_types import LONGEST_NAME
from gguf_worker.config.settings import Catalog, CatalogEntry, Settings
from gguf_worker.errors import ConfigError, is_lasting

_OF_ONE_MODEL = (
    "chat_template",
    "lora_adapters",
    "ctx_size",
    "max_concurrency",
    "kv_size",
    "kv_layout",
    "gpu_layers",
    "kv_type",
    "flash_attention",
    "threads",
    "batch_size",
    "ubatch_size",
    "prefill_chunk",
    "step_mixing",
    "max_queue",
    "pooling",
)
"""Settings that a model of the catalog may have for itself."""

_FIELDS = {
    "model": "model",
    "revision": "model_revision",
    "sha256": "model_sha256",
    **{field: field for field in _OF_ONE_MODEL},
}
"""Keys of an entry that are settings, with the settings' names."""
_CATALOG_KEYS = ("aliases", "keep_alive", "preload")
"""Keys of an entry that are not settings."""
PER_MODEL_ONLY = (
    "model_revision",
    "model_sha256",
    "chat_template",
    "lora_adapters",
    "served_model_name",
)
"""Settings of the environment that are about one model, and have no effect beside a catalog."""
_NOT_SHARED = ("model", *PER_MODEL_ONLY, "models_file")
"""Settings of the environment that no model of the catalog inherits."""

_LARGEST_FILE = 1 << 20
_DEEPEST = 4
"""Levels: the file, `models`, an entry, its aliases."""
_LONGEST_KEEP_ALIVE = 604_800.0
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def read_catalog(path: Path, common: Mapping[str, str]) -> Catalog:
    """Read the catalog in the file at `path`. Its default is the first entry.

    `common`: the environment's settings, which are valid. Raises ConfigError with a line for
    everything that is wrong.
    """
    faults: list[str] = []
    content = _parsed(path, faults)
    entries = [] if faults else list(_entries(content, common, faults))
    faults += _duplicate_names(entries)
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        lines = lines.encode(
            "utf-8", "backslashreplace"
        ).decode()  # YAML can write half a surrogate pair
        raise ConfigError(f"MODELS_FILE={path} is not usable:\n{lines}", param="MODELS_FILE")
    return Catalog(tuple(entries), entries[0])


def _parsed(path: Path, faults: list[str]) -> Any:
    """Return the file as mappings, lists and texts; None, with a fault, if it is not YAML."""
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        if not is_lasting(error):
            raise ConfigError(
                f"MODELS_FILE={path} cannot be read now: {error.strerror or error}.",
                param="MODELS_FILE",
                permanent=False,
            ) from error
        faults.append(f"it cannot be read: {error.strerror}")
        return None
    if len(data) > _LARGEST_FILE:
        faults.append(f"it has more than {_LARGEST_FILE} bytes")
        return None
    try:
        node = yaml.compose(data.decode(), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        faults.append(f"{where}it is not YAML: {getattr(error, 'problem', None) or error}")
        return None
    except RecursionError:  # in PyYAML's parser
        faults.append("it is nested too deeply")
        return None
    return None if node is None else _plain(node, "", faults, set())


def _plain(node: Any, where: str, faults: list[str], seen: set[int], depth: int = 0) -> Any:
    """Return a node's value. Scalars stay texts: `on` is no boolean, and `0e1` no number.

    `seen`: the ids of the mappings and lists that were met already. Aliases of them are refused: a
    few bytes of nested aliases could take all memory.
    """
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return node.value
    if depth >= _DEEPEST:
        _add(faults, f"{where}: this is nested too deeply")
        return ""
    if id(node) in seen:
        _add(faults, f"{where}: an alias (*) may stand for a text only: write it out")
        return ""
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each, where, faults, seen, depth + 1) for each in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            faults.append(f"line {key.start_mark.line + 1}: a key has to be a text")
            continue
        name = f"{where}.{key.value}" if where else key.value
        if key.value in found:
            faults.append(f"{name}: is there twice, again in line {key.start_mark.line + 1}")
        found[key.value] = _plain(value, name, faults, seen, depth + 1)
    return found


def _add(faults: list[str], fault: str) -> None:
    """Add a fault, once for all items of a list."""
    if faults[-1:] != [fault]:
        faults.append(fault)


def _entries(content: Any, common: Mapping[str, str], faults: list[str]) -> Iterator[CatalogEntry]:
    if not isinstance(content, dict):
        faults.append("it has to be a mapping with the key `models`")
        return
    faults += [f"{key}: is not known; there is: models" for key in content if key != "models"]
    models = content.get("models")
    if not isinstance(models, dict) or not models:
        faults.append("models: has to be a mapping from names to models, of at least one")
        return
    shared = {field: value for field, value in common.items() if field not in _NOT_SHARED}
    for name, given in models.items():
        entry = _entry(name, given, shared, faults)
        if entry is not None:
            yield entry


def _entry(
    name: str, given: Any, shared: Mapping[str, str], faults: list[str]
) -> CatalogEntry | None:
    where = f"models.{name}"
    if not isinstance(given, dict):
        faults.append(f"{where}: has to be a mapping, at least with the key `model`")
        return None
    faults += [
        f"{where}.{key}: is not known{_meant(key)}"
        for key in given
        if key not in _FIELDS and key not in _CATALOG_KEYS
    ]
    settings = _settings(where, name, given, shared, faults)
    aliases = _aliases(where, given.get("aliases") or [], faults)
    keep_alive = _keep_alive(where, given.get("keep_alive"), faults)
    preload = _truth(f"{where}.preload", given.get("preload"), faults)
    if settings is None:
        return None
    return CatalogEntry(name, settings, aliases, keep_alive, preload)


def _meant(key: str) -> str:
    found = get_close_matches(key.lower(), (*_FIELDS, *_CATALOG_KEYS), n=1)
    return f": did you mean {found[0]}?" if found else ""


def _settings(
    where: str, name: str, given: Mapping[str, Any], shared: Mapping[str, str], faults: list[str]
) -> Settings | None:
    own = {
        _FIELDS[key]: _lines(value)
        for key, value in given.items()
        if key in _FIELDS and value != ""
    }
    own["served_model_name"] = name
    baked = read_baked_model(shared.get("baked_models"))
    from_image = {} if baked is None else baked.completing(own)
    own |= from_image
    if str(own.get("model", "")).lower().startswith("https://") and "model_sha256" not in own:
        faults.append(f"{where}.sha256: is missing; a model at an https address has to have one")
    try:
        settings = Settings.model_validate({**shared, **own})
        return settings.with_origin("MODELS_FILE", own).with_origin("BAKED_MODELS", from_image)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    keys = {field: key for key, field in _FIELDS.items()}
    bad = dict.fromkeys(str(detail["loc"][0]) for detail in details if detail["loc"])
    for field in bad:
        if field == "served_model_name":
            faults.append(f"{where}: a name has to have at most {LONGEST_NAME} characters")
        elif field in own:
            faults.append(f"{where}.{keys[field]}: has to be {allowed(field)}")
        else:
            faults.append(f"{where}.{keys[field]}: is missing; it has to be {allowed(field)}")
    for detail in details:
        if not detail["loc"]:
            faults += [f"{where}: {line}" for line in detail["msg"].splitlines()]
    return None


def _lines(value: Any) -> Any:
    """Return a list, such as one of adapters, as one text of lines, its form in the environment."""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    return value


def _aliases(where: str, given: Any, faults: list[str]) -> tuple[str, ...]:
    names = [given] if isinstance(given, str) else given
    good = isinstance(names, list) and all(isinstance(each, str) for each in names)
    if not good or not all(0 < len(each) <= LONGEST_NAME and each.isprintable() for each in names):
        faults.append(
            f"{where}.aliases: has to be a list of names of at most {LONGEST_NAME} characters"
        )
        return ()
    return tuple(names)


def _keep_alive(where: str, given: Any, faults: list[str]) -> float | None:
    if given is None or given == "":
        return None
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = None
    if seconds is None or not 0 <= seconds <= _LONGEST_KEEP_ALIVE:
        faults.append(f"{where}.keep_alive: has to be seconds from 0 to {_LONGEST_KEEP_ALIVE:.0f}")
        return None
    return seconds


def _truth(where: str, given: Any, faults: list[str]) -> bool:
    word = given.lower() if isinstance(given, str) else given
    if word not in (None, "", *_TRUE, *_FALSE):
        faults.append(f"{where}: has to be true or false")
    return word in _TRUE


def _duplicate_names(entries: list[CatalogEntry]) -> Iterator[str]:
    owners: dict[str, str] = {}
    for entry in entries:
        for name in entry.names:
            if name in owners:
                yield f"models.{entry.name}: the name {name} is that of models.{owners[name]} too"
            owners.setdefault(name, entry.name)
