"""From a mapping to settings: every bad value in one message, and a word on names that miss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from gguf_worker.config.catalog import read_catalog
from gguf_worker.config.names import suggestions
from gguf_worker.config.settings import HIDDEN, Settings, cut
from gguf_worker.config.words import allowed, is_reserved, is_secret
from gguf_worker.errors import ConfigError

_SAID_BY_THE_CATALOG = (
    "model_revision",
    "model_sha256",
    "chat_template",
    "lora_adapters",
    "served_model_name",
)


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from a mapping such as `os.environ`; an empty value counts as not set. With MODELS_FILE they
    are those of the catalog's default model, and have the catalog.

    Raises ConfigError with a line for every value that is wrong, in the environment or in that file.
    """
    values = _ours(environ)
    default = values.get("model")
    if "models_file" in values:
        values.setdefault("model", "the first")
    names = [field.upper() for field in Settings.model_fields]
    aims = {
        name: meant
        for name, meant in suggestions(environ, names).items()
        if environ[name].strip() and meant.lower() not in values
    }
    problems, settings = _validate(values, aims)
    if settings is None:
        raise ConfigError("The settings are not usable:\n" + "\n".join(f"  {p}" for p in problems))
    if settings.models_file is not None:
        settings = _of_catalog(settings.models_file, default, values)
    settings._warnings = (
        *(f"{name} is not a setting of this worker: did you mean {aims[name]}?" for name in aims),
        *(
            f"{field.upper()} is set, but has no effect in this version."
            for field in values
            if is_reserved(field) and getattr(settings, field) is not None
        ),
        *(
            f"{field.upper()} is set, but has no effect beside MODELS_FILE, which says it of each model."
            for field in _SAID_BY_THE_CATALOG
            if settings.catalog and field in values
        ),
    )
    return settings


def _of_catalog(path: Path, default: str | None, values: Mapping[str, str]) -> Settings:
    """The settings of the default model, with its catalog."""
    catalog = read_catalog(path, values)
    entry = catalog.entries[0] if default is None else catalog.find(default)
    if entry is None:
        names = ", ".join(each.name for each in catalog.entries)
        raise ConfigError(
            f'MODEL="{_printable(default or "")}" is no name in MODELS_FILE={path}, which has: {names}.',
            param="MODEL",
        )
    settings = entry.settings.model_copy(update={"models_file": path})
    settings._catalog = replace(catalog, default=entry)
    return settings


def _ours(environ: Mapping[str, str]) -> dict[str, str]:
    given = {field: environ.get(field.upper(), "").strip() for field in Settings.model_fields}
    return {field: value for field, value in given.items() if value}


def _validate(
    values: dict[str, str], aims: Mapping[str, str]
) -> tuple[tuple[str, ...], Settings | None]:
    try:
        return (), Settings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    bad = dict.fromkeys(str(detail["loc"][0]) for detail in details if detail["loc"])
    lines = [_complaint(field, values, aims) for field in bad]
    lines += [detail["msg"] for detail in details if not detail["loc"]]
    if bad:
        # Values that are right one by one may still contradict each other: say so at once.
        rest = {field: value for field, value in values.items() if field not in bad}
        lines += _validate({"model": "any", **rest}, aims)[0]
    return tuple(line for text in lines for line in text.splitlines()), None


def _complaint(field: str, values: Mapping[str, str], aims: Mapping[str, str]) -> str:
    name = field.upper()
    if field in values:
        shown = HIDDEN if is_secret(field) else f'"{_printable(values[field])}"'
        return f"{name}={shown}: must be {allowed(field)}"
    hints = [f" ({other} is set: did you mean {name}?)" for other in aims if aims[other] == name]
    return f"{name} is not set: it must be {allowed(field)}{''.join(hints)}"


def _printable(value: str) -> str:
    text = cut(value).encode("unicode_escape").decode("ascii")
    return text if len(text) <= 200 else text[:200] + "..."
