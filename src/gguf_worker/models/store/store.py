"""Models on a volume: each of them whole, checked, and published in one step, or not there at all.

    <root>/models/<org>/<repo>/<commit>/<file>          a published model
                                       /<file>.json     its manifest: size, sha256, where it came from
                                       /<file>.part     a download under way, and
                                       /<file>.part.json  what it is a download of
                                       /<file>.lock.<n> who fetches it, or did last
                                       /<file>.bad      found damaged after it was published
                                       /<file>.gone     being removed
                                       /<file>.use.<process>  who uses it, or did last
                                       /.beside/<file>  what goes with its models, such as a chat template
                              /resolved.json            what was last meant by each reference
    <root>/models/+url/sha256/<sha256>/<file>           a model that came from an https address

How servers are asked is the business of `hub` and `web`, and what makes a file a model is `gguf`'s.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from gguf_worker.errors import ConfigError, DownloadFailed, ModelCorrupt, ModelUnavailable
from gguf_worker.models.gguf import AdapterHeader, Header, parts_of, read_adapter, read_header
from gguf_worker.models.source import (
    WEB_FOLDER,
    CachedModels,
    Hub,
    HubFile,
    HubQuant,
    LocalFile,
    Reference,
    RemoteFile,
    Web,
    WebFile,
)
from gguf_worker.models.store.download import Downloads, Progress
from gguf_worker.models.store.entry import (
    COMPANIONS,
    Check,
    StoreEntry,
    compare_hash,
    hash_of,
    read_json,
    write_json,
    writing,
)
from gguf_worker.models.store.eviction import Room
from gguf_worker.models.store.inspection import Inspection, inspect_file, inspect_remote
from gguf_worker.models.store.inventory import Inventory
from gguf_worker.models.store.usage_marks import Use

log = logging.getLogger("gguf_worker.models")

_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_SMALL = 1 << 24
"""Bytes that what goes with a model may have at most."""
_SHOWN = 10
"""Models that a message names."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A file ready to be opened. `sha256` is None for a local file that none was given for."""

    path: Path
    header: T
    sha256: str | None
    source: str
    """Where it came from: the path, or repository, file and commit."""
    fetched: bool
    """It was downloaded just now."""
    repo: str | None = None
    """The Hub's repository that it came from, and its commit; None for files of elsewhere."""
    commit: str | None = None
    entries: tuple[StoreEntry, ...] = ()
    """Of a file that was published here, and its other parts; none where every byte was read just now."""

    @property
    def files(self) -> list[Path]:
        """The file and its other parts."""
        return [self.path.with_name(name) for name in parts_of(self.path.name)]


StoredModel = Stored[Header]


