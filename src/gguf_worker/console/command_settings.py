"""The worker's settings for a command: the environment's, with the command's own arguments."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_worker.config import Settings, load_settings
from gguf_worker.errors import ConfigError

_FILE = "MODELS_FILE"
_IMAGE = "BAKED_MODELS"
_NO_MODEL = "none/none"
"""A placeholder for MODEL where a command needs none."""


def settings_for(
    environ: Mapping[str, str],
    model: str | None,
    *,
    revision: str | None = None,
    sha256: str | None = None,
) -> Settings:
    """Return the settings for one model. `model`: None for the one of the setting MODEL.

    A model in MODELS_FILE has its settings from that file, and the catalog. MODEL_REVISION and
    MODEL_SHA256 of the environment count only for the environment's own MODEL. Raises ConfigError
    with a line for every value that is wrong.
    """
    given = {
        name: value
        for name, value in (("MODEL_REVISION", revision), ("MODEL_SHA256", sha256))
        if value is not None
    }
    entry = _entry_settings(environ, model)
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
    if not any(values.get(name, "").strip() for name in ("MODEL", _IMAGE)):
        raise ConfigError("Name a model, or set MODEL.", param="MODEL")
    return load_settings(values | given)


def settings_of(environ: Mapping[str, str]) -> Settings:
    """Return the settings for a command that is not about one model."""
    given = {k: v for k, v in environ.items() if v.strip() and k != _FILE}
    return settings_for({"MODEL": _NO_MODEL} | given, None)


def meant(environ: Mapping[str, str], name: str) -> str:
    """Return the model of this name in MODELS_FILE, in the form of MODEL; else the name itself."""
    entry = _entry_settings(environ, name)
    return name if entry is None else entry.model


def _entry_settings(environ: Mapping[str, str], model: str | None) -> Settings | None:
    """Return a model's settings in MODELS_FILE, or None; without `model` those of its default."""
    if not environ.get(_FILE, "").strip():
        return None
    if model is None:
        return load_settings(environ)
    others = {name: value for name, value in environ.items() if name != "MODEL"}
    catalog = load_settings(others).catalog
    if catalog is None or catalog.find(model) is None:
        return None
    return load_settings({**others, "MODEL": model})
