"""The worker's settings as a command has them: the environment, and what was written behind the command."""

from __future__ import annotations

from collections.abc import Mapping

from gguf_worker.config import Settings, load_settings
from gguf_worker.errors import ConfigError

_NONE = "none/none"
"""Stands for a model where a command needs none."""


def settings_for(
    environ: Mapping[str, str],
    model: str | None,
    *,
    revision: str | None = None,
    sha256: str | None = None,
) -> Settings:
    """`model` None: the setting's own. MODEL_REVISION and MODEL_SHA256 are of the setting's own model only.

    Raises ConfigError with a line for every value that is wrong.
    """
    values = dict(environ)
    if model is not None and model != environ.get("MODEL"):
        values.pop("MODEL_REVISION", None)
        values.pop("MODEL_SHA256", None)
        values["MODEL"] = model
    if not values.get("MODEL", "").strip():
        raise ConfigError("Name a model, or set MODEL.", param="MODEL")
    given = {"MODEL_REVISION": revision, "MODEL_SHA256": sha256}
    values.update({name: value for name, value in given.items() if value is not None})
    return load_settings(values)


def settings_of(environ: Mapping[str, str]) -> Settings:
    """Those of a command that is about no one model."""
    return settings_for({"MODEL": _NONE} | {k: v for k, v in environ.items() if v.strip()}, None)
