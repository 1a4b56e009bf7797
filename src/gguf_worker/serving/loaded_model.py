"""One model of this worker: found, sized, in an engine process of its own, and behind a provider.

It does not see requests, and of other models only the memory that they take.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gguf_worker.chat import ChatTemplate, Family, chosen_templates, family_for
from gguf_worker.config import CatalogEntry, Machine, Settings, mapped_bytes, probe
from gguf_worker.engine import EngineClient, EngineInfo, EngineSpec, GpuSupport
from gguf_worker.errors import EngineStartFailed, ModelUnsupported, StartError, as_start_errors
from gguf_worker.events import ModelReady, Observer, PhaseDone
from gguf_worker.models.gguf import Header, with_weights_of
from gguf_worker.models.memory import (
    Fit,
    fit,
    fit_among,
    machine_beside,
    machine_with_less,
)
from gguf_worker.models.source import parse_reference
from gguf_worker.models.store import Check, Progress, ReadAhead, Store, StoredModel, Verification
from gguf_worker.providers import ANY_NAME, Capabilities, ModelCard, Provider
from gguf_worker.providers.local import LocalProvider
from gguf_worker.serving.companions import Adapter, adapters_for, check_companions, with_template
from gguf_worker.serving.gpu_faults import (
    machine_without,
    on_queue,
    sizes_where_free,
    usable_machine,
    visible_devices,
)
from gguf_worker.serving.storage import opened_sources, store_of

log = logging.getLogger("gguf_worker.app")

RETRY_WHILE_LOADING = 5.0
"""Seconds after which a request that came before the models were loaded may be sent again."""

_STEPS_DOWN = 3
"""Tries of a start with half of the KV cache of the one before, where memory was lacking."""


class LoadedModel:
    """The model that `settings` name. After `fetch` and `open` it has a provider and a card.

    Both block, and raise StartError. `on_dead`: called, on another thread, when the engine of a
    model that was opened is lost for good. `on_download` and `on_load` (a fraction) show long work.
    `entry`: the model's entry in a catalog, which then gives its names.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        observe: Observer,
        on_download: Callable[[Progress], None],
        entry: CatalogEntry | None = None,
        on_load: Callable[[float], None] = lambda _: None,
        on_dead: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._entry = entry
        self._observe = observe
        self._on_download = on_download
        self._on_load = on_load
        self._on_dead = on_dead
        self._now = now
        self._store: Store | None = None
        self._stored: StoredModel | None = None
        self._adapters: tuple[Adapter, ...] = ()
        self._engine: EngineClient | None = None
        self._variables: dict[str, str] = {}
        self._provider: Provider | None = None
        self._card: ModelCard | None = None
        self._capabilities: Capabilities | None = None
        self.sequences = 0
        """Requests that are computed at once; known once it is open."""
        self.max_queue = 0
        """Requests that may wait to be computed; known once it is open."""

    @property
    def is_open(self) -> bool:
        return self._provider is not None

    @property
    def provider(self) -> Provider:
        """The provider, once the model is open; likewise `card` and `capabilities`."""
        assert self._provider is not None
        return self._provider

    @property
    def card(self) -> ModelCard:
        assert self._card is not None
        return self._card

    @property
    def capabilities(self) -> Capabilities:
        assert self._capabilities is not None
        return self._capabilities

    @property
    def max_requests(self) -> int:
        """Requests that may run and wait in it at once."""
        return self.sequences + self.max_queue

    @property
    def spare(self) -> int:
        """Jobs to hold beyond those that are computed.

        They are at most as many as may wait: a job that is taken and then refused as overloaded has
        failed.
        """
        return min(max(2, self.sequences // 4), self.max_queue)

    @property
    def pinned(self) -> Settings:
        """The settings with the commit that was found, so that it is not looked up again."""
        assert self._stored is not None
        if not self._stored.reference.in_repository:
            return self._settings
        model, _, commit = self._stored.source.rpartition("@")
        return self._settings.model_copy(update={"model": model, "model_revision": commit})

    def fetch(self) -> None:
        """Fetch the model to this machine; until `close`, other workers see it as in use."""
        # A full check of a file without a given hash is done later, while the engine loads the
        # file.
        with as_start_errors("fetching the model"):
            self._find("stamp" if self._settings.verify == "full" else self._settings.verify)

    def open(self, others: Sequence[LoadedModel] | None = None) -> bool:
        """Start an engine for the fetched model, and wait until it answers.

        `others`: the models in memory, if this one shares the machine with others; None: it does
        not. Returns False if there is no memory beside them. May be called again, also after an
        error.
        """
        with as_start_errors("opening the model"):
            return self._open(others)

    def _open(self, others: Sequence[LoadedModel] | None) -> bool:
        assert self._stored is not None
        machine = probe(self._environ)
        for each in machine.unreadable:
            log.warning("%s cannot be read: the model is sized without it", each)
        machine = usable_machine(self._settings, machine, self._environ)
        self._variables = visible_devices(machine)
        if others is not None:
            mapped = [file for other in others for file in other.mapped()]
            machine = machine_beside(machine, self._stored.path, mapped)
        try:
            return self._open_on(machine, others)
        except _GpuUnusable as error:
            machine = machine_without(self._settings, machine, self._environ, error.support)
        return self._open_on(machine, others)

    def _open_on(self, machine: Machine, others: Sequence[LoadedModel] | None) -> bool:
        """Size the model for a machine, and start its engine; False if it should not be there."""
        sizes = self._sizes(machine, others)
        if sizes is None:
            return False
        window = machine.memory_available // 2
        for _ in range(0 if others else _STEPS_DOWN):  # beside other models, one of these makes way
            try:
                self._start_sound(sizes, window)
            except EngineStartFailed as error:
                smaller = self._smaller(sizes, machine) if error.lacking else None
                if smaller is None:
                    raise
                log.warning("%s: trying again with a smaller KV cache", error.message)
                sizes = smaller
            else:
                return True
        self._start_sound(sizes, window)
        return True

    def _start_sound(self, sizes: Fit, window: int) -> None:
        """Start the engine; a file that turns out to be damaged meanwhile is fetched again,
        once."""
        if not self._start(sizes, window, verify=self._settings.verify == "full"):
            self._find("full")
            self._start(sizes, window, verify=False, sound=True)

    def _find(self, check: Check) -> None:
        began = self._now()
        settings = self._settings
        self._release()
        reference = parse_reference(settings.model)
        check_companions(reference, settings.chat_template, settings.lora_adapters)
        with opened_sources(settings) as sources:
            store = self._store = store_of(
                settings, self._environ, sources, self._on_download, check
            )
            stored = store.ensure(
                reference, revision=settings.model_revision, sha256=settings.model_sha256
            )
            self._stored = with_template(store, stored, settings.chat_template)
            self._adapters = adapters_for(store, self._stored, settings.lora_adapters)
        self._observe(PhaseDone("resolve", self._now() - began))

    def _start(self, sizes: Fit, window: int, *, verify: bool, sound: bool = False) -> bool:
        """Start the engine. Returns False if a stored file is not as it was published.

        `verify`: read the files byte by byte while the engine loads them; `sound`: that was done
        before. `window`: bytes by which the read-ahead may be ahead of the engine.
        """
        assert self._stored is not None
        began, stored = self._now(), self._stored
        log.info("sizes: %s", sizes.explain())
        ahead = ReadAhead(stored.files, window=window)
        engine = self._engine = self._new_engine(stored.path, sizes, ahead)
        entries = (*stored.entries, *(entry for each in self._adapters for entry in each.entries))
        check = Verification(entries if verify else (), on_fault=engine.close, now=self._now)
        try:
            info = engine.start()
        except StartError as error:
            engine.close()
            if engine.gpu_fault is not None:
                check.stop()
                raise _GpuUnusable(engine.gpu_fault) from error
            if not self._may_be_damage(error):
                check.stop()
                raise
            if error.permanent and not (verify or sound):  # these bytes may be damaged
                check = Verification(entries, on_fault=engine.close, now=self._now)
            if check.fault() is None:
                raise
        finally:
            ahead.close()
        if (fault := check.fault()) is not None:
            log.warning("the engine was ended, because %s", fault)
            return False
        if verify and entries:
            self._observe(PhaseDone("verify", check.seconds))
        self._note_open(engine, info, stored, sizes)
        if engine.dead is not None:  # it may have been lost before anybody would have been told
            raise EngineStartFailed(engine.dead)
        self._announce(info, self._now() - began)
        return True

    def _new_engine(self, path: Path, sizes: Fit, ahead: ReadAhead) -> EngineClient:
        def loading(fraction: float) -> None:
            ahead.reached(fraction)
            self._on_load(fraction)

        return EngineClient(
            engine_spec(self._settings, path, sizes, self._adapters),
            observe=self._observe,
            name="" if self._entry is None else self._entry.name,
            silence=self._settings.engine_timeout,
            progress=loading,
            on_dead=self._engine_dead,
            now=self._now,
            variables=self._variables,
        )

    def _note_open(
        self, engine: EngineClient, info: EngineInfo, stored: StoredModel, sizes: Fit
    ) -> None:
        self.sequences, self.max_queue = info.sequences, sizes.max_queue.value
        self._capabilities = Capabilities(
            info.generates, info.pooling, self.max_requests, infill=bool(info.infill)
        )
        self._card = _card(self._settings, self._entry, stored, info, self._capabilities)
        self._provider = self._local_provider(engine, info, stored)

    def _may_be_damage(self, error: StartError) -> bool:
        """Tell whether a damaged file can be the reason why the engine did not start."""
        if isinstance(error, ModelUnsupported):
            return bool(self._adapters)  # llama.cpp compares adapters with the model's shapes
        return not (isinstance(error, EngineStartFailed) and error.lacking)

    def _sizes(self, machine: Machine, others: Sequence[LoadedModel] | None) -> Fit | None:
        header = self._header()
        settings, offload = self._settings, bool(machine.gpus)

        def sizes(machine: Machine) -> Fit | None:
            if others is None:
                return fit(settings, machine, header, gpu_offload=offload)
            return fit_among(settings, machine, header, gpu_offload=offload, alone=not others)

        if others or settings.gpu_layers == 0:
            return sizes(machine)
        return sizes_where_free(sizes, machine, queue=on_queue(settings, self._environ))

    def _smaller(self, sizes: Fit, machine: Machine) -> Fit | None:
        """Return sizes with a smaller KV cache, for which `sizes` left too little memory; None if
        none are to be had."""
        less = machine_with_less(machine, sizes)
        try:
            found = fit(self._settings, less, self._header(), gpu_offload=bool(less.gpus))
        except EngineStartFailed:
            return None
        return found if found.kv_bytes < sizes.kv_bytes else None

    def _header(self) -> Header:
        """Return the model's header, with the weights of its adapters."""
        assert self._stored is not None
        return with_weights_of(self._stored.header, [each.header for each in self._adapters])

    def mapped(self) -> Sequence[tuple[Path, int]]:
        """Return its file with the number of its bytes in memory, if there is an engine.

        These bytes are page cache, and count as free memory.
        """
        if self._stored is None or self._engine is None or self._engine.pid is None:
            return []
        return [(self._stored.path, mapped_bytes(self._engine.pid))]

    @property
    def dead(self) -> str | None:
        """The reason why the engine was lost for good; None while there is or will be one."""
        return None if self._engine is None else self._engine.dead

    def close(self) -> None:
        """End the engine, and release the stored model. Safe at any time."""
        if self._engine is not None:
            self._engine.close()
        self._release()

    def _release(self) -> None:
        """Remove the mark that the stored model is in use."""
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _local_provider(
        self, engine: EngineClient, info: EngineInfo, stored: StoredModel
    ) -> LocalProvider:
        header = stored.header
        texts = chosen_templates(header.chat_template, header.named_templates)
        template, for_tools = (
            ChatTemplate(text, header.bos_token, header.eos_token)
            for text in (texts.usual, texts.for_tools)
        )
        for each in (template, for_tools):
            each.prepare()
        return LocalProvider(
            engine,
            template,
            tool_template=for_tools if for_tools.can_chat else None,
            family=_family(header),
            special=dict(info.special),
            infill=info.infill,
            reuse_points=not info.rollback,
            capabilities=self.capabilities,
        )

    def _announce(self, info: EngineInfo, seconds: float) -> None:
        assert self._stored is not None
        process = seconds - info.load_seconds - info.warmup_seconds
        self._observe(PhaseDone("engine", process))
        self._observe(PhaseDone("load", info.load_seconds))
        self._observe(PhaseDone("warmup", info.warmup_seconds))
        ready = ModelReady(
            name=self.card.name,
            path=str(self._stored.path),
            seconds=seconds,
            context=info.context,
            sequences=info.sequences,
            kv_cells=info.kv_cells,
            pooling=info.pooling,
        )
        self._observe(ready)

    def _engine_dead(self, reason: str) -> None:
        if self.is_open:  # else `open` raises
            self._on_dead(reason)


class _GpuUnusable(Exception):
    """The engine found no GPU that it can use, for a model that was to be on one."""

    def __init__(self, support: GpuSupport) -> None:
        super().__init__(support.reason)
        self.support = support


MakeModel = Callable[[Settings, CatalogEntry | None, Observer, Callable[[str], None]], LoadedModel]
"""A function that makes a model from its settings and its entry in a catalog.

The model reports to the observer, and calls the last argument when its engine is lost for good.
"""


def engine_spec(
    settings: Settings, path: Path, sizes: Fit, adapters: Sequence[Adapter] = ()
) -> EngineSpec:
    """Return the specification that the engine is started with."""
    return EngineSpec(
        path=str(path),
        context=sizes.context.value,
        sequences=sizes.sequences.value,
        kv_cells=sizes.kv_cells.value,
        gpu_layers=sizes.gpu_layers.value,
        kv_type=sizes.kv_type.value,
        flash_attention=sizes.flash_attention.value,
        threads=sizes.threads.value,
        batch_size=sizes.batch_size.value,
        ubatch_size=sizes.ubatch_size.value,
        max_queue=sizes.max_queue.value,
        idle_sequences=sizes.idle_sequences.value,
        unified=sizes.kv_layout.value == "unified",
        prefill_chunk=sizes.prefill_chunk.value,
        mixing=sizes.step_mixing.value,
        stream_interval=settings.stream_interval,
        pooling=sizes.purpose.pooling,
        generates=sizes.purpose.generates,
        causal=sizes.purpose.causal,
        adapters=tuple((str(each.header.path), each.scale) for each in adapters),
    )


def _card(
    settings: Settings,
    entry: CatalogEntry | None,
    stored: StoredModel,
    info: EngineInfo,
    capabilities: Capabilities,
) -> ModelCard:
    header = stored.header
    names = _names(settings, stored) if entry is None else entry.names
    served = settings.served_names if entry is None else ()
    return ModelCard(
        name=names[0],
        aliases=names[1:],
        created=int(stored.path.stat().st_mtime),
        context=info.context,
        parameters=info.parameters,
        quantisation=header.quantization,
        architecture=header.architecture,
        bytes=info.model_bytes,
        capabilities=capabilities,
        thinks=_family(header).thinks,
        listed=tuple(name for name in served if name != ANY_NAME),
    )


def _family(header: Header) -> Family:
    texts = chosen_templates(header.chat_template, header.named_templates)
    return family_for(texts.all, header.architecture)


def _names(settings: Settings, stored: StoredModel) -> tuple[str, ...]:
    """Return the served names, then the aliases: MODEL as written, and the file's own name.

    The first is a name, whatever else the model answers to.
    """
    stem, written = stored.path.stem, settings.model
    if stored.reference.hides_secrets:
        written = str(stored.reference)
    by_default = stem if written.endswith(stored.path.name) else written
    served = settings.served_names
    own = [name for name in served if name != ANY_NAME] or [by_default]
    return tuple(dict.fromkeys((*own, *served, written, stem)))
