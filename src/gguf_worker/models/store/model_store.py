"""Models on a volume: each is whole, checked, and published in one step, or not there at all.

    <root>/models/<org>/<repo>/<commit>/<file>          a published model
                                       /<file>.json     its manifest: size, sha256, origin
                                       /<file>.part     a download under way, and
                                       /<file>.part.json  its file, and what is there of it
                                       /<file>.lock.<n> the process that fetches it, or did last
                                       /<file>.bad      found damaged after it was published
                                       /<file>.gone     being removed
                                       /<file>.use.<process>  a process that uses it, or did last
                                       /.beside/<file>  companions of its models: a chat template
                              /resolved.json            the file that each reference last meant
    <root>/models/+url/sha256/<sha256>/<file>           a model that came from an https address

An image may bring models along, in a folder of the same layout. What is there is only read: it is
not marked as used, nothing is fetched to it, and no room is made there.

Servers are reached only through `source`, and a file is read as a model by `gguf`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from gguf_worker.errors import (
    ConfigError,
    DownloadFailed,
    ModelCorrupt,
    ModelUnavailable,
    as_start_errors,
)
from gguf_worker.models.gguf import AdapterHeader, Header, parts_of, read_adapter, read_header
from gguf_worker.models.source import (
    AnySource,
    CachedModels,
    Reference,
    RemoteFile,
    is_commit,
    is_repository,
)
from gguf_worker.models.store.download import Downloads
from gguf_worker.models.store.entry import (
    COMPANIONS,
    Check,
    StoreEntry,
    compare_hash,
    hash_of,
    writing,
)
from gguf_worker.models.store.eviction import Eviction
from gguf_worker.models.store.inspection import (
    Inspection,
    check_served,
    inspect_file,
    inspect_remote,
)
from gguf_worker.models.store.inventory import Inventory
from gguf_worker.models.store.notes import recall, remember
from gguf_worker.models.store.part_file import Progress
from gguf_worker.models.store.part_plan import PieceSizes
from gguf_worker.models.store.usage_marks import UsageMark

log = logging.getLogger("gguf_worker.models")

_MOST_COMPANION_BYTES = 1 << 24
_MOST_SHOWN = 10
"""Most models that a message names."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A file ready to be opened. `sha256` is None for a local file for which none was given."""

    path: Path
    header: T
    sha256: str | None
    source: str
    """The path that it came from, or repository, file and commit, or address."""
    fetched: bool
    """Tells whether it was downloaded just now."""
    reference: Reference
    """The reference that was asked for."""
    commit: str | None = None
    """The commit, or other hash, that it is stored or cached by; None for a local file."""
    entries: tuple[StoreEntry, ...] = ()
    """The entries of the file and its other parts that are published in this store.

    Empty if every byte was checked just now.
    """

    @property
    def files(self) -> list[Path]:
        """The file and its other parts."""
        return [self.path.with_name(name) for name in parts_of(self.path.name)]


StoredModel = Stored[Header]


@dataclass(frozen=True, slots=True)
class _WantedFile(Generic[T]):
    """A file that is asked for, and how its header is read.

    `sha256`: the one that it must have, in lower case. If `read` raises ModelCorrupt, the stored
    file is fetched again.
    """

    reference: Reference
    revision: str
    sha256: str | None
    read: Callable[[Path], T]


