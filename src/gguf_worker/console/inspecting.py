"""The command `models inspect`: describes a model, and its sizes on this machine."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from gguf_worker.chat import ChatTemplate, chosen_templates, family_for
from gguf_worker.config import Machine, Settings, probe
from gguf_worker.console.command_settings import settings_for
from gguf_worker.console.formatting import count, plain, several, size, table
from gguf_worker.console.terminal import Terminal
from gguf_worker.errors import ModelUnsupported
from gguf_worker.models.gguf import purpose_of
from gguf_worker.models.memory import Fit, fit_alone
from gguf_worker.models.source import parse_reference
from gguf_worker.models.store import Inspection
from gguf_worker.serving import can_offload, opened_store

_WHERE = {
    "file": "a file of this machine",
    "image": "in the image",
    "volume": "on the volume",
    "cache": "in a cache of this machine",
    "hub": "on the Hub, not on this machine",
}
_ELSEWHERE = "on its server, not on this machine"


@dataclass(frozen=True, slots=True)
class _ModelUse:
    """The use that the worker would make of a model."""

    purpose: str
    pooling: str | None
    chat_template: bool
    template_tools: bool
    """The template itself lists the tools; else the worker adds them."""
    family: str | None
    """The family by which tool calls and thoughts are written."""


def inspect(arguments: argparse.Namespace, environ: Mapping[str, str], terminal: Terminal) -> int:
    settings = settings_for(environ, arguments.model, revision=arguments.revision)
    with opened_store(settings, environ, lambda progress: None) as store:
        found = store.inspect(
            parse_reference(settings.model),
            revision=settings.model_revision,
            sha256=settings.model_sha256,
        )
    use = _use(found)
    sizes = _sizes(settings, found, environ) if arguments.fit else None
    terminal.result(_facts(found, use, sizes), _text(found, use, sizes))
    return 0


def _sizes(
    settings: Settings, found: Inspection, environ: Mapping[str, str]
) -> tuple[Machine, Fit]:
    machine = probe(environ)
    return machine, fit_alone(settings, machine, found.header, gpu_offload=can_offload(machine))


def _use(found: Inspection) -> _ModelUse:
    header = found.header
    texts = chosen_templates(header.chat_template, header.named_templates)
    template = ChatTemplate(texts.usual, header.bos_token, header.eos_token)
    for_tools = ChatTemplate(texts.for_tools, header.bos_token, header.eos_token)
    uses_tools = template.uses_tools or for_tools.uses_tools
    try:
        purpose = purpose_of(header, None)
    except ModelUnsupported as error:
        return _ModelUse(error.message, None, template.can_chat, uses_tools, None)
    what = ["text"] if purpose.generates else []
    if purpose.embeds:
        what.append("scores of documents" if purpose.pooling == "rank" else "embeddings")
    family = family_for(texts.all, header.architecture).name
    return _ModelUse(
        purpose=" and ".join(what),
        pooling=purpose.pooling if purpose.embeds else None,
        chat_template=template.can_chat,
        template_tools=uses_tools,
        family=family if purpose.generates and template.can_chat else None,
    )


def _facts(
    found: Inspection, use: _ModelUse, sizes: tuple[Machine, Fit] | None
) -> dict[str, object]:
    header = dataclasses.asdict(found.header)
    facts: dict[str, object] = {
        "source": found.source,
        "where": found.where,
        "fetched_bytes": found.fetched_bytes,
        "files": [dataclasses.asdict(each) for each in found.files],
        "use": dataclasses.asdict(use),
        "tensors": [dataclasses.asdict(each) for each in found.tensors],
        "header": header | {"path": str(header["path"])},
    }
    if sizes is not None:
        machine, given = sizes
        facts["machine"] = dataclasses.asdict(machine)
        facts["fit"] = dataclasses.asdict(given)
    return facts


def _text(found: Inspection, use: _ModelUse, sizes: tuple[Machine, Fit] | None) -> str:
    rows = [*_rows(found, use)]
    if sizes is not None:
        rows += [("this machine", sizes[0].explain()), ("would give it", sizes[1].explain())]
    lines = [f"{name:<16} {plain(value)}" for name, value in rows]
    shares = [
        (each.type, str(each.count), count(each.elements), size(each.bytes))
        for each in found.tensors
    ]
    lines += ["", table(("TENSORS", "NUMBER", "ELEMENTS", "SIZE"), shares)]
    if len(found.files) > 1:
        files = [(plain(each.name), size(each.bytes)) for each in found.files]
        lines += ["", table(("FILE", "SIZE"), files)]
    return "\n".join(lines)


def _rows(found: Inspection, use: _ModelUse) -> list[tuple[str, str]]:
    header = found.header
    where = _WHERE.get(found.where, _ELSEWHERE)
    if found.fetched_bytes:
        where += f" ({size(found.fetched_bytes)} of {size(header.file_bytes)} were read)"
    heads, shared = max(header.head_count, default=0), max(header.head_count_kv, default=0)
    template = "none"
    if use.chat_template:
        tools = "with tools" if use.template_tools else "without tools (the worker adds them)"
        template = f"yes, {tools}; calls are read as of the family {use.family}"
    experts = f", {several(header.expert_count, 'expert')}" if header.expert_count else ""
    return [
        ("model", found.source),
        ("where", where),
        ("name", header.name or "-"),
        ("architecture", f"{header.architecture}{experts}"),
        ("made for", use.purpose + (f" (pooling: {use.pooling})" if use.pooling else "")),
        ("parameters", f"{count(header.parameters)} ({header.parameters:,})"),
        ("quantisation", header.quantization),
        ("size", f"{size(header.file_bytes)} in {several(len(found.files), 'file')}"),
        ("context", f"{header.context_length:,} tokens"),
        ("layers", f"{header.block_count}, {header.embedding_length:,} wide"),
        ("heads", f"{heads}, {shared} of keys and values"),
        ("vocabulary", f"{header.vocabulary:,} ({header.tokenizer})"),
        ("chat template", template),
    ]
