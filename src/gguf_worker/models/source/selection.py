"""The choice of a repository's file, by its name or by the quantisation that its name ends in.

Pure text work: neither the Hub nor a disk is known here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from gguf_worker.errors import ConfigError, ModelUnavailable, ModelUnsupported
from gguf_worker.models.gguf import parts_of, stem_of
from gguf_worker.models.source.reference import is_plain_path

DEFAULT_QUANT = "Q4_K_M"
_IS_PROJECTOR = (
    "is a projector (mmproj), which shows pictures or sounds to a language model, and none itself; "
    "this worker reads text only"
)
_PROJECTOR = "mmproj"
_DRAFT = re.compile(r"(?:^|/)(?:mtp|eagle3|dflash|dspark)(?:-[^/]*$|/)", re.IGNORECASE)
"""A draft head beside the model that it speeds up: mtp-…, or in a folder such as MTP."""

_LABEL = re.compile(
    r"(?:^|[-._/])((?:UD-|i1-)?(?:I?Q\d\w*|TQ\d_\d|BF16|FP?16|FP?32|MXFP4\w*|NVFP4))$",
    re.IGNORECASE,
)


def choose_quant(repo: str, quant: str | None, revision: str, names: Sequence[str]) -> str:
    """Return the one model of a quantisation among `names`, all files of `repo` at `revision`.

    `quant` None: the default one, or without that the only model. A model in one file is preferred
    to the same one split; for a split one the first part is returned. Raises ModelUnavailable when
    there is no such file or a part is missing, ConfigError when several fit. Projectors and draft
    heads, which accompany models, are left out.
    """
    files = _models(names)
    if not files:
        raise ModelUnavailable(
            f"the repository {repo} has no GGUF model at {revision!r}. Look for one whose "
            "name ends in -GGUF."
        )
    fitting = _of_quant(files, quant or DEFAULT_QUANT)
    if not fitting and quant is None:
        fitting = files
    if not fitting:
        raise ModelUnavailable(
            f"the repository {repo} has no {quant}. It has {', '.join(_labels(files))}."
        )
    models = list(dict.fromkeys(parts_of(name)[0] for name in fitting))
    whole = [name for name in models if len(parts_of(name)) == 1]
    if len(whole or models) > 1:
        raise _ambiguous(repo, quant, whole or models)
    return _with_all_parts(repo, (whole or models)[0], revision, files)


def choose_named(repo: str, file: str, revision: str, names: Sequence[str]) -> str:
    """Return the model's file of that name among `names`, all files of `repo` at `revision`.

    For a split model it is the first part. A file with a draft head's name may be a model: its
    header tells. Raises ModelUnavailable when there is no such model or a part is missing,
    ModelUnsupported for a projector.
    """
    files = _models(names)
    if _PROJECTOR in file.lower():
        advice = f"Name the model: {', '.join(files[:10])}." if files else ""
        raise ModelUnsupported(f"{repo}/{file} {_IS_PROJECTOR}. {advice}".strip())
    named = sorted(name for name in names if _may_be_model(name))
    if file not in named:
        near = difflib.get_close_matches(file, files, n=3, cutoff=0.5) or files[:10]
        there = f"There is {', '.join(near)}." if near else "It has no GGUF model at all."
        raise ModelUnavailable(f"the repository {repo} has no file {file} at {revision!r}. {there}")
    return _with_all_parts(repo, file, revision, named)


def label_of(name: str) -> str | None:
    """Return the quantisation that the name of a file, or else of its folder, ends in."""
    for part in reversed(stem_of(name).split("/")):
        if found := _LABEL.search(part):
            return found.group(1)
    return None


def _models(names: Sequence[str]) -> list[str]:
    """Return the names of models, sorted: of all that may be one, those that are no draft's."""
    return sorted(name for name in names if _may_be_model(name) and not _DRAFT.search(name))


def _may_be_model(name: str) -> bool:
    lower = name.lower()
    other = _PROJECTOR in lower or "imatrix" in lower
    return is_plain_path(name) and lower.endswith(".gguf") and not other


def _with_all_parts(repo: str, file: str, revision: str, files: Sequence[str]) -> str:
    """Return the first part of `file`'s model. Raises ModelUnavailable when a part is missing."""
    parts = parts_of(file)
    missing = [part for part in parts if part not in files]
    if missing:
        raise ModelUnavailable(
            f"{repo}/{file} is a part of a split model, and {missing[0]} is not at {revision!r}."
        )
    return parts[0]


def _of_quant(files: Sequence[str], quant: str) -> list[str]:
    """Return the files of a quantisation.

    If no file's label equals it, they are those whose name or folder ends in it.
    """
    wanted = quant.upper()
    labels = {name: (label_of(name) or "").upper() for name in files}
    exact = [name for name, label in labels.items() if label == wanted]
    if exact:
        return exact
    ending = re.compile(rf"(?:^|[-._/]){re.escape(wanted)}(?:/[^/]*)?$")
    return [name for name in files if ending.search(stem_of(name).upper())]


def _labels(files: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(label_of(name) or name for name in files))


def _ambiguous(repo: str, quant: str | None, files: Sequence[str]) -> ConfigError:
    if quant is None:
        written, choices = repo, [f"{repo}:{label}" for label in _labels(files)]
    else:
        written, choices = f"{repo}:{quant}", [f"{repo}/{name}" for name in files]
    return ConfigError(
        f"MODEL={written} fits {len(files)} files. Write one of {', '.join(choices)}.",
        param="MODEL",
    )