class Store:
    """The models of one volume. Several processes may share it: each model is downloaded once.

    What one of the `caches` holds is used where it lies. `check`: how what is published is looked at;
    `check_given`: the same where a sha256 was given (None: likewise).
    `progress` is called on the caller's thread, about five times a second during a download. `limit`: bytes
    that all models may take; those that no worker uses make way. What was found is in use until `close`.
    """

    def __init__(
        self,
        root: Path,
        hub: Hub,
        progress: Callable[[Progress], None],
        *,
        caches: Sequence[Path] = (),
        check: Check = "stamp",
        check_given: Check | None = None,
        limit: int | None = None,
        offline: bool = False,
        web: Web | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root / "models"
        self._inventory = Inventory(root)
        self._offline = offline
        self._cached = CachedModels(caches)
        self._hub = hub
        self._web = web or Web()
        room = Room(root, limit)
        self._downloads = Downloads(hub, room, progress, now)
        self._web_downloads = Downloads(self._web, room, progress, now)
        self._check = check
        self._check_given = check_given or check
        self._uses: dict[Path, Use] = {}

    def close(self) -> None:
        """The models are used no more. Safe at any time."""
        self._release(set(self._uses))

    def ensure(
        self, reference: Reference, *, revision: str = "main", sha256: str | None = None
    ) -> StoredModel:
        """Have the model on this machine, checked, downloading it if need be.

        `sha256`, in hexadecimal, must then be the file's. Raises StartError: ModelUnavailable,
        ModelCorrupt, ModelUnsupported, DownloadFailed, DiskFull or ConfigError.
        """
        return self._have(reference, revision, sha256, read_header)

    def ensure_adapter(
        self, reference: Reference, *, revision: str = "main", sha256: str | None = None
    ) -> Stored[AdapterHeader]:
        """Have the file of a LoRA adapter on this machine, by the same rules. Raises as `ensure` does."""
        return self._have(reference, revision, sha256, read_adapter)

    def inspect(
        self, reference: Reference, *, revision: str = "main", sha256: str | None = None
    ) -> Inspection:
        """What a model's header says, without fetching its weights: from this machine where it is here, else
        from its server, as far as the header goes. `sha256`: by which one from an address is found here.

        Raises StartError as `ensure` does.
        """
        if isinstance(reference, LocalFile):
            return inspect_file(reference.path, "file", str(reference.path))
        if isinstance(reference, WebFile):
            place = StoreEntry(self._root / WEB_FOLDER, (sha256 or "").lower(), reference.name)
            if place.here():
                return inspect_file(place.beside(), "volume", str(reference))
            self._require_network(reference, sha256 or "any hash")
            web_file = self._web.describe(reference, "")
            return inspect_remote(self._web, [web_file], "web", str(reference))
        if cached := self._in_a_cache(reference, revision, None, read_header):
            return inspect_file(cached.path, "cache", cached.source)
        folder = self._root / reference.repo
        known = _recall(folder, reference, revision)
        if known is None or not known.here():
            self._require_network(reference, revision)
            remote = self._hub.resolve(reference, revision)
            known = StoreEntry(folder, remote[0].commit, remote[0].file)
            if not known.here():
                source = f"{reference.repo}/{known.file}@{known.commit}"
                return inspect_remote(self._hub, remote, "hub", source)
        source = f"{reference.repo}/{known.file}@{known.commit}"
        return inspect_file(known.beside(), "volume", source)

    def beside(self, model: StoredModel, name: str) -> Path:
        """A small file of the repository and commit that a model of the Hub came from, fetched if need be.

        Raises StartError as `ensure` does.
        """
        assert model.repo is not None
        assert model.commit is not None
        if (cached := self._cached.beside(model.repo, model.commit, name)) is not None:
            return cached
        place = StoreEntry(self._root / model.repo, model.commit, f"{COMPANIONS}/{name}")
        if place.published("full") is None:
            self._require_network(HubFile(model.repo, name), model.commit)
            remote = self._hub.find(model.repo, model.commit, name)
            if remote.size > _SMALL:
                raise ConfigError(f"{remote} is {remote.size:,} bytes long, which no such file is.")
            self._fetch_all([(place, remote)], None, self._downloads)
        return place.beside()

    def _have(
        self, reference: Reference, revision: str, sha256: str | None, read: Callable[[Path], T]
    ) -> Stored[T]:
        """What is meant, `read` and checked; what it raises as ModelCorrupt has the file fetched anew."""
        expected = sha256.lower() if sha256 else None
        if isinstance(reference, LocalFile):
            return self._local(reference.path, expected, read)
        if not isinstance(reference, WebFile):
            cached = self._in_a_cache(reference, revision, expected, read)
            if cached is not None:
                return cached
        before, found = set(self._uses), set[Path]()
        try:
            if isinstance(reference, WebFile):
                model = self._from_web(reference, expected, read)
            else:
                model = self._from_hub(reference, revision, expected, read)
            found.add(model.path)
            return model
        finally:  # other files that were looked at on the way
            self._release(set(self._uses) - before - found)

    def _local(self, path: Path, expected: str | None, read: Callable[[Path], T]) -> Stored[T]:
        header = read(path)
        if expected is not None:
            compare_hash(str(path), hash_of(path), expected)
        return Stored(path, header, expected, str(path), fetched=False)

    def _in_a_cache(
        self,
        reference: HubQuant | HubFile,
        revision: str,
        expected: str | None,
        read: Callable[[Path], T],
    ) -> Stored[T] | None:
        """The model from a cache, if one has it whole. Only a hash that was asked for is computed."""
        cached = self._cached.find(reference, revision)
        if cached is None:
            return None
        try:
            model = self._local(cached.path, expected, read)
        except ModelCorrupt as exc:
            log.warning("the cached model is not used: %s", exc)
            return None
        source = f"{cached.repo}/{cached.file}@{cached.commit}"
        log.info("using %s from the cache, %s", source, cached.path)
        return replace(
            model,
            sha256=expected or cached.sha256,
            source=source,
            repo=cached.repo,
            commit=cached.commit,
        )

    def _from_hub(
        self,
        reference: HubQuant | HubFile,
        revision: str,
        expected: str | None,
        read: Callable[[Path], T],
    ) -> Stored[T]:
        folder = self._root / reference.repo
        known = _recall(folder, reference, revision)
        # What a commit holds never changes, so there is nothing to ask the Hub.
        settled = self._offline or _COMMIT.fullmatch(revision)
        if settled and (model := self._published(reference, known, expected, read)):
            return model
        self._require_network(reference, revision)
        try:
            # With a copy at hand a Hub that is down is not worth half a minute of start-up.
            remote = self._hub.resolve(reference, revision, brief=known is not None)
        except DownloadFailed as exc:
            if model := self._published(reference, known, expected, read):
                log.warning("using %s as it was last seen, because %s", model.source, exc)
                return model
            raise
        place = StoreEntry(folder, remote[0].commit, remote[0].file)
        _check_hashable(place, expected)
        if expected and remote[0].sha256:
            compare_hash(f"{reference.repo}/{place.file} on the Hub", remote[0].sha256, expected)
        model = self._published(reference, place, expected, read)
        if model is None:
            entries = [StoreEntry(folder, each.commit, each.file) for each in remote]
            pairs = list(zip(entries, remote, strict=True))
            fetched = self._fetch_all(pairs, expected, self._downloads)
            model = self._published(reference, place, expected, read)
            if model is None:
                raise ModelCorrupt(f"{place.beside()} was damaged as soon as it was published.")
            model = replace(model, fetched=fetched)
        if place != known:
            _remember(place, reference, revision)
        return model

    def _from_web(
        self, reference: WebFile, expected: str | None, read: Callable[[Path], T]
    ) -> Stored[T]:
        if expected is None:
            raise ConfigError(
                f"MODEL is the address {reference}, and MODEL_SHA256 is not set. Set it to the sha256 of the "
                "file (`sha256sum` prints it): an address does not say what it should hold.",
                param="MODEL_SHA256",
            )
        place = StoreEntry(self._root / WEB_FOLDER, expected, reference.name)
        if model := self._published(reference, place, expected, read):
            return model
        self._require_network(reference, expected)
        remote = self._web.describe(reference, expected)
        fetched = self._fetch_all([(place, remote)], expected, self._web_downloads)
        model = self._published(reference, place, expected, read)
        if model is None:
            raise ModelCorrupt(f"{place.beside()} was damaged as soon as it was published.")
        return replace(model, fetched=fetched)

    def _require_network(self, reference: Reference, revision: str) -> None:
        """Raises ModelUnavailable, with what is here instead, where nobody is to be asked."""
        if not self._offline:
            return
        models = self._inventory.models()
        there = [each for each in models if not each.missing and each.repo != WEB_FOLDER]
        repo = reference.repo if isinstance(reference, HubQuant | HubFile) else None
        same = [each for each in there if each.repo == repo]
        named = [f"{each.repo}/{each.file} at {each.commit}" for each in (same or there)[:_SHOWN]]
        more = f" and {len(there) - len(named)} more" if len(there) > len(named) else ""
        raise ModelUnavailable(
            f"{reference} at {revision!r} is not on this machine as a whole, and with HF_HUB_OFFLINE nothing "
            f"is fetched. {self._root} has {', '.join(named) or 'no model'}{more}. Set MODEL (and "
            "MODEL_REVISION) to a model that is there, or have this one fetched without HF_HUB_OFFLINE first."
        )

    def _published(
        self,
        reference: Reference,
        place: StoreEntry | None,
        expected: str | None,
        read: Callable[[Path], T],
    ) -> Stored[T] | None:
        """The published model with all its parts, or None where one is missing or was damaged since."""
        if place is None:
            return None
        self._hold(place)
        check = self._check_for(expected)
        # What is inside of them is read once, below.
        hashes = [part.published(check, look_inside=False) for part in place.parts()]
        if None in hashes:
            return None
        path, sha256 = place.beside(), str(hashes[0])
        try:
            header = read(path)
        except ModelCorrupt as exc:
            log.warning("the stored model is damaged: %s", exc)
            return None
        if expected is not None:
            _check_hashable(place, expected)
            compare_hash(str(path), sha256, expected)
        unread = () if check == "full" else tuple(place.parts())
        found = Stored(path, header, sha256, str(reference), False, entries=unread)
        if not isinstance(reference, HubQuant | HubFile):
            return found
        source = f"{reference.repo}/{place.file}@{place.commit}"
        return replace(found, source=source, repo=reference.repo, commit=place.commit)

    def _fetch_all(
        self,
        pairs: Sequence[tuple[StoreEntry, RemoteFile]],
        expected: str | None,
        downloads: Downloads,
    ) -> bool:
        """Download what is missing, a part after the other; was there anything that no other worker did?"""
        check = self._check_for(expected)
        missing = [pair for pair in pairs if pair[0].published(check) is None]
        for place, _ in missing:
            self._check_inside(place)
            with writing(place.beside()):
                place.beside().parent.mkdir(parents=True, exist_ok=True)
        self._hold(pairs[0][0])
        if len(missing) > 1:
            downloads.plan(missing)
        fetched = [
            downloads.fetch(place, each, expected=expected, check=check) for place, each in missing
        ]
        return any(fetched)

    def _check_for(self, expected: str | None) -> Check:
        return self._check if expected is None else self._check_given

    def _hold(self, place: StoreEntry) -> None:
        """Mark the model as used before it is looked at, so that nobody takes it away meanwhile."""
        path = place.beside()
        if path not in self._uses and path.parent.is_dir():
            self._uses[path] = Use(path)
            self._uses[path].begin()

    def _release(self, paths: set[Path]) -> None:
        for path in paths:
            self._uses.pop(path).close()

    def _check_inside(self, place: StoreEntry) -> None:
        root = self._root.resolve()
        if not place.beside().resolve().is_relative_to(root):
            raise ConfigError(f"{place.beside()} lies outside of {root}. Check for symbolic links.")


def _check_hashable(place: StoreEntry, expected: str | None) -> None:
    if expected is not None and len(place.parts()) > 1:
        raise ConfigError(
            f"{place.file} is the first part of a split model, and MODEL_SHA256 is of one file. Unset it: the "
            "parts are checked against the Hub's own hashes. MODEL_REVISION with a commit pins them.",
            param="MODEL_SHA256",
        )


def _recall(folder: Path, reference: HubQuant | HubFile, revision: str) -> StoreEntry | None:
    """What a reference last meant, or what it must mean where it names a file of a commit."""
    if isinstance(reference, HubFile) and _COMMIT.fullmatch(revision):
        return StoreEntry(folder, revision, reference.file)
    entry = read_json(folder / "resolved.json").get(f"{reference}@{revision}")
    if not isinstance(entry, dict):
        return None
    commit, file = entry.get("commit"), entry.get("file")
    if not isinstance(commit, str) or not isinstance(file, str) or not _COMMIT.fullmatch(commit):
        return None
    return StoreEntry(folder, commit, file)


def _remember(place: StoreEntry, reference: HubQuant | HubFile, revision: str) -> None:
    """Note what a reference means, for a start without the Hub; a read-only volume may lack it."""
    entry = {"commit": place.commit, "file": place.file}
    try:
        path = place.folder / "resolved.json"
        write_json(path, read_json(path) | {f"{reference}@{revision}": entry})
    except OSError as exc:
        log.warning("could not note what %s means: %s", reference, exc)
