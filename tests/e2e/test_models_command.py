"""`python -m gguf_worker models` as people and programs start it, with a volume and a Hub."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from tests.child_process import python
from tests.fake_hub import COMMIT, FakeHub
from tests.tiny_repository import NAME, REPO

pytestmark = pytest.mark.e2e


@pytest.fixture
def environ(fake_hub: FakeHub, tmp_path: Path) -> Mapping[str, str]:
    """Return the settings of the command: an empty volume and the fake Hub."""
    return {"VOLUME_PATH": str(tmp_path), "HF_ENDPOINT": fake_hub.url}


def _started(
    environ: Mapping[str, str], *arguments: str, stderr: int = subprocess.PIPE
) -> AbstractContextManager[subprocess.Popen[str]]:
    command = ("-m", "gguf_worker", "models", *arguments)
    return python(*command, environ=environ, stderr=stderr, before=_heed_interrupts)


def _heed_interrupts() -> None:
    """Let Ctrl-C end this process, as at a terminal; one started in the background ignores it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _done(environ: Mapping[str, str], *arguments: str) -> tuple[int, str, str]:
    with _started(environ, *arguments) as child:
        out, err = child.communicate(timeout=60)
        return child.returncode, out, err


def test_a_model_goes_from_the_hub_to_the_volume_and_away_again(
    environ: Mapping[str, str], model_bytes: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "gguf-worker" / "models" / REPO / COMMIT / NAME
    code, out, err = _done(environ, "pull", REPO)
    assert (code, out) == (0, f"{path}\n"), err
    code, out, _ = _done(environ, "list", "--json")
    assert [each["path"] for each in json.loads(out)["models"]] == [str(path)]
    code, out, _ = _done(environ, "verify", "--all", "--json")
    assert (code, json.loads(out)["sound"]) == (0, True)
    code, out, err = _done(environ, "rm", REPO)
    assert code == 2  # there is no terminal to ask at
    assert "--yes" in err
    code, out, _ = _done(environ, "rm", REPO, "--yes", "--json")
    assert (code, json.loads(out)["freed_bytes"]) == (0, len(model_bytes))
    assert not path.exists()


def test_a_remote_model_is_inspected_by_a_part_of_its_bytes(
    environ: Mapping[str, str], fake_hub: FakeHub, model_bytes: bytes
) -> None:
    code, out, err = _done(environ, "inspect", REPO, "--fit", "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["header"]["vocabulary"] == 150_000
    assert facts["fit"]["context"]["value"] > 0
    assert fake_hub.sent_bytes == facts["fetched_bytes"] < len(model_bytes) / 4


def test_an_interrupted_pull_ends_cleanly_and_the_next_one_goes_on(
    environ: Mapping[str, str], fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.bytes_per_second = len(model_bytes) / 3
    with _started(environ, "pull", REPO) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if ": 30 %" in line:
                break
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=20)
    assert (child.returncode, out) == (130, "")
    assert "Traceback" not in err
    code, out, _ = _done(environ, "list", "--json")
    (leftover,) = json.loads(out)["leftovers"]
    assert leftover["kind"] == "partial"
    assert not leftover["in_use"]
    fake_hub.bytes_per_second = None
    began = time.monotonic()
    code, _, err = _done(environ, "pull", REPO)
    assert code == 0, err
    assert time.monotonic() - began < 15  # the lease of the killed one holds nobody up
    assert fake_hub.downloads()[-1].range == f"bytes={leftover['size']}-"


def test_a_model_that_is_being_fetched_is_not_pruned(
    environ: Mapping[str, str], fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.bytes_per_second = len(model_bytes) / 4
    with _started(environ, "pull", REPO) as child:
        assert child.stderr is not None
        for line in child.stderr:
            if ": 20 %" in line:
                break
        code, out, _ = _done(environ, "prune", "--keep-gb", "0", "--yes", "--json")
        assert (code, json.loads(out)["removed"]) == (0, [])
        child.communicate(timeout=30)
        assert child.returncode == 0
    assert fake_hub.sent_bytes == len(model_bytes)


def test_a_pull_that_waits_for_another_shows_its_progress(
    environ: Mapping[str, str], fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.bytes_per_second = len(model_bytes) / 5
    with _started(environ, "pull", REPO) as first, _started(environ, "pull", REPO) as second:
        said = [each.communicate(timeout=60) for each in (first, second)]
        assert (first.returncode, second.returncode) == (0, 0)
    assert len(fake_hub.downloads()) == 1
    for _, err in said:
        assert any(f"{tenth} %" in err for tenth in (30, 40, 50, 60, 70)), err
    assert sum("was here already" in err for _, err in said) == 1


def _shown(screen: IO[bytes]) -> Iterator[bytes]:
    """Yield what is written to a terminal, until no process has it open for writing."""
    with contextlib.suppress(OSError):
        while data := screen.read(65536):
            yield data


def test_a_person_at_a_terminal_sees_a_bar(
    environ: Mapping[str, str], fake_hub: FakeHub, model_bytes: bytes
) -> None:
    fake_hub.bytes_per_second = len(model_bytes) / 2
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        wide = {**environ, "TERM": "xterm", "COLUMNS": "120"}
        with _started(wide, "pull", REPO, stderr=theirs) as child:
            os.close(theirs)
            shown = b"".join(_shown(screen))
            assert child.wait(timeout=30) == 0
    text = shown.decode()
    assert NAME in text
    assert "of 42.3 MB" in text
    assert "MB/s" in text
    assert "\u2501" in text
