"""Reads the settings from the environment.

One error lists all bad values; misspelt names get a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from gguf_worker.config.baked_model import read_baked_model
from gguf_worker.config.catalog_file import PER_MODEL_ONLY, read_catalog
from gguf_worker.config.misnamed_variables import suggestions
from gguf_worker.config.redaction import HIDDEN, redacted
from gguf_worker.config.setting_descriptions import allowed, is_reserved, is_secret
from gguf_worker.config.settings import Settings
from gguf_worker.errors import ConfigError

_LONGEST_SHOWN = 200
"""Characters of a bad value in a message."""


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings from a mapping such as `os.environ`. An empty value counts as not set.

    With MODELS_FILE they are those of the catalog's default model, and hold the catalog. Without it
    and MODEL, they are those of the model in the image, if there is one (BAKED_MODELS). Raises
    ConfigError with a line for every value that is wrong, in the environment or in that file.
    """
    values = _given(environ)
    default = values.get("model")
    from_image: dict[str, str] = {}
    if "models_file" in values:
        values.setdefault("model", "the first")
    else:
        from_image = _of_the_image(values)
        values |= from_image
    names = [field.upper() for field in Settings.model_fields]
    misnamed = {
        name: meant
        for name, meant in suggestions(environ, names).items()
        if environ[name].strip() and meant.lower() not in values
    }
    problems, settings = _validate(values, misnamed)
    if settings is None:
        raise ConfigError("The settings are not usable:\n" + "\n".join(f"  {p}" for p in problems))
    if settings.models_file is not None:
        settings = _default_of_catalog(settings.models_file, default, values)
    settings = settings.with_origin("BAKED_MODELS", from_image)
    return settings.with_warnings(tuple(_warnings(settings, values, misnamed)))


def _warnings(
    settings: Settings, values: Mapping[str, str], misnamed: Mapping[str, str]
) -> Iterator[str]:
    for name, meant in misnamed.items():
        yield f"{name} is not a setting of this worker: did you mean {meant}?"
    for field in values:
        if is_reserved(field) and getattr(settings, field) is not None:
            yield f"{field.upper()} is set, but has no effect in this version."
    for field in PER_MODEL_ONLY:
        if settings.catalog and field in values:
            yield (
                f"{field.upper()} is set, but has no effect beside MODELS_FILE, which says it of "
                "each model."
            )


def _default_of_catalog(path: Path, default: str | None, values: Mapping[str, str]) -> Settings:
    """Return the settings of the catalog's default model, with the catalog."""
    catalog = read_catalog(path, values)
    entry = catalog.entries[0] if default is None else catalog.find(default)
    if entry is None:
        names = ", ".join(each.name for each in catalog.entries)
        raise ConfigError(
            f'MODEL="{_printable(default or "")}" is no name in MODELS_FILE={path}, which has: '
            f"{names}.",
            param="MODEL",
        )
    return entry.settings.with_catalog(path, replace(catalog, default=entry))


def _of_the_image(values: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that the model in the image brings along: those that nobody gave."""
    baked = read_baked_model(values.get("baked_models"))
    if baked is None:
        return {}
    named = {} if "model" in values else {"model": baked.model}
    return named | baked.completing({**values, **named})


def _given(environ: Mapping[str, str]) -> dict[str, str]:
    given = {field: environ.get(field.upper(), "").strip() for field in Settings.model_fields}
    return {field: value for field, value in given.items() if value}


def _validate(
    values: dict[str, str], misnamed: Mapping[str, str]
) -> tuple[tuple[str, ...], Settings | None]:
    try:
        return (), Settings.model_validate(values)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    bad = dict.fromkeys(str(detail["loc"][0]) for detail in details if detail["loc"])
    lines = [_complaint(field, values, misnamed) for field in bad]
    lines += [detail["msg"] for detail in details if not detail["loc"]]
    if bad:
        # Values that are right one by one may still contradict each other: say so at once.
        rest = {field: value for field, value in values.items() if field not in bad}
        lines += _validate({"model": "any", **rest}, misnamed)[0]
    return tuple(line for text in lines for line in text.splitlines()), None


def _complaint(field: str, values: Mapping[str, str], misnamed: Mapping[str, str]) -> str:
    name = field.upper()
    if field in values:
        shown = HIDDEN if is_secret(field) else f'"{_printable(values[field])}"'
        return f"{name}={shown}: must be {allowed(field)}"
    hints = [
        f" ({other} is set: did you mean {name}?)"
        for other, meant in misnamed.items()
        if meant == name
    ]
    return f"{name} is not set: it must be {allowed(field)}{''.join(hints)}"


def _printable(value: str) -> str:
    text = redacted(value).encode("unicode_escape").decode("ascii")
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