class Store:
    """The models of one volume. Several processes may share it: each model is downloaded once.

    `sources`: by the names that references have as their `source`; they outlive the store. A model
    that one of the `caches` holds is used where it lies, and before all a model below `baked`, the
    root of the image's own store: no server is asked, and a branch means what it meant when the
    image was built. `check`: the check of published files;
    `check_given`: the one where a sha256 was given (None: the same). `progress` is called on the
    caller's thread, about five times a second during a download. `limit`: bytes that all models may
    take; unused ones are removed for a new one. Models that were found are in use until `close`.
    """

    def __init__(
        self,
        root: Path,
        sources: Mapping[str, AnySource],
        progress: Callable[[Progress], None],
        *,
        caches: Sequence[Path] = (),
        baked: Path | None = None,
        check: Check = "stamp",
        check_given: Check | None = None,
        limit: int | None = None,
        offline: bool = False,
        now: Callable[[], float] = time.monotonic,
        sizes: PieceSizes | None = None,
    ) -> None:
        self._root = root / "models"
        self._baked = None if baked is None else baked / "models"
        self._roots = [self._root] if self._baked is None else [self._baked, self._root]
        self._inventories = [Inventory(each) for each in (baked, root) if each is not None]
        self._offline = offline
        self._cached = CachedModels(caches)
        self._sources = sources
        self._downloads = Downloads(Eviction(root, limit), progress, now, sizes)
        self._check = check
        self._check_given = check_given or check
        self._marks: dict[Path, UsageMark] = {}

    def close(self) -> None:
        """End the use of all models. Safe at any time."""
        self._release(set(self._marks))

    def ensure(
        self, reference: Reference, *, revision: str = "main", sha256: str | None = None
    ) -> StoredModel:
        """Return the model, checked, after downloading it if it is not on this machine.

        `sha256`: the one that the file must have, in hexadecimal. Raises StartError:
        ModelUnavailable, ModelCorrupt, ModelUnsupported, DownloadFailed, DiskFull or ConfigError.
        """
        return self._ensure(_WantedFile(reference, revision, _lower(sha256), read_header))

    def ensure_adapter(
        self, reference: Reference, *, revision: str = "main", sha256: str | None = None
    ) -> Stored[AdapterHeader]:
        """Return the file of a LoRA adapter by the rules of `ensure`, and with its errors."""
        return self._ensure(_WantedFile(reference, revision, _lower(sha256), read_adapter))

    def inspect(
        self, reference: Reference, *, revision: str = "main", sha256: str | None = None
    ) -> Inspection:
        """Read a model's header without fetching its weights.

        The header comes from this machine if the model is here, else from its server. `sha256`: by
        it a stored model of an https address is found. Raises StartError as `ensure` does.
        """
        with as_start_errors(f"reading {reference}"):
            return self._inspect(_WantedFile(reference, revision, _lower(sha256), read_header))

    def _inspect(self, wanted: _WantedFile[Header]) -> Inspection:
        reference, revision = wanted.reference, wanted.revision
        if (path := reference.local_path) is not None:
            return inspect_file(path, "file", str(path))
        source = self._sources[reference.source]
        baked = self._baked_entry(source, wanted)
        if baked is not None and baked.here():
            return inspect_file(baked.path, "image", _name_of(reference, baked))
        if cached := self._in_a_cache(source, replace(wanted, sha256=None)):
            return inspect_file(cached.path, "cache", cached.source)
        known, _ = self._known(source, wanted)
        if known is None or not known.here():
            self._require_network(reference, reference.version(revision, wanted.sha256))
            remote = source.resolve(reference, revision, sha256=wanted.sha256)
            places = self._entries(remote[0])
            known = next((each for each in places if each.here()), None)
            if known is None:
                name = _name_of(reference, places[-1])
                return inspect_remote(source, remote, reference.source, name)
        where = "image" if self._is_baked(known) else "volume"
        return inspect_file(known.path, where, _name_of(reference, known))

    def companion(self, model: StoredModel, name: str) -> Path:
        """Return a small file of the repository and commit of a model, fetching it if need be.

        The model's reference has to be in a repository. Raises StartError as `ensure` does.
        """
        assert model.commit is not None
        with as_start_errors(f"finding {name}"):
            return self._companion(model.reference.companion(name), model.commit, name)

    def _companion(self, reference: Reference, commit: str, name: str) -> Path:
        cached = self._cached.companion(reference.folder, commit, name)
        if cached is not None:
            return cached
        for root in self._roots:
            entry = StoreEntry(root / reference.folder, commit, f"{COMPANIONS}/{name}")
            if entry.published("full") is not None:
                return entry.path
        self._require_network(reference, commit)
        source = self._sources[reference.source]
        (remote,) = source.resolve(reference, commit)
        if remote.size > _MOST_COMPANION_BYTES:
            raise ConfigError(f"{remote} is {remote.size:,} bytes long, which no such file is.")
        self._fetch_all(source, [(entry, remote)], None)
        return entry.path

    # Finding a file, from the nearest place to the farthest.

    def _ensure(self, wanted: _WantedFile[T]) -> Stored[T]:
        with as_start_errors(f"finding {wanted.reference}"):
            return self._found(wanted)

    def _found(self, wanted: _WantedFile[T]) -> Stored[T]:
        reference = wanted.reference
        if (path := reference.local_path) is not None:
            return _local(path, wanted)
        if reference.needs_sha256 and wanted.sha256 is None:
            raise ConfigError(
                f"MODEL is the address {reference}, and MODEL_SHA256 is not set. Set it to the "
                "sha256 of the file (`sha256sum` prints it): an address does not say what it "
                "should hold.",
                param="MODEL_SHA256",
            )
        source = self._sources[reference.source]
        if (baked := self._in_the_image(source, wanted)) is not None:
            return baked
        if (cached := self._in_a_cache(source, wanted)) is not None:
            return cached
        before, found = set(self._marks), set[Path]()
        try:
            model = self._from_source(source, wanted)
            found.add(model.path)
            if not model.fetched:
                log.info("using %s from the store, %s", model.source, model.path)
            return model
        finally:  # other files were marked only while they were checked
            self._release(set(self._marks) - before - found)

    def _in_the_image(self, source: AnySource, wanted: _WantedFile[T]) -> Stored[T] | None:
        """Return the model that was baked into the image, whole and undamaged."""
        try:
            model = self._published(self._baked_entry(source, wanted), wanted)
        except ModelCorrupt as exc:
            log.warning("the image's model is not used: %s", exc)
            return None
        if model is not None:
            log.info("using %s from the image, %s", model.source, model.path)
        return model

    def _baked_entry(self, source: AnySource, wanted: _WantedFile[T]) -> StoreEntry | None:
        """Return the entry that the image's store knows for a file, which need not be there."""
        return None if self._baked is None else self._noted(self._baked, source, wanted)

    def _in_a_cache(self, source: AnySource, wanted: _WantedFile[T]) -> Stored[T] | None:
        """Return the model from a cache that has it whole.

        Only a hash that was asked for is computed.
        """
        if (cacheable := source.cacheable(wanted.reference)) is None:
            return None
        cached = self._cached.find(cacheable, wanted.revision)
        if cached is None:
            return None
        try:
            model = _local(cached.path, wanted)
        except ModelCorrupt as exc:
            log.warning("the cached model is not used: %s", exc)
            return None
        name = f"{cached.repo}/{cached.file}@{cached.commit}"
        log.info("using %s from the cache, %s", name, cached.path)
        return replace(
            model, sha256=wanted.sha256 or cached.sha256, source=name, commit=cached.commit
        )

    def _from_source(self, source: AnySource, wanted: _WantedFile[T]) -> Stored[T]:
        """Return the published model, after asking its source if need be."""
        reference, revision = wanted.reference, wanted.revision
        known, settled = self._known(source, wanted)
        if settled and (model := self._published(known, wanted)):
            return model
        self._require_network(reference, reference.version(revision, wanted.sha256))
        try:
            # With a copy at hand a server that is down is not worth half a minute of start-up.
            remote = source.resolve(
                reference, revision, sha256=wanted.sha256, brief=known is not None
            )
        except DownloadFailed as exc:
            if model := self._published(known, wanted):
                log.warning("using %s as it was last seen, because %s", model.source, exc)
                return model
            raise
        *_, entry = places = self._entries(remote[0])
        _check_hashable(entry, wanted.sha256, source)
        if wanted.sha256 and remote[0].sha256:
            what = f"{reference.folder}/{entry.file} on {source.title}"
            compare_hash(what, remote[0].sha256, wanted.sha256)
        looked_at = {self._baked_entry(source, wanted), known if settled else None}
        here = (self._published(each, wanted) for each in places if each not in looked_at)
        model = next(filter(None, here), None)
        if model is None:
            model = self._fetched(source, remote, wanted)
        if entry != known and model.path == entry.path:
            remember(entry, reference, revision)
        return model

    def _known(self, source: AnySource, wanted: _WantedFile[T]) -> tuple[StoreEntry | None, bool]:
        """Return the entry that the volume knows for a file, and whether no server has to be asked.

        That is so for a commit, whose content never changes, and offline.
        """
        fixed = source.place(wanted.reference, wanted.revision, wanted.sha256)
        settled = fixed is not None or self._offline or is_commit(wanted.revision)
        return self._noted(self._root, source, wanted), settled

    def _noted(self, root: Path, source: AnySource, wanted: _WantedFile[T]) -> StoreEntry | None:
        """Return the entry below `root` of content that cannot change, or that a note names."""
        folder = root / wanted.reference.folder
        fixed = source.place(wanted.reference, wanted.revision, wanted.sha256)
        if fixed is not None:
            return StoreEntry(folder, fixed.commit, fixed.file)
        return recall(folder, wanted.reference, wanted.revision)

    def _published(self, entry: StoreEntry | None, wanted: _WantedFile[T]) -> Stored[T] | None:
        """Return the published model; None where a part is missing or was damaged since."""
        if entry is None:
            return None
        self._hold(entry)
        check = self._check_for(wanted.sha256)
        # Their headers are read only once, below.
        hashes = [part.published(check, look_inside=False) for part in entry.parts()]
        if None in hashes:
            return None
        path, sha256 = entry.path, str(hashes[0])
        try:
            header = wanted.read(path)
        except ModelCorrupt as exc:
            log.warning("the stored model is damaged: %s", exc)
            return None
        except ModelUnavailable as exc:
            if isinstance(exc.__cause__, FileNotFoundError):  # removed since
                return None
            raise
        reference = wanted.reference
        if wanted.sha256 is not None:
            _check_hashable(entry, wanted.sha256, self._sources[reference.source])
            compare_hash(str(path), sha256, wanted.sha256)
        return Stored(
            path,
            header,
            sha256,
            _name_of(reference, entry),
            fetched=False,
            reference=reference,
            commit=entry.commit,
            entries=() if check == "full" else tuple(entry.parts()),
        )

    def _fetched(
        self, source: AnySource, remote: Sequence[RemoteFile], wanted: _WantedFile[T]
    ) -> Stored[T]:
        """Download the missing parts of a model and return it. Raises as `ensure` does."""
        pairs = [(self._entries(each)[-1], each) for each in remote]
        log.info("fetching %s to %s", _name_of(wanted.reference, pairs[0][0]), self._root)
        fetched = self._fetch_all(source, pairs, wanted.sha256)
        entry = pairs[0][0]
        model = self._published(entry, wanted)
        if model is None:
            raise ModelCorrupt(
                f"{entry.path} was damaged as soon as it was published.", permanent=False
            )
        return replace(model, fetched=fetched)

    def _fetch_all(
        self,
        source: AnySource,
        pairs: Sequence[tuple[StoreEntry, RemoteFile]],
        expected: str | None,
    ) -> bool:
        """Download the missing parts that no other commit has, one after the other.

        Returns whether this process downloaded any: other workers may have done so meanwhile.
        """
        check = self._check_for(expected)
        missing = [pair for pair in pairs if pair[0].published(check) is None]
        for entry, _ in missing:
            self._check_inside(entry)
            with writing(entry.path):
                entry.path.parent.mkdir(parents=True, exist_ok=True)
        self._hold(pairs[0][0])
        missing = [pair for pair in missing if not self._downloads.shared(*pair, check)]
        begun = any(entry.sidecar(".part").exists() for entry, _ in pairs)
        if len(missing) == len(pairs) and not begun:
            check_served(source, [each for _, each in missing])
        if len(missing) > 1:
            self._downloads.plan(missing)
        fetched = [
            self._downloads.fetch(source, entry, each, expected=expected, check=check)
            for entry, each in missing
        ]
        return any(fetched)

    # Parts

    def _require_network(self, reference: Reference, version: str) -> None:
        """Raise ModelUnavailable, naming the models that are here, if the store is offline."""
        if not self._offline:
            return
        models = [each for inventory in self._inventories for each in inventory.models()]
        there = [each for each in models if not each.missing and is_repository(each.repo)]
        same = [each for each in there if each.repo == reference.folder]
        shown = (same or there)[:_MOST_SHOWN]
        named = [f"{each.repo}/{each.file} at {each.commit}" for each in shown]
        more = f" and {len(there) - len(named)} more" if len(there) > len(named) else ""
        raise ModelUnavailable(
            f"{reference} at {version!r} is not on this machine as a whole, and with "
            f"HF_HUB_OFFLINE nothing is fetched. "
            f"{' and '.join(map(str, self._roots))} {'has' if len(self._roots) == 1 else 'have'} "
            f"{', '.join(named) or 'no model'}{more}. Set MODEL (and MODEL_REVISION) to a model "
            "that is there, or have this one fetched without HF_HUB_OFFLINE first."
        )

    def _entries(self, remote: RemoteFile) -> list[StoreEntry]:
        """Return the places of a file: that of the image if it has any, then the volume's."""
        return [StoreEntry(root / remote.repo, remote.commit, remote.file) for root in self._roots]

    def _is_baked(self, entry: StoreEntry) -> bool:
        """Return whether it is in the image's store, and so is only read."""
        baked = self._baked
        return baked is not None and baked != self._root and entry.folder.is_relative_to(baked)

    def _check_for(self, expected: str | None) -> Check:
        return self._check if expected is None else self._check_given

    def _hold(self, entry: StoreEntry) -> None:
        """Mark the model as used before it is checked, so that no process removes it meanwhile."""
        if self._is_baked(entry):
            return
        path = entry.path
        if path not in self._marks and path.parent.is_dir():
            self._marks[path] = UsageMark(path)
            self._marks[path].begin()

    def _release(self, paths: set[Path]) -> None:
        for path in paths:
            self._marks.pop(path).close()

    def _check_inside(self, entry: StoreEntry) -> None:
        root = self._root.resolve()
        if not entry.path.resolve().is_relative_to(root):
            raise ConfigError(f"{entry.path} lies outside of {root}. Check for symbolic links.")


