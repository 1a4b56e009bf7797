"""A model's companions from the settings: a chat template in place of its own, LoRA adapters.

The store finds and fetches their files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gguf_worker.chat import check_text, read_template
from gguf_worker.errors import ConfigError, StartError
from gguf_worker.models.gguf import AdapterHeader, check_goes_with, is_gguf
from gguf_worker.models.source import (
    Reference,
    is_path,
    is_plain_path,
    parse_reference,
    without_secrets,
)
from gguf_worker.models.store import Store, StoredModel, StoreEntry

MOST_ADAPTERS = 16

_SETTING = "LORA_ADAPTERS"
_FORMS = (
    "It takes adapters separated by commas or lines, each a path, org/repo/file.gguf or an https "
    "address, and behind it, after blanks, what applies of scale=0.5, revision=main and sha256=..."
)
_OPTIONS = {
    "scale": re.compile(r"-?\d{1,3}(\.\d{1,9})?"),
    "revision": re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/-]{0,199}"),
    "sha256": re.compile(r"[0-9A-Fa-f]{64}"),
}
_SETTINGS_OF_ADAPTERS = {
    "MODEL": _SETTING,
    "MODEL_REVISION": f"revision= in {_SETTING}",
    "MODEL_SHA256": f"sha256= in {_SETTING}",
}
"""The names of a model's settings in the store's messages, with the names for an adapter's."""
_SETTING_OF_THE_MODEL = re.compile(r"(?<![\w/.-])MODEL(?:_REVISION|_SHA256)?(?![\w/-]|\.\w)")
"""The name of a setting in a sentence, not the same letters in a path."""
_ENTRY = re.compile(r"(?:://\S*[^\s,]|[^,\n])+")
"""One entry of the list. A comma in an address belongs to it, unless it is the last character."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter and its scale: 1 applies it as it was trained, 0 not at all."""

    header: AdapterHeader
    scale: float
    entries: tuple[StoreEntry, ...] = ()
    """Its files in the store."""


@dataclass(frozen=True, slots=True)
class WantedAdapter:
    """An adapter as LORA_ADAPTERS names it."""

    reference: Reference
    scale: float = 1.0
    revision: str = "main"
    sha256: str | None = None


def parse_adapters(text: str) -> tuple[WantedAdapter, ...]:
    """Read the value of LORA_ADAPTERS. Raises ConfigError, which says what forms it takes."""
    entries = [entry.split() for entry in _ENTRY.findall(text) if entry.strip()]
    if len(entries) > MOST_ADAPTERS:
        raise _refused(f"there are more than {MOST_ADAPTERS}")
    found = tuple(_wanted(reference, options) for reference, *options in entries)
    if len({each.reference for each in found}) < len(found):
        raise _refused("one of them is named twice")
    return found


def check_companions(model: Reference, template: str | None, adapters: str | None) -> None:
    """Check a model's companions as far as possible before the model is on this machine.

    Raises ConfigError.
    """
    parse_adapters(adapters or "")
    if template is None:
        return
    path = _local_template(template, in_repository=model.in_repository)
    if path is not None:
        check_text(path)


def with_template(store: Store, model: StoredModel, given: str | None) -> StoredModel:
    """Return the model with the template that is set: a path, or a file of its repository.

    Raises StartError as `Store.ensure` does, and ConfigError for a template that cannot be used.
    """
    if given is None:
        return model
    header = model.header
    with _errors_of("CHAT_TEMPLATE", {}):
        path = _template_path(store, model, given)
        text = read_template(path, bos=header.bos_token, eos=header.eos_token)
    return replace(model, header=replace(header, chat_template=text, named_templates={}))


def adapters_for(store: Store, model: StoredModel, given: str | None) -> tuple[Adapter, ...]:
    """Return the adapters that are set, each on this machine and made for the model's architecture.

    Raises StartError as `Store.ensure` does.
    """
    return tuple(_adapters(store, model, parse_adapters(given or "")))


def _adapters(
    store: Store, model: StoredModel, wanted: tuple[WantedAdapter, ...]
) -> Iterator[Adapter]:
    for each in wanted:
        with _errors_of(_SETTING, _SETTINGS_OF_ADAPTERS):
            found = store.ensure_adapter(each.reference, revision=each.revision, sha256=each.sha256)
        check_goes_with(found.header, model.header)
        yield Adapter(found.header, each.scale, found.entries)


@contextmanager
def _errors_of(setting: str, names: Mapping[str, str]) -> Iterator[None]:
    """Raise errors about a model and its settings as errors about a companion.

    `names`: replacements for the names of the model's settings.
    """
    try:
        yield
    except StartError as exc:
        if setting in exc.message:
            raise
        text = _SETTING_OF_THE_MODEL.sub(lambda found: names.get(found[0], found[0]), exc.message)
        raise exc.replaced(message=f"{setting}: {text}", param=setting) from exc


def _wanted(text: str, options: list[str]) -> WantedAdapter:
    try:
        reference = parse_reference(text, setting=_SETTING)
    except ConfigError as exc:
        raise ConfigError(f"{exc.message} {_FORMS}.", param=_SETTING) from exc
    if not reference.names_a_file:
        raise _refused(f"{text!r} names a repository and no file of it")
    given: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in _OPTIONS or name in given or not _OPTIONS[name].fullmatch(value):
            raise _refused(
                f"{without_secrets(option)!r} is not understood behind {str(reference)!r}"
            )
        given[name] = value
    if reference.needs_sha256 and "sha256" not in given:
        raise _refused(f"{str(reference)!r} needs the file's sha256=... behind it")
    return WantedAdapter(
        reference,
        scale=float(given.get("scale", 1.0)),
        revision=given.get("revision", "main"),
        sha256=given.get("sha256"),
    )


def _refused(why: str) -> ConfigError:
    return ConfigError(f"{_SETTING}: {why}. {_FORMS}.", param=_SETTING)


def _local_template(given: str, *, in_repository: bool) -> Path | None:
    """Return the template's path on this machine; None for a file of the model's repository."""
    if is_path(given) or not in_repository:
        try:
            return Path(given).expanduser()
        except RuntimeError as exc:
            raise _no_template(given, "names a home directory that does not exist") from exc
    if is_gguf(given):
        raise _no_template(given, "is the name of a model")
    if not is_plain_path(given):
        raise _no_template(
            given,
            "is neither a path, which begins with / or ./, nor the name of a file of the model's "
            "repository",
        )
    return None


def _no_template(given: str, why: str) -> ConfigError:
    return ConfigError(f"CHAT_TEMPLATE={given!r} {why}.", param="CHAT_TEMPLATE")


def _template_path(store: Store, model: StoredModel, given: str) -> Path:
    local = _local_template(given, in_repository=model.reference.in_repository)
    return store.companion(model, given) if local is None else local
