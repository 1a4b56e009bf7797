"""The worker's settings as a command has them: the environment, and what was written behind the command."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_worker.config import Settings, load_settings
from gguf_worker.errors import ConfigError

_FILE = "MODELS_FILE"
_NONE = "none/none"
"""Stands for a model where a command needs none."""


def settings_for(
    environ: Mapping[str, str],
    model: str | None,
    *,
    revision: str | None = None,
    sha256: str | None = None,
) -> Settings:
    """`model` None: the setting's own; one that MODELS_FILE has is as that says, and its settings have the
    catalog. MODEL_REVISION and MODEL_SHA256 are of the setting's own model only.

    Raises ConfigError with a line for every value that is wrong.
    """
    given = {
        name: value
        for name, value in (("MODEL_REVISION", revision), ("MODEL_SHA256", sha256))
        if value is not None
    }
    entry = _entry(environ, model)
    if entry is not None:
        checked = load_settings({"MODEL": entry.model, **given})
        return entry.model_copy(
            update={name.lower(): getattr(checked, name.lower()) for name in given}
        )
    values = {name: value for name, value in environ.items() if name != _FILE}
    if model is not None and model != environ.get("MODEL"):
        values.pop("MODEL_REVISION", None)
        values.pop("MODEL_SHA256", None)
        values["MODEL"] = model
    if not values.get("MODEL", "").strip():
        raise ConfigError("Name a model, or set MODEL.", param="MODEL")
    return load_settings(values | given)


def settings_of(environ: Mapping[str, str]) -> Settings:
    """Those of a command that is about no one model."""
    given = {k: v for k, v in environ.items() if v.strip() and k != _FILE}
    return settings_for({"MODEL": _NONE} | given, None)


def meant(environ: Mapping[str, str], name: str) -> str:
    """The model that MODELS_FILE has under this name, as MODEL would say it; else the name itself."""
    entry = _entry(environ, name)
    return name if entry is None else entry.model


def _entry(environ: Mapping[str, str], model: str | None) -> Settings | None:
    """What MODELS_FILE says of the model, or with None of the default; None where it says nothing."""
    if not environ.get(_FILE, "").strip():
        return None
    if model is None:
        return load_settings(environ)
    others = {name: value for name, value in environ.items() if name != "MODEL"}
    catalog = load_settings(others).catalog
    if catalog is None or catalog.find(model) is None:
        return None
    return load_settings({**others, "MODEL": model})
