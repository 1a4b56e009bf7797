"""The model that an image brings along, by the note that the image's build leaves beside it.

What the note says of the model holds for that model alone. Nothing is known here of how models are
kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gguf_worker.errors import raise_passing

_NOTE = "baked.json"


@dataclass(frozen=True, slots=True)
class BakedModel:
    """A model as MODEL names it, with the revision and the sha256 that its build was given."""

    model: str
    revision: str | None = None
    sha256: str | None = None

    def completing(self, values: Mapping[str, str]) -> dict[str, str]:
        """Return what `values`, fields of the settings with their texts, lack to mean this model.

        Nothing where they name another model, or another version of this one.
        """
        if values.get("model") != self.model or "model_revision" in values:
            return {}
        own = {"model_revision": self.revision, "model_sha256": self.sha256}
        return {field: text for field, text in own.items() if text and field not in values}


def read_baked_model(folder: str | None) -> BakedModel | None:
    """Return the model that the note in BAKED_MODELS names; None without a note that does."""
    if not folder:
        return None
    try:
        note = json.loads(Path(folder, _NOTE).read_bytes())
    except ValueError:
        return None
    except OSError as exc:
        raise_passing(exc)
        return None
    if not isinstance(note, dict):
        return None
    texts = {name: value for name, value in note.items() if isinstance(value, str) and value}
    model = texts.get("MODEL")
    if model is None:
        return None
    return BakedModel(model, texts.get("MODEL_REVISION"), texts.get("MODEL_SHA256"))
