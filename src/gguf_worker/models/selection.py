"""Which file of a repository a reference means.

Pure text work: neither the Hub nor a disk is known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from gguf_worker.errors import ConfigError, ModelUnavailable, ModelUnsupported
from gguf_worker.models.reference import HubFile, HubQuant, is_plain_path

DEFAULT_QUANT = "Q4_K_M"

_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4\w*|NVFP4))$", re.IGNORECASE
)


def choose(reference: HubQuant | HubFile, revision: str, names: Sequence[str]) -> str:
    """The one file that is meant, out of all files of a repository at `revision`.

    Raises ModelUnavailable when there is no such file, ConfigError when several fit, ModelUnsupported for
    a split model.
    """
    files = sorted(name for name in names if is_plain_path(name) and _is_model(name))
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
        fitting = _of_quant(files, DEFAULT_QUANT) or files
    if not fitting:
        raise ModelUnavailable(
            f"the repository {reference.repo} has no {reference.quant}. It has {', '.join(_labels(files))}."
        )
    whole = [name for name in fitting if not _SPLIT.search(name)]
    if not whole:
        raise _is_split(f"{reference.repo} has {fitting[0]}", files)
    if len(whole) > 1:
        raise _ambiguous(reference, whole)
    return whole[0]


def _named(reference: HubFile, revision: str, files: Sequence[str]) -> str:
    if reference.file not in files:
        near = difflib.get_close_matches(reference.file, files, n=3, cutoff=0.5) or files[:10]
        there = f"There is {', '.join(near)}." if near else "It has no GGUF model at all."
        raise ModelUnavailable(
            f"the repository {reference.repo} has no file {reference.file} at {revision!r}. {there}"
        )
    if _SPLIT.search(reference.file):
        raise _is_split(f"{reference.repo}/{reference.file}", files)
    return reference.file


def _is_model(name: str) -> bool:
    lower = name.lower()
    return lower.endswith(".gguf") and "mmproj" not in lower and "imatrix" not in lower


def _label(name: str) -> str | None:
    """The quantisation that a file's name ends in, or its folder's."""
    stem = _SPLIT.sub("", name).removesuffix(".gguf").removesuffix(".GGUF")
    for part in reversed(stem.split("/")):
        if found := _LABEL.search(part):
            return found.group(1)
    return None


def _of_quant(files: Sequence[str], quant: str) -> list[str]:
    """The files of a quantisation; those named by more than that label only where no other is."""
    wanted = quant.upper()
    labels = {name: (_label(name) or "").upper() for name in files}
    exact = [name for name, label in labels.items() if label == wanted]
    if exact:
        return exact
    ending = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}(?:/[^/]*)?\.GGUF$")
    return [name for name in files if ending.search(_SPLIT.sub(".gguf", name).upper())]


def _labels(files: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(_label(name) or name for name in files))


def _is_split(what: str, files: Sequence[str]) -> ModelUnsupported:
    whole = [name for name in files if not _SPLIT.search(name)]
    there = (
        f"In one file there is {', '.join(_labels(whole))}."
        if whole
        else "All of its models are split."
    )
    return ModelUnsupported(
        f"{what}, split into parts; this version takes a model in one file. {there}"
    )


def _ambiguous(reference: HubQuant, files: Sequence[str]) -> ConfigError:
    if reference.quant is None:
        advice = (
            f"Write one of {', '.join(f'{reference.repo}:{label}' for label in _labels(files))}"
        )
    else:
        advice = f"Write one of {', '.join(f'{reference.repo}/{name}' for name in files)}"
    return ConfigError(f"MODEL={reference} fits {len(files)} files. {advice}.", param="MODEL")
