"""What is set to go with a model: a chat template in place of its own.

Where its files come from is the store's business.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gguf_worker.errors import ConfigError
from gguf_worker.models.reference import is_path, is_plain_path
from gguf_worker.models.store import Store, StoredModel
from gguf_worker.models.template import read_template


def with_companions(store: Store, model: StoredModel, *, template: str | None) -> StoredModel:
    """The model as it is served. `template`: a path, or a file of the repository that the model came from.

    Raises StartError as `Store.ensure` does; ConfigError for what cannot be used.
    """
    if template is not None:
        header = model.header
        text = read_template(
            _template_path(store, model, template), bos=header.bos_token, eos=header.eos_token
        )
        model = replace(model, header=replace(header, chat_template=text))
    return model


def _template_path(store: Store, model: StoredModel, given: str) -> Path:
    if is_path(given) or model.repo is None:
        return Path(given).expanduser()
    if not is_plain_path(given):
        raise ConfigError(
            f"CHAT_TEMPLATE={given!r} is neither a path, which begins with / or ./, nor the name of a file of "
            f"{model.repo}.",
            param="CHAT_TEMPLATE",
        )
    return store.beside(model, given)
