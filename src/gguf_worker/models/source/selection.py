"""Which file of a repository a reference means.

Pure text work: neither the Hub nor a disk is known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from gguf_worker.errors import ConfigError, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf import parts_of, stem_of
from gguf_worker.models.source.reference import HubFile, HubQuant, is_plain_path

DEFAULT_QUANT = "Q4_K_M"
_IS_PROJECTOR = (
    "is a projector (mmproj), which shows pictures or sounds to a language model, and none itself; this "
    "worker reads text only"
)
_PROJECTOR = "mmproj"

_LABEL = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4\w*|NVFP4))$", re.IGNORECASE
)


def choose(reference: HubQuant | HubFile, revision: str, names: Sequence[str]) -> str:
    """The one file that is meant, of all files of a repository at `revision`; of a split model the first part.

    Raises ModelUnavailable when there is no such file, or a part is missing, ConfigError when several fit.
    """
    files = sorted(name for name in names if is_plain_path(name) and _is_model(name))
    file = _fitting(reference, revision, files)
    missing = [part for part in parts_of(file) if part not in files]
    if missing:
        raise ModelUnavailable(
            f"{reference.repo}/{file} is a part of a split model, and {missing[0]} is not at {revision!r}."
        )
    return parts_of(file)[0]


def _fitting(reference: HubQuant | HubFile, revision: str, files: Sequence[str]) -> str:
    if isinstance(reference, HubFile):
        return _named(reference, revision, files)
    if not files:
        raise ModelUnavailable(
            f"the repository {reference.repo} has no GGUF model at {revision!r}. Look for one whose "
            "name ends in -GGUF."
        )
    if reference.quant is not None:
        fitting = _of_quant(files, reference.quant)
    else:
        fitting = _of_quant(files, DEFAULT_QUANT) or list(files)
    if not fitting:
        raise ModelUnavailable(
            f"the repository {reference.repo} has no {reference.quant}. It has {', '.join(_labels(files))}."
        )
    models = list(dict.fromkeys(parts_of(name)[0] for name in fitting))
    whole = [name for name in models if len(parts_of(name)) == 1]
    if len(whole or models) > 1:
        raise _ambiguous(reference, whole or models)
    return (whole or models)[0]


def _named(reference: HubFile, revision: str, files: Sequence[str]) -> str:
    if _PROJECTOR in reference.file.lower():
        advice = f"Name the model: {', '.join(files[:10])}." if files else ""
        raise ModelUnsupported(f"{reference} {_IS_PROJECTOR}. {advice}".strip())
    if reference.file not in files:
        near = difflib.get_close_matches(reference.file, files, n=3, cutoff=0.5) or files[:10]
        there = f"There is {', '.join(near)}." if near else "It has no GGUF model at all."
        raise ModelUnavailable(
            f"the repository {reference.repo} has no file {reference.file} at {revision!r}. {there}"
        )
    return reference.file


def _is_model(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(".gguf") and _PROJECTOR not in lower and "imatrix" not in lower


def label_of(name: str) -> str | None:
    """The quantisation that a file's name ends in, or its folder's."""
    for part in reversed(stem_of(name).split("/")):
        if found := _LABEL.search(part):
            return found.group(1)
    return None


def _of_quant(files: Sequence[str], quant: str) -> list[str]:
    """The files of a quantisation; those named by more than that label only where no other is."""
    wanted = quant.upper()
    labels = {name: (label_of(name) or "").upper() for name in files}
    exact = [name for name, label in labels.items() if label == wanted]
    if exact:
        return exact
    ending = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}(?:/[^/]*)?$")
    return [name for name in files if ending.search(stem_of(name).upper())]


def _labels(files: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(label_of(name) or name for name in files))


def _ambiguous(reference: HubQuant, files: Sequence[str]) -> ConfigError:
    if reference.quant is None:
        advice = (
            f"Write one of {', '.join(f'{reference.repo}:{label}' for label in _labels(files))}"
        )
    else:
        advice = f"Write one of {', '.join(f'{reference.repo}/{name}' for name in files)}"
    return ConfigError(f"MODEL={reference} fits {len(files)} files. {advice}.", param="MODEL")