def _lower(sha256: str | None) -> str | None:
    return sha256.lower() if sha256 else None


def _name_of(reference: Reference, entry: StoreEntry) -> str:
    """Return a stored file's name for messages: repository, file and commit, or the reference."""
    if not reference.in_repository:
        return str(reference)
    return f"{reference.folder}/{entry.file}@{entry.commit}"


def _local(path: Path, wanted: _WantedFile[T]) -> Stored[T]:
    """Return a file of this machine, read and checked.

    Raises ModelCorrupt, and what `wanted.read` raises.
    """
    header = wanted.read(path)
    if wanted.sha256 is not None:
        compare_hash(str(path), hash_of(path), wanted.sha256)
    return Stored(path, header, wanted.sha256, str(path), fetched=False, reference=wanted.reference)


def _check_hashable(entry: StoreEntry, expected: str | None, source: AnySource) -> None:
    """Raise ConfigError where one sha256 was given for a model of several files."""
    if expected is not None and len(entry.parts()) > 1:
        raise ConfigError(
            f"{entry.file} is the first part of a split model, and MODEL_SHA256 is of one file. "
            f"Unset it: the parts are checked against {source.title}'s own hashes. MODEL_REVISION "
            "with a commit pins them.",
            param="MODEL_SHA256",
        )
